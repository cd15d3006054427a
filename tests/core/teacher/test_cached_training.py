"""Training from a cache: with every id the same losses as live, with some a real tail; and all that is refused."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distillctl.core.config import Config
from distillctl.core.data.corpus import cache_directory
from distillctl.core.distillation import distil
from distillctl.core.errors import DataError, RunError
from distillctl.core.losses.term import LossBatch
from distillctl.core.models.loading import save_model
from distillctl.core.planning.plan import plan
from distillctl.core.progress import SilentReporter
from distillctl.core.store.completion import VERIFIED
from distillctl.core.teacher import capture as capturing
from distillctl.core.teacher.cached import CachedTeacher
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.teacher.rows import Layout
from tests.runs import Notes, StopAt, ctrl_c, record, student_bytes
from tests.runs import run_config as run
from tests.tiny import Tiny, distance, file_bytes, make_trainer, tiny_teacher, weights_of

CACHED = "teacher.mode=cached"


def cached(tiny: Tiny, path: Path, *settings: str, k: int | None = 32, cache: Path | None = None) -> Config:
    more = [f"teacher.cache_dir={cache or path.parent / 'cache'}", f"teacher.top_k={'null' if k is None else k}"]
    return tiny.config(path, CACHED, *more, *settings)


def losses(outcome: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith("loss_")} for row in outcome.run.step_metrics()]


@pytest.mark.parametrize(
    ("steps", "settings"),
    [(50, ()), (20, ("training.gradient_accumulation_steps=2", "objective.jsd.temperature=2"))],
)
def test_with_every_id_the_losses_are_the_live_teachers(
    tiny: Tiny, tmp_path: Path, steps: int, settings: tuple[str, ...]
) -> None:
    given = (f"training.max_steps={steps}", "training.dropout_rate=0.1", "objective.jsd.gating=true", *settings)
    live = run(tiny.config(tmp_path / "live", *given))
    found = run(cached(tiny, tmp_path / "cached", *given, k=len(tiny.tokenizer)))
    assert len(losses(found)) == steps
    for one, other in zip(losses(live), losses(found), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert [row["teacher_tail_mass"] for row in found.run.step_metrics()] == [0.0] * steps


def test_half_precision_would_not_be_that_close(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a dense row is in single precision."""
    pack = Layout.pack

    def halved(self: Layout, logits: torch.Tensor, labels: torch.Tensor) -> Any:
        rows = pack(self, logits, labels)
        rows["logits"] = rows["logits"].astype("float16")
        return rows

    # weights with which a step's error is large enough to grow within 50 steps
    settings = ("training.max_steps=50", "objective.focal.weight=0.3", "objective.jsd.weight=[0.7,0.2]")
    settings += ("objective.max_auxiliary_share=0.3", "objective.jsd.gating=false")
    live = run(tiny.config(tmp_path / "live", *settings))
    monkeypatch.setattr(Layout, "pack", halved)
    found = run(cached(tiny, tmp_path / "cached", *settings, k=len(tiny.tokenizer)))
    apart = [abs(a["loss_jsd"] - b["loss_jsd"]) for a, b in zip(losses(live), losses(found), strict=True)]
    assert max(apart) > 1e-5


def test_a_tail_is_logged_and_the_record_says_what_the_cache_is(tiny: Tiny, tmp_path: Path) -> None:
    reporter = Notes()
    outcome = distil(cached(tiny, tmp_path / "run"), reporter)
    facts = record(tmp_path / "run")["teacher_cache"]
    masses = [row["teacher_tail_mass"] for row in outcome.run.step_metrics()]
    assert all(mass is not None and 0.3 < mass < 0.95 for mass in masses)
    # Every example once: the mean over the run is the mean over the cache, which k was measured on.
    tokens = [row["target_tokens"] or 0 for row in outcome.run.step_metrics()]
    steps = [b - a for a, b in zip([0, *tokens], tokens, strict=False)]
    mean = sum(m * t for m, t in zip(masses, steps, strict=True) if m is not None) / tokens[-1]
    assert mean == pytest.approx(facts["tail_mass"], rel=1e-4)
    assert facts["fidelity_tokens"] == facts["target_tokens"] == tokens[-1]
    assert facts["top_k"] == 32 and facts["vocabulary"] == len(tiny.tokenizer)
    assert facts["teacher"] == record(tmp_path / "run")["fingerprints"]["teacher"]
    assert 0 < facts["difference_from_live"] < 2e-3
    assert facts["bytes_per_token"] < 32 * 4 + 8 + 6
    assert record(tmp_path / "run")["seconds"]["teacher cache"] > 0
    assert any("k=32: gradient cosine" in line and "hides at most" in line for line in reporter.lines)


def test_the_teacher_is_run_once_for_all_epochs_and_runs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cached(tiny, tmp_path / "first"))
    seen: list[int] = []
    logits = LiveTeacher.logits

    def counted(self: LiveTeacher, ids: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(len(ids))
        return logits(self, ids, *others)

    monkeypatch.setattr(LiveTeacher, "logits", counted)
    before = file_bytes(tmp_path / "cache")
    run(cached(tiny, tmp_path / "second", "training.num_train_epochs=2", "seed=4"))
    assert sum(seen) <= 48 + VERIFIED  # the measuring of k, and the sample
    assert file_bytes(tmp_path / "cache") == before


def test_more_records_are_added_to_what_is_there(tiny: Tiny, tmp_path: Path) -> None:
    small = run(cached(tiny, tmp_path / "small", "data.max_train_samples=16"))
    assert record(small.run.path)["teacher_cache"]["examples"] == 16
    rows = (tmp_path / "cache/shard-00000.rows").read_bytes()
    whole = run(cached(tiny, tmp_path / "whole"))
    assert record(whole.run.path)["teacher_cache"]["examples"] == 48
    assert (tmp_path / "cache/shard-00000.rows").read_bytes() == rows
    again = run(cached(tiny, tmp_path / "again", cache=tmp_path / "other"))
    for one, other in zip(losses(whole), losses(again), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_cache_may_hold_both_precisions_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    run(cached(tiny, tmp_path / "one", "data.max_train_samples=16", "training.bf16=true"))
    assert record(tmp_path / "one")["teacher_cache"]["precision"] == "bf16"
    run(cached(tiny, tmp_path / "two"))
    facts = record(tmp_path / "two")["teacher_cache"]
    assert (facts["precision"], facts["examples"]) == ("bf16, float32", 48)


def test_without_a_directory_the_cache_is_named_after_what_it_is_of(tiny: Tiny, tmp_path: Path) -> None:
    names = set()
    settings = ([], ["teacher.top_k=16"], ["objective.jsd.temperature=2"], ["data.max_source_length=40"])
    for number, more in enumerate(settings):
        run(tiny.config(tmp_path / str(number), CACHED, "teacher.top_k=32", "training.max_steps=1", *more))
        names.add(record(tmp_path / str(number))["teacher_cache"]["directory"])
    assert len(names) == 4
    assert {Path(name).parent for name in names} == {cache_directory() / "teacher"}
    for name in names:
        shutil.rmtree(name)


def other_teacher(tiny: Tiny, path: Path) -> Path:
    save_model(tiny_teacher(tiny.tokenizer, seed=8), tiny.tokenizer, path)
    return path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["teacher.top_k=16"], "top k 32 there, 16 here"),
        (["data.max_source_length=40"], "max source length 64 there, 40 here"),
        (["data.max_target_length=8"], "max target length 20 there, 8 here"),
        (["objective.jsd.temperature=2"], "temperature 1.0 there, 2.0 here"),
        (["teacher"], "teacher "),
    ],
)
def test_a_cache_of_something_else_leaves_an_older_run_as_it_was(
    tiny: Tiny, tmp_path: Path, settings: list[str], words: str
) -> None:
    run(cached(tiny, tmp_path / "run"))
    before = file_bytes(tmp_path)
    if settings == ["teacher"]:
        settings = [f"teacher.model={other_teacher(tiny, tmp_path.parent / (tmp_path.name + '-teacher'))}"]
    with pytest.raises(DataError, match="a cache of something else") as caught:
        run(cached(tiny, tmp_path / "run", *settings), overwrite=True)
    assert words in str(caught.value)
    assert caught.value.exit_code == 3
    assert file_bytes(tmp_path) == before


def test_a_flipped_byte_ends_the_run_before_it_begins(tiny: Tiny, tmp_path: Path) -> None:
    run(cached(tiny, tmp_path / "run"))
    file = tmp_path / "cache/shard-00000.rows"
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged teacher cache \(shard-00000\.rows: not the bytes"):
        run(cached(tiny, tmp_path / "next"))
    assert not (tmp_path / "next").exists()


def test_the_live_teacher_is_asked_whether_the_cache_is_right(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in (32, len(tiny.tokenizer)):
        run(cached(tiny, tmp_path / f"run{k}", k=k, cache=tmp_path / f"cache{k}"))
        logits = LiveTeacher.logits
        with monkeypatch.context() as patch:
            patch.setattr(LiveTeacher, "logits", lambda self, *batch, logits=logits: 1.5 * logits(self, *batch))
            with pytest.raises(DataError, match=r"live teacher gives other probabilities than its cache \(by up to"):
                run(cached(tiny, tmp_path / "next", k=k, cache=tmp_path / f"cache{k}"))


def test_a_teacher_without_finite_logits_is_not_captured(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = LiveTeacher.logits
    monkeypatch.setattr(LiveTeacher, "logits", lambda self, *batch: logits(self, *batch) / 0.0)
    with pytest.raises(RunError, match="the teacher's logits are not finite"):
        run(cached(tiny, tmp_path / "run", k=len(tiny.tokenizer)))
    assert not (tmp_path / "cache/cache.json").exists()


def test_a_disk_too_small_is_known_beforehand(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("distillctl.core.store.writer.shutil.disk_usage", lambda path: usage)
    with pytest.raises(RunError, match=r"needs 0 MiB more, and 0 MiB are free\. Free some"):
        run(cached(tiny, tmp_path / "run"))


def stop_capture(monkeypatch: pytest.MonkeyPatch, act: Any, after: int) -> None:
    """Small batches and shards, and ``act`` in the place of the teacher once ``after`` batches are done."""
    monkeypatch.setattr("distillctl.core.store.writer.SHARD_BYTES", 8000)
    batches = capturing.batches

    def few(examples: Any, width: int) -> Any:
        for number, batch in enumerate(batches(examples, width, most=6)):
            if number == after:
                act()
            yield batch

    monkeypatch.setattr(capturing, "batches", few)


def test_a_capture_that_was_killed_goes_on(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power() -> None:
        raise RuntimeError("as if the power had gone")

    with monkeypatch.context() as patch:
        stop_capture(patch, power, after=5)
        with pytest.raises(RuntimeError):
            run(cached(tiny, tmp_path / "run"))
    kept = {name: content for name, content in file_bytes(tmp_path / "cache").items() if name.endswith(".rows")}
    assert kept
    assert not (tmp_path / "run").exists()
    plan_line = plan(cached(tiny, tmp_path / "run"), SilentReporter()).facts["teacher cache"]
    assert str(plan_line).startswith("k=32; ") and "48 examples" not in str(plan_line)
    outcome = run(cached(tiny, tmp_path / "run"))
    assert record(tmp_path / "run")["teacher_cache"]["examples"] == 48
    after = file_bytes(tmp_path / "cache")
    assert all(after[name] == content for name, content in kept.items())
    whole = run(cached(tiny, tmp_path / "whole", cache=tmp_path / "whole-cache"))
    for one, other in zip(losses(whole), losses(outcome), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_ctrl_c_keeps_the_shard_in_progress(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stop_capture(patch, press, after=1)
        with pytest.raises(KeyboardInterrupt):
            run(cached(tiny, tmp_path / "run"))
    line = plan(cached(tiny, tmp_path / "run"), SilentReporter()).facts["teacher cache"]
    assert str(line).startswith("k=32; 42 examples to capture first")


def test_a_plan_captures_nothing(tiny: Tiny, tmp_path: Path) -> None:
    line = plan(cached(tiny, tmp_path / "run"), SilentReporter()).facts["teacher cache"]
    assert str(line).startswith("k=32; 48 examples to capture first, 0.1 MiB")
    assert not (tmp_path / "cache").exists()
    assert "teacher cache" not in plan(tiny.config(tmp_path / "run"), SilentReporter()).facts


def _captures(arguments: tuple[Config, Any]) -> int:
    config, barrier = arguments
    torch.set_num_threads(1)
    barrier.wait(60)
    return int(record(run(config).run.path)["teacher_cache"]["examples"])


def test_two_processes_capture_into_one_directory(tiny: Tiny, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        barrier = manager.Barrier(2)
        work = [(cached(tiny, tmp_path / name), barrier) for name in ("one", "two")]
        assert pool.map(_captures, work, chunksize=1) == [48, 48]
    assert student_bytes(tmp_path / "one") == student_bytes(tmp_path / "two")


def test_a_cached_run_resumes_to_the_same_student(tiny: Tiny, tmp_path: Path, stop_at: StopAt) -> None:
    settings = ("training.num_train_epochs=2", "training.dropout_rate=0.1")
    run(cached(tiny, tmp_path / "whole", *settings))
    stop_at(4, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(cached(tiny, tmp_path / "parts", *settings))
    run(cached(tiny, tmp_path / "parts", *settings), resume=True)
    assert student_bytes(tmp_path / "parts") == student_bytes(tmp_path / "whole")


def test_too_many_ids_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"teacher\.top_k=9,999: teacher and student share \d+ ids"):
        run(cached(tiny, tmp_path / "run", k=9999))


def test_k_is_chosen_where_none_is_given(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no number of ids that would be smaller than dense logits keeps the gradient"):
        run(cached(tiny, tmp_path / "run", k=None))  # a random teacher is nearly flat
    monkeypatch.setattr("distillctl.core.teacher.choice.COSINE", 0.5)
    run(cached(tiny, tmp_path / "run", k=None))
    facts = record(tmp_path / "run")["teacher_cache"]
    assert facts["top_k"] in (2, 4, 8, 16, 32, 64, 128)
    assert facts["gradient_cosine"] >= 0.5


def test_no_cache_is_made_where_no_term_reads_the_teacher(tiny: Tiny, tmp_path: Path) -> None:
    run(cached(tiny, tmp_path / "run", "objective.jsd.weight=0"))
    assert not (tmp_path / "cache").exists()
    assert "teacher_cache" not in record(tmp_path / "run")


def test_padded_vocabularies_are_cut_as_a_live_teachers_are(tiny: Tiny, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    save_model(tiny_teacher(tiny.tokenizer, seed=3, vocab_size=448), tiny.tokenizer, wide)
    model = f"teacher.model={wide}"
    student = f"student.model={tiny.teacher}"
    live = run(tiny.config(tmp_path / "live", model, student))
    found = run(cached(tiny, tmp_path / "cached", model, student, k=len(tiny.tokenizer)))
    for one, other in zip(losses(live), losses(found), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_record_says_where_the_teacher_came_from_and_is_else_the_same(tiny: Tiny, tmp_path: Path) -> None:
    run(cached(tiny, tmp_path / "run"))
    run(tiny.config(tmp_path / "live"))
    assert set(record(tmp_path / "run")) - set(record(tmp_path / "live")) == {"teacher_cache"}


def test_its_model_is_none_and_a_batch_is_on_the_labels_device(tiny: Tiny, tmp_path: Path) -> None:
    trainer = make_trainer(cached(tiny, tmp_path / "run"))
    teacher = trainer.stepper.guides.teacher
    assert isinstance(teacher, CachedTeacher)
    assert teacher.model is None and teacher.has_tail
    inputs = trainer.stepper.loader.load(2)
    micro, batch = inputs.micro_batches[0], inputs.loss_batches[0]
    full = trainer.stepper._with_teacher(batch, micro)
    assert isinstance(full, LossBatch) and full.teacher_top is not None and full.teacher_logits is None
    gold = (full.teacher_top.ids == batch.labels.unsqueeze(-1)).sum(dim=-1)
    assert torch.equal(gold[batch.valid], torch.ones_like(gold[batch.valid]))
    before = weights_of(trainer.stepper.student)
    trainer.stepper.take(2)
    assert distance(before, weights_of(trainer.stepper.student)) > 0

"""Trainings and the bank on disk: made once, read by every later run, refused before an older run is touched."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.config import Config
from distillctl.core.data.corpus import cache_directory
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.errors import DataError
from distillctl.core.models.loading import save_model
from distillctl.core.planning.plan import plan
from distillctl.core.progress import SilentReporter
from distillctl.core.store.completion import VERIFIED
from tests.runs import record, student_bytes
from tests.runs import run_config as run
from tests.tiny import RECORDS, Tiny, file_bytes, tiny_teacher


def banked(tiny: Tiny, path: Path, *settings: str) -> Config:
    """A run of two steps with its bank beside it."""
    return tiny.config(path, f"encoder.cache_dir={path.parent / 'bank'}", "training.max_steps=2", *settings)


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and its bank in ``bank`` beside it; tests never write to them."""
    path = tmp_path_factory.mktemp("made") / "run"
    run(banked(tiny, path))
    return path


def test_the_record_says_what_the_bank_is_and_costs(tiny: Tiny, made: Path) -> None:
    facts = record(made)["bank"]
    bank = made.parent / "bank"
    assert facts["directory"] == str(bank)
    assert facts["examples"] == RECORDS["train"]
    assert 0 < facts["golds"] == facts["stored_golds"] <= RECORDS["train"]
    assert facts["width"] == 16 and facts["precision"] == "float32"
    assert facts["bytes"] == sum(file.stat().st_size for file in bank.iterdir())
    assert facts["bytes_per_token"] == pytest.approx(facts["bytes"] / facts["stored_tokens"])
    assert 0 < facts["difference_from_live"] < 4.9e-4
    assert record(made)["seconds"]["bank"] > 0
    assert "bank" not in record(run(tiny.config(made.with_name("none"), *OFF)).run.path)


OFF = ("objective.semantic.weight=0", "objective.contrastive.weight=0", "training.max_steps=1")


def test_later_runs_read_what_is_there_and_end_the_same(
    tiny: Tiny, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    states = FrozenEncoder.gold_states

    def counted(self: FrozenEncoder, labels: Any) -> Any:
        encoded.append(len(labels))
        return states(self, labels)

    monkeypatch.setattr(FrozenEncoder, "gold_states", counted)
    before = file_bytes(made.parent / "bank")
    again = made.with_name("again")
    run(banked(tiny, again))
    assert sum(encoded) == VERIFIED
    assert file_bytes(made.parent / "bank") == before
    assert student_bytes(again) == student_bytes(made)


def test_a_plan_says_what_would_be_encoded_and_encodes_nothing(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    golds = record(made)["bank"]["golds"]
    line = plan(banked(tiny, tmp_path / "run"), SilentReporter()).facts["embedding bank"]
    assert line == f"{golds} of {golds} golds to encode first, 0.0 MiB"
    assert list(tmp_path.iterdir()) == []
    assert "embedding bank" not in plan(tiny.config(tmp_path / "run", *OFF), SilentReporter()).facts


def test_a_bank_of_something_else_leaves_an_older_run_as_it_was(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    before = file_bytes(made.parent)
    other = tmp_path / "teacher"
    save_model(tiny_teacher(tiny.tokenizer, seed=8), tiny.tokenizer, other)
    for setting, words in (
        ("data.max_target_length=8", "max target length 20 there, 8 here"),
        (f"teacher.model={other}", "encoder .* there, .* here; table .* there, .* here"),
    ):
        with pytest.raises(
            DataError, match=rf"a bank of something else \({words}\)\. Choose another encoder\.cache_dir"
        ):
            run(banked(tiny, made, setting), overwrite=True)
    assert file_bytes(made.parent) == before


def test_without_a_directory_the_bank_is_in_the_users_cache(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    run(tiny.config(tmp_path / "run", "training.max_steps=2"))
    facts = record(tmp_path / "run")["bank"]
    assert Path(facts["directory"]).parent == cache_directory() / "banks"
    assert facts["stored_golds"] >= facts["golds"] == record(made)["bank"]["golds"]


def _opens(arguments: tuple[Config, Any]) -> int:
    config, barrier = arguments
    barrier.wait(120)
    return int(record(run(config).run.path)["bank"]["stored_golds"])


@pytest.mark.slow
def test_two_processes_capture_into_one_bank(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        barrier = manager.Barrier(2)
        work = [(banked(tiny, tmp_path / name), barrier) for name in ("one", "two")]
        golds = record(made)["bank"]["golds"]
        assert pool.map(_opens, work, chunksize=1) == [golds, golds]
    assert student_bytes(tmp_path / "one") == student_bytes(tmp_path / "two")

"""``distillctl evaluate``: any model on any split, the teacher beside it, and no prediction made twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import BartConfig, BartForConditionalGeneration

from distillctl import cli
from distillctl.core import scoring
from distillctl.core.assessment import find_subject
from distillctl.core.config import Config
from distillctl.core.data.corpus import file_corpus
from distillctl.core.data.records import read_jsonl, write_jsonl
from distillctl.core.evaluation import decoding
from distillctl.core.evaluation.evaluate_assertions import rescore
from distillctl.core.execution import sandbox
from distillctl.core.run_dir import RunDirectory
from tests.core.execution.shelf import install_shelf, skip_without_sandbox
from tests.runs import record
from tests.tiny import Tiny, file_bytes

Out = pytest.CaptureFixture[str]
ALL = 10  # records of the tiny corpus's validation split
SYSTEMS = ["most frequent assertion", "previous assertion", "teacher", "student"]


@pytest.fixture
def run(uninterrupted: Path, tmp_path: Path) -> Path:
    """A finished run of this test's own, scored on 3 records of validation by its training."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of inputs of each decoding that is asked for."""
    asked: list[int] = []
    original = decoding.decode_groups

    def decode_groups(model: Any, tokenizer: Any, examples: Any, *rest: Any, **options: Any) -> Iterator[Any]:
        asked.append(len(examples))
        return original(model, tokenizer, examples, *rest, **options)

    monkeypatch.setattr(scoring, "decode_groups", decode_groups)
    return asked


def test_a_run_is_scored_on_all_of_a_split(run: Path, capsys: Out) -> None:
    assert cli.run(["evaluate", str(run)]) == 0
    metrics, rows = RunDirectory.open(run).metrics("validation"), RunDirectory.open(run).predictions("validation")
    assert metrics["counts"]["samples"] == len(rows) == ALL
    assert list(metrics["beside"]) == SYSTEMS[:3]
    assert {"f1", "chrf", "token_accuracy", "non_empty"} <= metrics["beside"]["teacher"].keys()
    assert metrics["decoding"] == {"num_beams": 1, "max_new_tokens": 20, "bf16": False}
    assert metrics["fingerprints"].keys() == {"model", "settings", "tokenizer", "records"}
    assert (metrics["compiles"], metrics["tests_pass"]) == ("not measured", "not measured")
    again = rescore(rows)
    assert again.rows == rows
    assert {name: metrics[name] for name in again.metrics} == again.metrics
    assert all("<extra_id_0>" in row["input"] for row in rows)
    assert record(run)["evaluations"]["validation"]["records"] == ALL
    assert record(run)["status"] == "finished"
    shown = capsys.readouterr().out
    systems = ("most frequent", "previous", "teacher", "student")  # a column may be narrower than its title
    for words in (*systems, f"{ALL} records of validation", "not measured", "Student by project", "Student by kind"):
        assert words in shown
    assert str(run / "evaluation/validation/metrics.json") in shown


def test_the_same_again_gives_the_same_bytes_and_decodes_no_teacher(run: Path, decoded: list[int]) -> None:
    assert cli.run(["evaluate", str(run)]) == 0
    first = file_bytes(run / "evaluation")
    decoded.clear()
    assert cli.run(["evaluate", str(run)]) == 0
    assert file_bytes(run / "evaluation") == first
    assert decoded == [0, ALL]  # the teacher's lie in the cache; the student is asked again


@pytest.mark.parametrize("groups_done", [1, 2])
def test_killed_and_started_again_it_goes_on_to_the_same_files(
    run: Path, groups_done: int, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "GROUP_EXAMPLES", 2)
    assert cli.run(["evaluate", str(run), "--no-teacher"]) == 0
    undisturbed = file_bytes(run / "evaluation")
    shutil.rmtree(run / "evaluation")
    add, added = scoring.PredictionStore.add, []

    def add_then_die(store: scoring.PredictionStore, predictions: dict[str, str]) -> None:
        add(store, predictions)
        added.append(predictions)
        if len(added) == groups_done:
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring.PredictionStore, "add", add_then_die)
    assert cli.run(["evaluate", str(run), "--no-teacher"]) == 130
    assert not (run / "evaluation/validation/metrics.json").exists()
    decoded.clear()
    assert cli.run(["evaluate", str(run), "--no-teacher"]) == 0
    assert decoded == [ALL - 2 * groups_done]
    assert file_bytes(run / "evaluation") == undisturbed


def test_options_and_settings_override_the_runs_own(run: Path) -> None:
    argv = ["evaluate", str(run), "--split", "dev", "--limit", "2", "--num-beams", "2", "--no-teacher"]
    assert cli.run(argv) == 0
    metrics = RunDirectory.open(run).metrics("dev")
    assert metrics["counts"]["samples"] == 2
    assert metrics["decoding"]["num_beams"] == 2
    assert list(metrics["beside"]) == SYSTEMS[:2]


def test_a_run_may_be_scored_elsewhere(run: Path, tmp_path: Path) -> None:
    before = file_bytes(run)
    assert cli.run(["evaluate", str(run), "-o", str(tmp_path / "out"), "--no-teacher"]) == 0
    assert file_bytes(run) == before
    assert (tmp_path / "out/evaluation/validation/metrics.json").is_file()


@pytest.mark.parametrize("spelled", ["{}", "./{}/"])
def test_a_run_named_as_its_own_output_is_written_to_as_such(
    run: Path, spelled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    assert cli.run(["evaluate", run.name, "-o", spelled.format(run.name), "--no-teacher"]) == 0
    assert RunDirectory.open(run).changed_files() == []
    assert "validation" in RunDirectory.open(run).record()["evaluations"]


def test_any_model_is_scored_on_any_records(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    before = file_bytes(tiny.teacher)
    argv = ["evaluate", str(tiny.teacher), "--data", str(tiny.corpus), "--set", "data.max_target_length=8"]
    assert cli.run([*argv, "--teacher", str(tiny.teacher)]) == 0
    assert file_bytes(tiny.teacher) == before
    metrics = json.loads((tmp_path / "results/evaluation-teacher/evaluation/validation/metrics.json").read_text())
    assert metrics["beside"]["teacher"] == metrics["scores"]
    assert "results/evaluation-teacher/evaluation/validation/predictions.jsonl" in capsys.readouterr().out


def test_records_of_the_split_alone_are_enough(run: Path, tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    chosen = file_corpus(tiny.corpus).records("validation")
    write_jsonl(tmp_path / "validation.jsonl", chosen)
    assert cli.run(["evaluate", str(run), "--data", str(tmp_path / "validation.jsonl"), "--no-teacher"]) == 0
    metrics = RunDirectory.open(run).metrics("validation")
    assert metrics["counts"]["samples"] == len(chosen) == ALL
    assert list(metrics["beside"]) == ["previous assertion"]  # the most frequent one is that of a training split


def test_another_corpus_than_the_runs_is_said(run: Path, tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    other = Path(shutil.copy(tiny.corpus, tmp_path / "other.jsonl"))
    assert cli.run(["evaluate", str(run), "--data", str(other), "--no-teacher"]) == 0
    assert f"note: the run was made with {tiny.corpus}, this is {other}" in capsys.readouterr().out


def test_what_cannot_be_scored_is_refused(run: Path, tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    shutil.rmtree(run / "student")
    cases = [
        ([str(run)], 3, "a copy without the student (archived?)"),
        ([str(tmp_path / "nowhere")], 2, "no such directory"),
        ([str(tiny.teacher), "--teacher", "x", "--no-teacher"], 2, "--teacher and --no-teacher: give one of them"),
        ([str(tiny.teacher), "--data", str(tiny.corpus), "-o", str(tiny.corpus)], 2, "File exists"),
        ([str(tiny.teacher), "--data", str(tmp_path / "no.jsonl")], 2, "no.jsonl"),
    ]
    for arguments, code, words in cases:
        assert cli.run(["evaluate", *arguments]) == code
        assert words in capsys.readouterr().err


def test_a_copy_without_weights_is_told_apart_from_a_run_under_way(run: Path, capsys: Out) -> None:
    shutil.rmtree(run / "student")
    RunDirectory.open(run).note(status="running")
    assert cli.run(["evaluate", str(run)]) == 3
    assert "the run has no student yet (its status is 'running')" in capsys.readouterr().err


def test_students_of_two_runs_are_scored_into_two_folders() -> None:
    folders = {find_subject(f"{run}/student", None, None, Config()).folder for run in ("a", "b")}
    assert folders == {Path("results/evaluation-a-student"), Path("results/evaluation-b-student")}
    assert find_subject("models/codet5p-220m", None, None, Config()).folder == Path("results/evaluation-codet5p-220m")


def test_a_model_with_too_few_positions_is_refused(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    config = BartConfig(vocab_size=len(tiny.tokenizer), max_position_embeddings=64, **heads, **sizes)
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    tiny.tokenizer.save_pretrained(tmp_path / "bart")
    argv = [
        "evaluate",
        str(tmp_path / "bart"),
        "--set",
        "data.max_source_length=192",
        "--data",
        str(tiny.corpus),
        "-o",
        str(tmp_path / "out"),
    ]
    assert cli.run(argv) == 2
    assert "data.max_source_length=192: the model reads 64 tokens at most" in capsys.readouterr().err


def test_running_predictions_needs_permission_before_anything_is_loaded(tmp_path: Path, capsys: Out) -> None:
    assert cli.run(["evaluate", str(tmp_path / "nowhere"), "--run-tests"]) == 2
    assert "add --allow-code-execution" in capsys.readouterr().err
    assert cli.run(["evaluate", str(tmp_path / "nowhere"), "--timeout", "3"]) == 2
    assert "--timeout: only with --run-tests" in capsys.readouterr().err


def test_without_a_sandbox_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out, decoded: list[int]
) -> None:
    monkeypatch.setattr(sandbox, "refusal", lambda: "namespaces: Operation not permitted")
    assert cli.run(["evaluate", str(tmp_path / "nowhere"), "--run-tests", "--allow-code-execution"]) == 2
    shown = capsys.readouterr().err
    assert "this system allows no sandbox (namespaces: Operation not permitted)" in shown
    assert decoded == []


def test_records_of_no_installed_package_cannot_be_run(run: Path, capsys: Out, decoded: list[int]) -> None:
    argv = ["evaluate", str(run), "--no-teacher", "--run-tests", "--allow-code-execution", "--unsafe-no-sandbox"]
    assert cli.run(argv) == 3
    assert "no record is of a test in an installed package" in capsys.readouterr().err
    assert decoded == []  # told before the work


@pytest.mark.parametrize("unsafe", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_predictions_are_run_and_written_down(
    unsafe: bool, run: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    if not unsafe:
        skip_without_sandbox()
    records = install_shelf(tmp_path / "site", monkeypatch)
    write_jsonl(tmp_path / "both.jsonl", [*read_jsonl(tiny.corpus).records, *records.values()])
    argv = ["evaluate", str(run), "--data", str(tmp_path / "both.jsonl"), "--run-tests", "--allow-code-execution"]
    argv += ["--no-teacher", "--max-run-tests", "30", *(["--unsafe-no-sandbox"] if unsafe else [])]
    assert cli.run(argv) == 0
    stored = RunDirectory.open(run)
    facts = stored.metrics("validation")["execution"]
    assert (facts["sandboxed"], facts["subject"], facts["drawn"]) == (not unsafe, "student", ALL + len(records))
    assert (facts["collected"], facts["run"]) == (8, 6)
    assert list(facts["systems"]) == ["gold", *SYSTEMS[:2], "student"]
    assert stored.metrics("validation")["tests_pass"] == facts["systems"]["student"]["pass_rate"]["value"]
    rows = {row["id"]: row["execution"] for row in stored.predictions("validation")}
    assert rows[records["test_fixture@1"].id]["gold"] == {"outcome": "passed", "can_fail": True}
    assert rows[records["test_fixture@1"].id]["previous assertion"] == {"outcome": "passed", "can_fail": True}
    assert rows[records["test_wrong@0"].id].keys() == {"gold"}
    shown = capsys.readouterr().out
    assert "Do the tests pass?" in shown
    assert ("NO SANDBOX" in shown) == unsafe

"""Reading a run: everything is scored anew, and what cannot be believed is refused with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.analysis.run_data import Overhead, read_run
from distillctl.core.errors import DataError, UsageError
from distillctl.core.evaluation.corpus_sums import COLUMNS
from tests.core.analysis.arms import SAMPLES, Arm, edit_json, make_run

PREDICTIONS = "evaluation/validation/predictions.jsonl"
METRICS = "evaluation/validation/metrics.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(make_run(tmp_path / "run"))


def test_a_run_is_read_and_scored(run: Path) -> None:
    data = read_run(str(run), "validation")
    assert data.path == str(run)
    assert data.finished
    assert data.sums[:, COLUMNS.index("tp")].sum() == 12
    assert len(data.rows) == len(data.clusters) == SAMPLES
    assert len(data.steps) == 90
    assert data.notes == ()
    assert data.overhead is None
    assert data.inputs == {}


def test_what_the_run_claims_is_not_read(run: Path) -> None:
    lines = [json.loads(line) for line in (run / PREDICTIONS).read_text().splitlines()]
    for row in lines:
        row |= {"tp": 1, "fp": 0, "fn": 0, "prediction": "assert nothing", "input": f"def test(): # {row['id']}"}
    (run / PREDICTIONS).write_text("".join(json.dumps(row) + "\n" for row in lines))
    edit_json(run / METRICS, lambda metrics: metrics["scores"].update(f1=99.0))
    data = read_run(str(run), "validation")
    assert data.sums[:, COLUMNS.index("tp")].sum() == 0
    assert data.inputs[lines[0]["id"]].endswith(lines[0]["id"])
    (note,) = data.notes
    assert note.startswith(f"{run}/{PREDICTIONS}: changed since metrics.json was written")


def test_inputs_cut_elsewhere_than_in_the_training_are_told(tmp_path: Path) -> None:
    settings = ["data.max_source_length=512"]
    alike = make_run(tmp_path / "alike", Arm(settings=settings, truncation={"max_source_length": 512}))
    longer = make_run(tmp_path / "longer", Arm(settings=settings, truncation={"max_source_length": 1024}))
    assert read_run(alike, "validation").notes == ()
    (note,) = read_run(longer, "validation").notes
    assert note.endswith("evaluation/validation: scored with inputs of 1024 tokens at most, trained with 512")


def lacks(name: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.update({name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lacks("distillctl"), "no provenance: it lacks the version of distillctl"),
        (lacks("distillctl", {"commit": "x"}), "it lacks the version of distillctl"),
        (lacks("fingerprints", {}), "it lacks the fingerprints of its data"),
        (lacks("status"), "it lacks its status"),
        (lambda record: record.clear(), "the version of distillctl, the fingerprints of its data, its status"),
    ],
)
def test_a_run_without_provenance_is_refused(run: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit_json(run / "run.json", change)
    with pytest.raises(DataError, match=words):
        read_run(str(run), "validation")


@pytest.mark.parametrize(
    ("group", "name", "value", "words"),
    [
        ("training", "steps", "90", "training.steps should be a whole number. Found '90'"),
        ("training", "examples", True, "training.examples should be a whole number"),
        ("seconds", "training", "45 s", "seconds.training should be a number. Found '45 s'"),
        ("hardware", "processor", ["x"], "hardware.processor should be text"),
        ("fingerprints", "teacher", {"a": 1}, "fingerprints.teacher should be text"),
        ("distillctl", "commit", 123, "distillctl.commit should be text. Found 123"),
    ],
)
def test_facts_of_another_type_are_named(run: Path, group: str, name: str, value: object, words: str) -> None:
    edit_json(run / "run.json", lambda record: record.setdefault(group, {}).update({name: value}))
    with pytest.raises(DataError, match=re.escape(f"{run}/run.json: {words}")):
        read_run(str(run), "validation")


def test_text_that_is_not_utf_8_is_bad_data(run: Path) -> None:
    for name in (PREDICTIONS, "config.yaml"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(before + b"\xe9\n")
        with pytest.raises(DataError, match="should be UTF-8"):
            read_run(str(run), "validation")
        (run / name).write_bytes(before)


def test_a_run_without_its_configuration_is_refused(run: Path) -> None:
    (run / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"config\.yaml: no provenance"):
        read_run(str(run), "validation")


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_a_run_that_did_not_finish_needs_permission(status: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Arm(status=status))
    with pytest.raises(DataError, match=f"did not finish .status {status}.*--allow-unfinished"):
        read_run(run, "validation")
    assert not read_run(run, "validation", allow_unfinished=True).finished


def test_missing_directories_are_wrong_usage(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        read_run(str(tmp_path / "nowhere"), "validation")
    with pytest.raises(UsageError, match=r"evaluation/dev: there is no such folder\. Score the run on dev first"):
        read_run(str(run), "dev")
    (run / PREDICTIONS).unlink()
    with pytest.raises(UsageError, match=r"predictions\.jsonl"):
        read_run(str(run), "validation")


@pytest.mark.parametrize(("name", "words"), [("metric_version", "metric_version"), ("decoding", "decoding settings")])
def test_an_evaluation_that_does_not_say_how_is_refused(run: Path, name: str, words: str) -> None:
    edit_json(run / METRICS, lambda metrics: metrics.pop(name))
    with pytest.raises(DataError, match=rf"metrics\.json: .*{words}"):
        read_run(str(run), "validation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction": None}, r"jsonl:1: prediction should be text"),
        ({"gold": "assert x"}, r"jsonl:1: gold should be text"),
        ({"gold": [1]}, r"jsonl:1: gold should be text"),
        ({"id": 7, "project": 8}, r"jsonl:1: id, project should be text"),
        ({"language": "cobol"}, r"jsonl: language should be python or java"),
    ],
)
def test_damaged_predictions_name_file_and_line(run: Path, change: dict[str, Any], words: str) -> None:
    first, *others = (run / PREDICTIONS).read_text().splitlines(keepends=True)
    (run / PREDICTIONS).write_text("".join([json.dumps(json.loads(first) | change) + "\n", *others]))
    with pytest.raises(DataError, match=words):
        read_run(str(run), "validation")


def test_a_cut_or_repeated_prediction_is_refused(run: Path) -> None:
    text = (run / PREDICTIONS).read_text()
    (run / PREDICTIONS).write_text(text[:-30])
    with pytest.raises(DataError, match=rf"jsonl:{SAMPLES}: not valid JSON"):
        read_run(str(run), "validation")
    (run / PREDICTIONS).write_text(text + text.splitlines()[0] + "\n")
    with pytest.raises(DataError, match="occurs twice"):
        read_run(str(run), "validation")


def test_a_cut_last_step_is_a_note_and_damage_before_it_an_error(run: Path) -> None:
    path = run / "step_metrics.csv"
    text = path.read_text()
    path.write_text(text[:-9])
    data = read_run(str(run), "validation")
    assert len(data.steps) == 89
    assert data.notes == (f"{run}/step_metrics.csv:91: the last line was cut short and is left out",)
    lines = text.splitlines(keepends=True)
    path.write_text("".join([*lines[:20], lines[20][:15] + "\n", *lines[21:]]))
    with pytest.raises(DataError, match=r"step_metrics\.csv:21: should have"):
        read_run(str(run), "validation")


def test_an_overhead_measurement_is_read(run: Path) -> None:
    (run / "analysis").mkdir()
    path = run / "analysis" / "overhead.json"
    path.write_text(json.dumps({"ratio": {"median": 1.02, "low": 1, "high": 1.05}, "other": 1}))
    assert read_run(str(run), "validation").overhead == Overhead(1.02, 1.0, 1.05, f"{run}/analysis/overhead.json")


@pytest.mark.parametrize("values", [{}, {"ratio": 1.0}, {"ratio": {"median": 1, "low": 0, "high": True}}])
def test_an_overhead_measurement_of_another_form_is_refused(run: Path, values: dict[str, Any]) -> None:
    (run / "analysis").mkdir()
    (run / "analysis" / "overhead.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"analysis/overhead\.json: should hold"):
        read_run(str(run), "validation")


@pytest.mark.parametrize("beside", [7, {"teacher": 7}, {"teacher": {"f1": "high"}}, {"teacher": {"f1": True}}])
def test_scores_of_other_systems_are_read_and_checked(run: Path, beside: Any) -> None:
    edit_json(run / METRICS, lambda values: values.update(beside={"teacher": {"f1": 40.0}}))
    assert read_run(str(run), "validation").beside == {"teacher": {"f1": 40.0}}
    edit_json(run / METRICS, lambda values: values.update(beside=beside))
    with pytest.raises(DataError, match=r"metrics\.json: beside should be scores of systems"):
        read_run(str(run), "validation")

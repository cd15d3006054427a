"""Bad input by the table: what is wrong, the exit code, and words of the one message.

Bad records and models are in the tables of tests/commands/test_train_refusals.py, bad command lines in
tests/test_cli.py, bad caches in tests/core/teacher/: each needs a small world of its own. Here are finished runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distillctl import cli
from tests.core.analysis.arms import Arm, edit_json, make_run

Spoil = Callable[[Path], object]


def log(change: Callable[[str], str]) -> Spoil:
    """Step metrics whose text is changed."""
    return lambda run: (run / "step_metrics.csv").write_text(change((run / "step_metrics.csv").read_text()))


def noted(file: str, **values: object) -> Spoil:
    """A JSON file in which somebody changed values; None removes."""

    def change(found: dict[str, object]) -> None:
        found.update(values)
        for name in [name for name, value in values.items() if value is None]:
            del found[name]

    return lambda run: edit_json(run / file, change)


def without_column(text: str) -> str:
    return "\n".join(",".join(line.split(",")[:6] + line.split(",")[7:]) for line in text.split("\n"))


def with_nan(text: str) -> str:
    lines = text.split("\n")
    cells = lines[20].split(",")
    lines[20] = ",".join([*cells[:5], "nan", "nan", *cells[7:]])
    return "\n".join(lines)


METRICS = "evaluation/validation/metrics.json"
PREDICTIONS = "evaluation/validation/predictions.jsonl"
REPORT, ANALYSE = ("report", "--baseline", "good", "--candidate", "run"), ("analyse-scaling", "run")
TABLE: dict[str, tuple[tuple[str, ...], Spoil, int, str]] = {
    "report: no run": (REPORT, shutil.rmtree, 2, "not a run directory (there is no run.json)"),
    "report: unfinished": (REPORT, noted("run.json", status="interrupted"), 3, "did not finish (status interrupted"),
    "report: no provenance": (REPORT, noted("run.json", fingerprints=None), 3, "lacks the fingerprints of its data"),
    "report: deep JSON": (
        REPORT,
        lambda run: (run / "run.json").write_text("[" * 99_999),
        3,
        "run.json: not valid JSON",
    ),
    "report: no evaluation": (
        REPORT,
        lambda run: shutil.rmtree(run / "evaluation"),
        2,
        "no such folder. Score the run",
    ),
    "report: metric version": (REPORT, noted(METRICS, metric_version=99), 3, "different metric versions"),
    "report: decoding": (REPORT, noted(METRICS, decoding={"num_beams": 4}), 3, "different decoding settings"),
    "report: samples": (
        REPORT,
        lambda run: (run / PREDICTIONS).write_text("".join((run / PREDICTIONS).read_text().splitlines(True)[1:])),
        3,
        "different sample ids",
    ),
    "report: a damaged step": (REPORT, log(lambda text: text.replace("\n20,", "\n20,x", 1)), 3, "step_metrics.csv:21"),
    "analyse: no run": (ANALYSE, shutil.rmtree, 2, "there is no such directory"),
    "analyse: a column missing": (ANALYSE, log(without_column), 3, "step_metrics.csv:1: "),
    "analyse: NaN": (ANALYSE, log(with_nan), 3, "step_metrics.csv:21: loss_total is nan"),
    "analyse: cut last line": (ANALYSE, log(lambda text: text[:-20]), 3, "the last line is cut short"),
    "analyse: empty": (ANALYSE, log(lambda text: ""), 3, "is empty: the training ended before its first step"),
    "evaluate: no student": (("evaluate", "run"), lambda run: None, 3, "the run has no student yet"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_run(folder / "good", Arm())
    make_run(folder / "run", Arm(right=range(20)))
    return folder


@pytest.mark.parametrize("what", TABLE)
def test_a_bad_input_is_one_clear_error_with_its_exit_code(
    what: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, spoil, code, words = TABLE[what]
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ") and len(error.splitlines()) <= 2
    assert "Traceback" not in error

"""Bad input by the table: what is wrong, the exit code, and words of the one message.

Bad records and models are in the tables of tests/commands/test_train_refusals.py, bad command lines in
tests/test_cli.py: each needs a small world of its own. Here are finished runs, and what a training has captured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distillctl import cli
from distillctl.core.models.loading import save_model
from tests.commands.test_train_refusals import other_ids as swap_two_ids
from tests.core.analysis.arms import Arm, edit_json, make_run
from tests.tiny import Tiny, tiny_teacher

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
    "report: data": (
        REPORT,
        lambda run: (run / PREDICTIONS).write_text(
            (run / PREDICTIONS).read_text().replace("box.size == 0", "box.x", 2)
        ),
        3,
        "different data: gold of ",
    ),
    "report: samples": (
        REPORT,
        lambda run: (run / PREDICTIONS).write_text("".join((run / PREDICTIONS).read_text().splitlines(True)[1:])),
        3,
        "different sample ids",
    ),
    "report: a damaged step": (REPORT, log(lambda text: text.replace("\n20,", "\n20,x", 1)), 3, "step_metrics.csv:21"),
    "analyse: no run in the folder": (
        ANALYSE,
        lambda run: [file.unlink() for file in run.iterdir() if file.is_file()],
        3,
        "not a run directory",
    ),
    "analyse: no folder": (ANALYSE, shutil.rmtree, 2, "there is no such directory"),
    "analyse: a column missing": (ANALYSE, log(without_column), 3, "step_metrics.csv:1: "),
    "analyse: NaN": (ANALYSE, log(with_nan), 3, "step_metrics.csv:21: loss_total is nan"),
    "analyse: cut last line": (ANALYSE, log(lambda text: text[:-20]), 3, "the last line is cut short"),
    "analyse: empty": (ANALYSE, log(lambda text: ""), 3, "is empty: the training ended before its first step"),
    "evaluate: no student": (("evaluate", "run"), noted("run.json", status="running"), 3, "has no student yet"),
    "evaluate: no weights": (("evaluate", "run"), lambda run: None, 3, "a copy without the student (archived?)"),
    "evaluate: no leave to run code": (
        ("evaluate", "run", "--run-tests"),
        lambda run: None,
        2,
        "add --allow-code-execution",
    ),
    "profile: no such config": (
        ("profile-overhead", "--baseline", "nowhere.yaml"),
        lambda run: None,
        2,
        "config 'nowhere.yaml': there is no such file",
    ),
    "profile: an uneven number of steps": (("profile-overhead", "--steps", "3"), lambda run: None, 2, "should be even"),
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


# --- what a training has captured -----------------------------------------------------------------------------------


def flipped(name: str) -> Spoil:
    """A file of the cache whose last byte has another lowest bit."""

    def spoil(cache: Path) -> None:
        content = (cache / name).read_bytes()
        (cache / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return spoil


def cut(name: str) -> Spoil:
    return lambda cache: (cache / name).write_bytes((cache / name).read_bytes()[:-7])


def whole(cache: Path) -> None:
    pass


def other_tokenizer(world: Tiny, folder: Path) -> list[str]:
    """A teacher, and with it a student, two of whose tokens have each other's ids."""
    shutil.copytree(world.teacher, folder)
    swap_two_ids(world, folder)
    return [f"teacher.model={folder}"]


def other_teacher(world: Tiny, folder: Path) -> list[str]:
    save_model(tiny_teacher(world.tokenizer, seed=5), world.tokenizer, folder)
    return [f"teacher.model={folder}"]


Settings = Callable[[Tiny, Path], list[str]]
ROWS, INDEX, ELSE = "shard-00000.rows", "shard-00000.index", "a cache of something else ({} "
CACHES: dict[str, tuple[Settings, Spoil, str]] = {
    "another teacher": (other_teacher, whole, ELSE.format("teacher")),
    "another tokenizer": (other_tokenizer, whole, ELSE.format("tokenizer")),
    "another truncation": (
        lambda world, folder: ["data.max_source_length=48"],
        whole,
        ELSE.format("max source length"),
    ),
    "another k": (lambda world, folder: ["teacher.top_k=32"], whole, ELSE.format("top k")),
    "another temperature": (lambda world, folder: ["objective.jsd.temperature=2"], whole, ELSE.format("temperature")),
    "a flipped byte in a shard": (lambda world, folder: [], flipped(ROWS), f"damaged teacher cache ({ROWS}"),
    "a missing shard": (lambda world, folder: [], lambda cache: (cache / ROWS).unlink(), f"({ROWS}: missing"),
    "a cut index": (lambda world, folder: [], cut(INDEX), f"damaged teacher cache ({INDEX}"),
    "a cut manifest": (lambda world, folder: [], cut("cache.json"), "damaged teacher cache (cache.json"),
}


@pytest.fixture(scope="module")
def captured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured") / "cache"
    assert cli.run(tiny.argv("prepare", "unused", *cached_in(folder))) == 0
    return folder


def cached_in(folder: Path) -> tuple[str, ...]:
    return ("teacher.mode=cached", "teacher.top_k=64", f"teacher.cache_dir={folder}")


@pytest.mark.parametrize("what", CACHES)
def test_a_cache_that_is_not_this_trainings_is_exit_code_3_and_nothing_is_written(
    what: str, captured: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, spoil, words = CACHES[what]
    cache = Path(shutil.copytree(captured, tmp_path / "cache"))
    spoil(cache)
    settings = (*cached_in(cache), *make(tiny, tmp_path / "teacher"))
    capsys.readouterr()
    assert cli.run(tiny.argv("train", tmp_path / "run", *settings)) == 3
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ") and len(error.splitlines()) <= 2
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()

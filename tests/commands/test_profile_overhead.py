"""``distillctl profile-overhead`` from the command line: a tiny measurement, its files, its gate, what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from distillctl import cli
from distillctl.core.analysis.run_data import read_run
from distillctl.core.profiling import overhead
from tests.core.analysis.arms import make_run
from tests.core.analysis.costs import MAIN, TERMS, times
from tests.tiny import Tiny

SET = ("data.max_source_length=64", "data.max_target_length=20", "training.bf16=false", "teacher.top_k=16")


def argv(tiny: Tiny, output: Path, *flags: str) -> list[str]:
    sets = [f"data.path={tiny.corpus}", f"teacher.model={tiny.teacher}", "logging.tensorboard=false", *SET]
    given = [part for setting in sets for part in ("--set", setting)]
    return [
        "profile-overhead",
        *given,
        "--device",
        "cpu",
        "--steps",
        "2",
        "--batch-size",
        "4",
        "-o",
        str(output),
        *flags,
    ]


@dataclass
class Shown:
    code: int
    out: str
    run: Path
    trace: Path

    @property
    def record(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.run / "analysis" / "overhead.json").read_text(encoding="utf-8"))
        return values


@pytest.fixture(scope="module")
def shown(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One real measurement, into a run's directory."""
    folder = tmp_path_factory.mktemp("profile")
    run = folder / "run"
    make_run(run)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run(argv(tiny, run, "--trace", str(folder / "traces/trace.json")))
    return Shown(code, out.getvalue(), run, folder / "traces/trace.json")


def test_it_prints_the_verdict_and_every_table(shown: Shown) -> None:
    assert shown.code == 0
    assert "candidate / baseline " in shown.out
    for title in ("Asked for", "Step times", "What each term adds", "Where the time goes", "Arms", "Teacher cache:"):
        assert title in shown.out
    assert "12 steps or more" in " ".join(shown.out.split())  # two steps make no interval


def test_the_record_says_everything_and_where_it_is_from(shown: Shown) -> None:
    record = shown.record
    assert list(record["arms"]) == ["cross-entropy", "baseline", "candidate", "candidate, live"]
    assert {one["to"] for one in record["terms"]} >= {"candidate without semantic", "candidate without jsd"}
    for arm in record["arms"].values():
        assert sum(arm["parts"].values()) == pytest.approx(arm["seconds"])
        assert arm["tokens_per_second"] > 0
    assert all(memory["kept"] > 0 and memory["step"] > 0 for memory in record["memory"].values())
    assert len(record["steps"]["main"]["candidate"]) == len(record["steps"]["target_tokens"]) == 2
    assert record["cache"]["examples"] == 16
    assert record["cache"]["capture_seconds"] > 0
    provenance = record["provenance"]
    assert provenance["distillctl"].keys() == {"version", "commit", "dirty"}
    assert {"libraries", "hardware", "measured_at", "configs"} <= provenance.keys()
    assert record["settings"]["steps"] == 2


def test_the_picture_and_the_trace_are_written(shown: Shown) -> None:
    assert (shown.run / "analysis" / "overhead.png").read_bytes().startswith(b"\x89PNG")
    names = {event.get("name") for event in json.loads(shown.trace.read_text(encoding="utf-8"))["traceEvents"]}
    assert {"student forward", "encoder forward", "focal"} <= names


def test_a_report_takes_it_from_the_run(shown: Shown) -> None:
    found = read_run(str(shown.run), "validation").overhead
    assert found is not None
    assert found.median == shown.record["ratio"]["median"]
    assert found.record == shown.record


# --- the gate -----------------------------------------------------------------------------------------------------


def made(slower: float) -> Any:
    """Stands in for measuring: a candidate that takes ``slower`` times the baseline's step."""

    def measure(baseline: Any, candidate: Any, request: Any, reporter: Any, trace: Path | None) -> overhead.Measured:
        costs = MAIN | {"candidate": MAIN["baseline"] * slower}
        return overhead.Measured(
            main=times(costs),
            terms=times(TERMS),
            target_tokens=[160] * 12,
            memory={name: {"kept": 1, "step": 1} for name in MAIN},
            cache={},
            settings={
                "shape": "embedded",
                "teacher_mode": "cached",
                "limit": request.limit,
                "batch_size": 8,
                "gradient_steps": 10,
            },
        )

    return measure


@pytest.mark.parametrize(
    ("slower", "flags", "code"),
    [(1.05, ["--check"], 0), (1.2, ["--check"], 4), (1.2, [], 0), (1.2, ["--check", "--limit", "1.3"], 0)],
)
def test_the_gate_is_the_median(
    slower: float,
    flags: list[str],
    code: int,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(overhead, "measure_overhead", made(slower))
    assert cli.run(argv(tiny, tmp_path / "out", *flags)) == code
    assert (tmp_path / "out" / "overhead.json").is_file()  # what was measured is kept either way
    if code:
        assert "candidate / baseline 1.200 (1.200 to 1.200) is above the limit of 1.10" in capsys.readouterr().err


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--set", "training.max_steps=9"], 2, "--set training.max_steps: profile-overhead sets it itself, by --steps"),
        (["--steps", "3"], 2, "--steps: should be even"),
        (["--shape", "bert"], 2, "--shape: should be embedded or codet5p"),
        (["--target-tokens", "9"], 2, "only with --shape codet5p"),
        (["--baseline", "nowhere.yaml"], 2, "nowhere.yaml"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    flags: list[str], code: int, says: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv(tiny, tmp_path / "out", *flags)) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "overhead.json").exists()


def test_configs_that_differ_in_more_than_the_objective_are_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("extends: trident.yaml\ntraining:\n  learning_rate: 0.5\n", encoding="utf-8")
    assert cli.run(argv(tiny, tmp_path / "out", "--baseline", str(other))) == 3
    assert "the arms cannot be compared: training.learning_rate of 'baseline' is 0.5" in capsys.readouterr().err
    assert not (tmp_path / "out" / "overhead.json").exists()


def test_a_trace_needs_a_file_name(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(argv(tiny, tmp_path / "out", "--trace", str(tmp_path))) == 2
    assert "should be a file. Found a folder" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("shape", ["embedded", "codet5p"])
def test_it_measures_on_a_cuda_device(shape: str, tmp_path: Path) -> None:
    flags = ["--shape", shape, "--device", "cuda", "--steps", "2", "--no-terms", "-o", str(tmp_path)]
    assert cli.run(["profile-overhead", *flags]) == 0
    record = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    assert record["provenance"]["hardware"]["accelerator"] == torch.cuda.get_device_name()
    for arm in record["arms"].values():
        assert sum(arm["parts"].values()) == pytest.approx(arm["seconds"], rel=0.05)
    assert record["memory"]["candidate, live"]["kept"] > record["memory"]["candidate"]["kept"]

"""Killed with SIGKILL anywhere and resumed each time, a run ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillctl.core.config import Config
from tests.faults.kills import CLOCK, KINDS, Moment, train_in_child
from tests.runs import record, student_bytes
from tests.tiny import Tiny, rows_of

SEED = 20261124
KILLS_OF_A_RUN = 5
SETTINGS = (
    "training.num_train_epochs=2",
    "training.dropout_rate=0.1",
    "checkpoints.save_steps=4",
    "evaluation.on_epoch_end=true",
    "teacher.mode=cached",
    "teacher.top_k=16",
)
"""12 steps of 8 examples in two epochs; checkpoints at steps 4, 6, 8 and 12; dev scored at 6 and 12."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed, and how many instants of each kind it had."""

    path: Path
    instants: dict[str, int]


@pytest.fixture(scope="module")
def undisturbed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    return Undisturbed(folder / "run", train_in_child(settings(tiny, folder), folder / "cache"))


def settings(tiny: Tiny, folder: Path) -> Config:
    return tiny.config(folder / "run", *SETTINGS)


def schedule(instants: dict[str, int], kinds: tuple[str, ...], seed: int) -> Iterator[Moment]:
    """Moments without end: the kinds in turn, the instant within a kind drawn evenly."""
    chance = random.Random(seed)
    while True:
        for kind in kinds:
            yield Moment(kind, chance.randrange(instants[kind]))


def kill_and_resume(tiny: Tiny, folder: Path, moments: Iterator[Moment], most: int, whole: Undisturbed) -> int:
    """One run, killed ``most`` times at the most, then left in peace and compared; returns how often it was killed."""
    config, killed = settings(tiny, folder), 0
    for moment in moments:
        seen = train_in_child(config, folder / "cache", moment, resume=(folder / "run/run.json").is_file())
        killed += not seen
        if seen:  # it came to its end before that moment
            break
        if killed == most:
            assert train_in_child(config, folder / "cache", resume=(folder / "run/run.json").is_file())
            break
    assert student_bytes(folder / "run") == student_bytes(whole.path)
    assert rows_of(folder / "run") == rows_of(whole.path)
    for name in ("metrics.json", "predictions.jsonl"):
        own = folder / "run/evaluation/validation" / name
        assert own.read_bytes() == (whole.path / "evaluation/validation" / name).read_bytes()
    assert record(folder / "run")["training"] == record(whole.path)["training"]
    left = [path.name for path in (folder / "run").rglob("*") if path.name.endswith((".tmp", ".lock", ".partial"))]
    assert left == []
    return killed


def test_a_run_has_instants_of_every_kind(undisturbed: Undisturbed) -> None:
    assert all(undisturbed.instants.get(kind, 0) >= 10 for kind in KINDS), undisturbed.instants


def test_killed_in_a_checkpoint_and_in_a_step_it_goes_on_to_the_same_student(
    tiny: Tiny, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    middle = Moment("checkpoint", undisturbed.instants["checkpoint"] // 2)
    assert kill_and_resume(tiny, tmp_path, iter([middle, Moment("step", 3)]), 2, undisturbed) == 2


@pytest.mark.slow
def test_killed_at_forty_moments_it_goes_on_to_the_same_student(
    tiny: Tiny, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    moments, killed, runs = schedule(undisturbed.instants, (*KINDS, CLOCK), SEED), 0, 0
    while killed < 40:
        most = min(KILLS_OF_A_RUN, 40 - killed)
        killed += kill_and_resume(tiny, tmp_path / str(runs), moments, most, undisturbed)
        runs += 1
    print(f"\n{killed} kills in {runs} runs: every student, row and score is that of the run nobody disturbed")
    assert killed == 40

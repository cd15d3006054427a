"""Small run directories made by hand with the project's own writers: no model, no training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillctl.core.analysis.comparison import Comparison, compare
from distillctl.core.analysis.run_data import read_run
from distillctl.core.config import load_config
from distillctl.core.evaluation.evaluate_assertions import rescore, write
from distillctl.core.run_dir import RunDirectory, step_metric_columns

SAMPLES = 48
TERMS = ("focal", "jsd", "semantic")
DECODING = {"num_beams": 1, "max_new_tokens": 48, "bf16": False}
_GOLDS = (
    "assert box.size == {i}",
    "assert box{i} is None",
    "self.assertEqual(box.take({i}), 'x | y')",
    "assert `<b>`{i} in box",
)


@dataclass
class Arm:
    """What a made run says. ``right`` are the samples (by number) it predicts; the others it nearly does."""

    right: Collection[int] = range(12)
    empty: Collection[int] = ()
    samples: int = SAMPLES
    files: int = 12
    seed: int = 13
    terms: tuple[str, ...] = TERMS
    steps: int = 90
    epochs: float = 3.0
    seconds: float = 45.0
    status: str = "finished"
    settings: list[str] = field(default_factory=list)
    decoding: Mapping[str, Any] = field(default_factory=lambda: DECODING)
    truncation: Mapping[str, Any] = field(default_factory=dict)
    change_row: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row
    change_step: Callable[[dict[str, float | None]], dict[str, float | None]] = lambda row: row
    record: Mapping[str, Any] = field(default_factory=dict)


def make_run(path: Path, arm: Arm | None = None) -> str:
    """Writes a run directory and returns its path as text."""
    arm = arm or Arm()
    path.mkdir(parents=True)
    run = RunDirectory(path)
    config = load_config(settings=[f"seed={arm.seed}", "output_dir=results/made", *arm.settings])
    run.write_config(config.to_dict())
    run.write_record(_record(arm, config.fingerprint()) | dict(arm.record))
    with run.step_log(arm.terms, tensorboard=False) as log:
        for step in range(1, arm.steps + 1):
            log.write(arm.change_step(step_row(step, arm)))
    rows = [arm.change_row(prediction_row(number, arm)) for number in range(arm.samples)]
    details = {"split": "validation", "decoding": dict(arm.decoding), "truncation": dict(arm.truncation)}
    write(run.evaluation("validation"), rescore(rows), details)
    return str(path)


def _record(arm: Arm, fingerprint: str) -> dict[str, Any]:
    """A run.json like those of training, without asking git and the libraries each time."""
    return {
        "status": arm.status,
        "reason": None if arm.status == "finished" else "stopped by the user",
        "started_at": "2026-01-01T00:00:00+00:00",
        "distillctl": {"version": "0.1.0", "commit": "c" * 40, "dirty": False},
        "libraries": {"python": "3.11", "torch": "2.3", "transformers": "4.41", "sacrebleu": "2.4"},
        "hardware": {"processor": "made", "cores": 2, "accelerator": None},
        "seeds": {"seed": arm.seed},
        "fingerprints": {"config": fingerprint, "data": "d" * 64, "tokenizer": "t" * 64, "teacher": "e" * 64},
        "seconds": {"training": arm.seconds},
        "training": {"steps": arm.steps, "examples": 8 * arm.steps},
    }


def prediction_row(number: int, arm: Arm) -> dict[str, Any]:
    file = number % arm.files
    gold = _GOLDS[number % len(_GOLDS)].format(i=number)
    wrong = "" if number in arm.empty else f"{gold[:-1]}_"
    return {
        "id": f"p{file % 3}/test_{file}.py::test_{number}",
        "language": "python",
        "project": f"p{file % 3}",
        "path": f"tests/test_{file}.py",
        "input_fingerprint": f"{number:032x}",
        "gold": [gold],
        "prediction": gold if number in arm.right else wrong,
    }


def step_row(step: int, arm: Arm) -> dict[str, float | None]:
    """Every column of a step: gradients every tenth, losses that fall and wobble."""
    progress = step / arm.steps
    row: dict[str, float | None] = dict.fromkeys(step_metric_columns(arm.terms), 0.5)
    row |= {"step": step, "epoch": progress * arm.epochs, "samples_seen": 8 * step}
    for place, term in enumerate(arm.terms):
        loss = (2 + place) * math.exp(-progress) * (1 + 0.1 * math.sin(7 * step + place))
        row |= {f"loss_{term}": loss, f"scale_{term}": 1.0 + place, f"weight_{term}": 0.3 + 0.1 * progress}
    if step % 10 != 1:
        row |= {name: None for name in row if name.startswith(("grad_norm_", "grad_cos_"))}
    return row


def compared(
    folder: Path, baselines: Iterable[Arm], candidates: Iterable[Arm], *, allow_unfinished: bool = False
) -> Comparison:
    """Makes the runs ``a1``, ``a2``... and ``b1``, ``b2``... in ``folder`` and compares them."""
    paths = [
        [make_run(folder / f"{letter}{number}", arm) for number, arm in enumerate(arms, start=1)]
        for letter, arms in (("a", baselines), ("b", candidates))
    ]
    first, second = (
        [read_run(path, "validation", allow_unfinished=allow_unfinished) for path in side] for side in paths
    )
    return compare(first, second, "validation")


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a JSON file as somebody with an editor would."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")

"""Running tiny trainings, reading what they leave, and stopping them on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from distillctl.core.config import Config
from distillctl.core.distillation import Outcome, distil
from distillctl.core.errors import RunError
from distillctl.core.progress import SilentReporter
from distillctl.core.training.loop import Trainer, TrainingResult
from tests.tiny import weights_of

EPOCHS = ("training.num_train_epochs=2", "training.dropout_rate=0.1", "checkpoints.save_total_limit=9")
"""Two epochs of six steps, whose dropout needs the random state back."""

Make = Callable[..., Trainer]
StopAt = Callable[[int, Callable[[], None]], None]


class Notes(SilentReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def run_config(config: Config, **options: bool) -> Outcome:
    return distil(config, Notes(), **options)


def run(trainer: Trainer) -> TrainingResult:
    return trainer.train(SilentReporter())


def train(trainer: Trainer) -> dict[str, Tensor]:
    """The student's weights after the training."""
    run(trainer)
    return weights_of(trainer.stepper.student)


def column(trainer: Trainer, name: str) -> list[float | None]:
    """A column of step_metrics.csv."""
    return [row[name] for row in trainer.run.step_metrics()]


def student_bytes(run_path: Path) -> bytes:
    return (run_path / "student/model.safetensors").read_bytes()


def record(run_path: Path) -> dict[str, Any]:
    """What run.json says."""
    values: dict[str, Any] = json.loads((run_path / "run.json").read_text())
    return values


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def kill() -> None:
    """Ends a run without any chance to save."""
    raise RunError("as if the power had gone")

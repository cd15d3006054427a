"""What is to be measured, and the settings that every arm gets for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from distillctl.core.analysis.overhead import FEWEST_BLOCKS
from distillctl.core.config.schema import Config
from distillctl.core.errors import UsageError

ShapeName = Literal["embedded", "codet5p"]
TeacherMode = Literal["cached", "live"]
STEPS = 30
STEPS_OF_CODET5P_ON_CPU = 2 * FEWEST_BLOCKS
WARM_UP = 2
"""Steps of each arm that are not timed: one in each order."""
SOURCE_TOKENS, TARGET_TOKENS = 512, 64
SET_BY = {
    "training.max_steps": "--steps",
    "training.num_train_epochs": "--steps",
    "training.per_device_train_batch_size": "--batch-size",
    "training.gradient_accumulation_steps": "--batch-size",
    "data.max_train_samples": "--steps and --batch-size",
    "teacher.mode": "--teacher-mode",
    "teacher.cache_dir": "a cache that is captured anew, to be timed",
    "training.dropout_rate": "0, so that arms draw nothing",
    "encoder.cache_dir": "a bank that is captured anew",
    "output_dir": "-o",
}
"""Settings that are the measurement's own, and what decides them."""
LENGTHS_SET_BY = {"data.max_source_length": "--source-tokens", "data.max_target_length": "--target-tokens"}
"""The same, of codet5p."""
_SHAPE = "--shape codet5p, which has models of its own and random ids"
SHAPE_SETS = dict.fromkeys(
    (
        *(f"{role}.{name}" for role in ("teacher", "student", "encoder") for name in ("model", "trusted_revision")),
        *(f"student.{name}" for name in ("init", "encoder_layers", "decoder_layers")),
        *(f"data.{name}" for name in ("path", "packages", "mask", "max_assertions_per_test", "sample_seed")),
    ),
    _SHAPE,
)
"""What codet5p reads of no configuration."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be measured.

    Attributes:
        shape: the embedded corpus and models, or the architectures of CodeT5+ with random weights.
        teacher_mode: of baseline and candidate; the candidate is measured in the other mode too.
        steps: timed steps of each arm, even; None is 30, on a CPU 12 of codet5p.
        limit: of candidate / baseline.
        batch_size: examples of a step.
        source_tokens, target_tokens: of every example; codet5p only.
        terms: measure what each term of the candidate adds, too.
    """

    shape: ShapeName = "embedded"
    teacher_mode: TeacherMode = "cached"
    steps: int | None = None
    limit: float = 1.10
    batch_size: int = 8
    source_tokens: int | None = None
    target_tokens: int | None = None
    terms: bool = True

    def check(self) -> None:
        """Raise UsageError for what cannot be measured."""
        for option, value, known in (
            ("--shape", self.shape, get_args(ShapeName)),
            ("--teacher-mode", self.teacher_mode, get_args(TeacherMode)),
        ):
            if value not in known:
                raise UsageError(f"{option}: should be {' or '.join(known)}. Found {value}")
        if self.steps is not None and (self.steps < 2 or self.steps % 2):
            raise UsageError(f"--steps: should be even: half of them are run in reverse order. Found {self.steps}")
        if not 0 < self.limit < math.inf:
            raise UsageError(f"--limit: should be a number above 0. Found {self.limit:g}")
        if self.shape == "embedded" and (self.source_tokens, self.target_tokens) != (None, None):
            raise UsageError(
                "--source-tokens, --target-tokens: only with --shape codet5p; records have lengths of theirs"
            )

    def refuse_fixed(self, settings: Iterable[str]) -> None:
        """Raise UsageError where ``--set`` names a field that the measurement decides."""
        fixed = SET_BY | (LENGTHS_SET_BY | SHAPE_SETS if self.shape == "codet5p" else {})
        for setting in settings:
            key = setting.partition("=")[0].strip()
            if key in fixed:
                raise UsageError(f"--set {key}: profile-overhead sets it itself, by {fixed[key]}")

    def settings(self, steps: int) -> dict[str, Any]:
        """What every arm's configuration gets, by dotted field name, for a number of timed steps."""
        fixed: dict[str, Any] = {
            "training.max_steps": WARM_UP + steps,
            "training.per_device_train_batch_size": self.batch_size,
            "training.gradient_accumulation_steps": 1,
            "training.dropout_rate": 0.0,
            "data.max_train_samples": (WARM_UP + steps) * self.batch_size,
            "teacher.mode": self.teacher_mode,
            "evaluation.on_epoch_end": False,
            "evaluation.limit": 1,
        }
        if self.shape == "codet5p":
            fixed["data.max_source_length"] = _given(self.source_tokens, SOURCE_TOKENS)
            fixed["data.max_target_length"] = _given(self.target_tokens, TARGET_TOKENS)
        return fixed

    def steps_on(self, device: str) -> int:
        """Timed steps on a configured device (auto, cpu, cuda, cuda:N, mps)."""
        if self.steps is not None:
            return self.steps
        on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        return STEPS_OF_CODET5P_ON_CPU if self.shape == "codet5p" and on_cpu else STEPS


def _given(value: int | None, usual: int) -> int:
    return usual if value is None else value


def must_be_alike(config: Config) -> Mapping[str, Any]:
    """Every setting that two arms have to share, by dotted name: all but the objective and what is logged."""
    values = config.to_dict()
    for name in ("output_dir", "objective", "logging", "evaluation", "checkpoints"):
        del values[name]
    del values["teacher"]["mode"], values["teacher"]["cache_dir"]
    flat: dict[str, Any] = {}
    for section, found in values.items():
        if isinstance(found, dict):
            flat |= {f"{section}.{name}": value for name, value in found.items()}
        else:
            flat[section] = found
    return flat

"""What a sweep varies: ``KEY=V1,V2`` to a field and its values, and the product of several."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.core.analysis.figures import value_text
from distillctl.core.config import parse_yaml
from distillctl.core.errors import CollectedUsageError, UsageError

SEMANTIC_SCALE = "objective.semantic_loss_scale"
_ALIASES = {"beta": SEMANTIC_SCALE, "objective.beta": SEMANTIC_SCALE, "semantic_loss_scale": SEMANTIC_SCALE}

_NOT_SWEPT = {
    "seed": "use --seeds N: each grid point is trained with each seed",
    "output_dir": "each trial has its own directory below -o DIR",
    "device": "it decides where a trial runs, not what it learns; use --device",
    "evaluation": "all trials are scored in the same way, on dev",
    "data.path": "its values would be scored on different records",
    "data.packages": "its values would be scored on different records",
    "data.mask": "its values would be scored on different records",
    "data.max_assertions_per_test": "its values would be scored on different records",
    "data.sample_seed": "all trials train on the same records",
}
"""Fields (and sections) that make no grid, each with the reason."""

Point = tuple[Any, ...]
"""One value of each axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A field by its dotted name, and the values it takes, as YAML gave them."""

    field: str
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """The name people know: without the section that most swept fields are in."""
        return self.field.removeprefix("objective.").removeprefix("training.")


def parse_grid(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of ``--grid`` options, in their order.

    Values are YAML: ``objective.beta=3,5,7``, ``training.optimizer=adamw,muon``,
    ``objective.jsd.weight=[0.7,0.2],[0.5,0.1]``. Whether a field exists and takes a value, the configuration says.

    Raises CollectedUsageError with everything that is wrong.
    """
    axes: list[Axis] = []
    problems: list[str] = []
    for text in texts:
        try:
            axis = _parse(text)
            if axis.field in {other.field for other in axes}:
                raise UsageError(f"--grid {axis.field}: is given twice; put all its values into one --grid")
            axes.append(axis)
        except UsageError as error:
            problems.append(str(error))
    if not texts:
        problems.append("--grid: nothing to vary; give KEY=V1,V2 as in objective.semantic_loss_scale=3,5,7")
    if problems:
        raise CollectedUsageError(problems)
    return tuple(axes)


def check_not_set(axes: Sequence[Axis], given: Mapping[str, Iterable[str]]) -> None:
    """Refuse (UsageError) a value for what is varied: no trial would have it.

    Args:
        given: what has a value on the command line beside the grid, each with the dotted fields that it sets.
    """
    for axis in axes:
        for name, fields in given.items():
            if any(f"{_field_of(field)}.".startswith(f"{axis.field}.") for field in fields):
                raise UsageError(f"{name}: --grid varies {axis.field}, so no trial would have that value. Leave it out")


def _field_of(key: str) -> str:
    return _ALIASES.get(key, key)


def _parse(text: str) -> Axis:
    key, separator, listed = text.partition("=")
    key = key.strip()
    if not separator or not all(key.split(".")):
        raise UsageError(f"--grid {text}: should be KEY=V1,V2 as in objective.semantic_loss_scale=3,5,7")
    field = _field_of(key)
    section = field.partition(".")[0]
    if reason := _NOT_SWEPT.get(field) or _NOT_SWEPT.get(section):
        raise UsageError(f"--grid {key}: cannot be swept: {reason}")
    values = parse_yaml(f"[{listed}]", f"--grid {key}").values
    if not isinstance(values, list) or not values:
        raise UsageError(f"--grid {key}: has no values; give some as in {key}=1,2")
    texts = [json.dumps(value) for value in values]
    if twice := [value for place, value in enumerate(texts) if value in texts[:place]]:
        raise UsageError(f"--grid {key}: {twice[0]} is given twice")
    return Axis(field, tuple(values))


def points(axes: Sequence[Axis]) -> Iterator[Point]:
    """The product of all values, the last axis moving fastest."""
    yield from itertools.product(*(axis.values for axis in axes))


def point_key(point: Point) -> str:
    """A point as text that can be looked up: values may be lists, and True is not 1."""
    return json.dumps(list(point))


def point_text(axes: Sequence[Axis], point: Point) -> str:
    """``semantic_loss_scale=3, learning_rate=0.001``."""
    return ", ".join(f"{axis.label}={value_text(value)}" for axis, value in zip(axes, point, strict=True))

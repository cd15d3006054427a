"""Every trial of a sweep with its whole configuration, made and checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.core.analysis.figures import value_text
from distillctl.core.config import Config, defaults
from distillctl.core.errors import CollectedUsageError, DataError, UsageError
from distillctl.core.sweep.grid import SEMANTIC_SCALE, Axis, Point, parse_grid, point_key, point_text, points

SPLIT = "dev"
"""Trials are scored here: a choice made on validation would spoil it for reporting."""

MOST_TRIALS = 1000
BALANCE = "objective.balance"
TRAIN_RECORDS = "data.max_train_samples"

Configure = Callable[[Mapping[str, Mapping[str, Any]]], Config]
"""The command line's configuration with dotted values laid over it, each group under the name that messages give it."""

Definition = dict[str, Any]
"""What makes two sweeps the same, as JSON holds it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training: a grid point and a seed. ``number`` counts from 0; ``name`` is its directory's."""

    number: int
    point: Point
    seed: int
    name: str
    config: Config


@dataclass(frozen=True)
class Sweep:
    """What is varied and all trials of it. ``winning``: per grid point, the configuration to train in full."""

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    definition: Definition
    winning: Mapping[str, Config]
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> list[Point]:
        """The grid points, in order."""
        return list(points(self.axes))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the definition: names the study, whatever machine works on it."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()

    def best_config(self, point: Point) -> Config:
        """The configuration that trains a grid point in full: all the data, scored on validation."""
        return self.winning[point_key(point)]

    def text(self, trial: Trial) -> str:
        """``semantic_loss_scale=3, seed=13``."""
        return f"{point_text(self.axes, trial.point)}, seed={trial.seed}"


def plan_sweep(
    configure: Configure,
    grid: Sequence[str],
    *,
    seeds: int,
    output: Path,
    fraction: float | None = None,
    train_records: int | None = None,
) -> Sweep:
    """Checks every grid point's whole configuration and lists the trials, the first seed's first.

    Args:
        configure: gives the command line's configuration with values laid over it.
        grid: ``KEY=V1,V2`` texts.
        seeds: how many seeds, from the configuration's own upwards.
        output: the sweep's folder.
        fraction: share of the training records that each trial uses, 0 to 1; None is what the configuration says.
        train_records: how many training records there are; None where that is not known yet, to check all else.

    Raises CollectedUsageError with everything that is wrong, before anything was started.
    """
    axes = parse_grid(grid)
    base = configure({})
    _check_numbers(axes, base.seed, seeds, fraction)
    seed_list = tuple(range(base.seed, base.seed + seeds))
    forced, notes = _forced_balance(axes, base)
    if fraction is not None and base.data.max_train_samples not in (None, defaults.MAX_TRAIN_SAMPLES):
        notes += (
            f"{TRAIN_RECORDS}: {base.data.max_train_samples:,} is for the best one's training; --data-fraction "
            "says how many records a trial has",
        )
    common = {
        "data.sample_seed": base.seed if base.data.sample_seed is None else base.data.sample_seed,
        "evaluation.split": SPLIT,
        **forced,
    }
    if fraction is not None and train_records is not None:
        common[TRAIN_RECORDS] = max(1, round(fraction * train_records))
    configs = _configs(configure, axes, {"sweep": common})
    in_full = _configs(configure, axes, {"sweep": _in_full(base, output, fraction) | forced})
    return Sweep(
        axes=axes,
        seeds=seed_list,
        trials=tuple(_trials(axes, seed_list, configs, output / "trials")),
        definition=_definition(axes, seed_list, configs[0]),
        winning=dict(zip(map(point_key, points(axes)), in_full, strict=True)),
        notes=notes,
    )


def _check_numbers(axes: Sequence[Axis], seed: int, seeds: int, fraction: float | None) -> None:
    if seeds < 1 or seed + seeds > 2**32:
        raise UsageError(f"--seeds: should be at least 1, and no seed above {2**32 - 1}. Found {seeds} from {seed}")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--data-fraction: should be above 0 and at most 1. Found {fraction:g}")
    if fraction is not None and any(axis.field == TRAIN_RECORDS for axis in axes):
        raise UsageError(f"--data-fraction: cannot be given while --grid varies {TRAIN_RECORDS}; leave one of them out")
    count = math.prod(len(axis.values) for axis in axes) * seeds
    if count > MOST_TRIALS:
        raise UsageError(f"--grid: {count:,} trials are too many (at most {MOST_TRIALS:,}); take fewer values or seeds")


def _trials(axes: Sequence[Axis], seeds: Sequence[int], configs: Sequence[Config], folder: Path) -> Iterator[Trial]:
    listed = [(seed, point, config) for seed in seeds for point, config in zip(points(axes), configs, strict=True)]
    width = len(str(len(listed)))
    for number, (seed, point, config) in enumerate(listed):
        name = f"{number + 1:0{width}}-{_folder_name(point_text(axes, point))}-seed={seed}"
        own = {"seed": seed, "output_dir": str(folder / name)}
        yield Trial(number, point, seed, name, config.model_copy(update=own))


def _configs(configure: Configure, axes: Sequence[Axis], common: Mapping[str, Mapping[str, Any]]) -> list[Config]:
    """One configuration a grid point. What is wrong with several points is told once."""
    found: list[Config] = []
    problems: list[str] = []
    for point in points(axes):
        own = {f"--grid {axis.field}": {axis.field: value} for axis, value in zip(axes, point, strict=True)}
        try:
            config = configure({**common, **own})
        except CollectedUsageError as error:
            problems += [message for message in error.messages if message not in problems]
            continue
        except UsageError as error:
            problems += [str(error)] if str(error) not in problems else []
            continue
        if config.fingerprint() in {other.fingerprint() for other in found}:
            problems.append(f"--grid: {point_text(axes, point)} is the same setting as an earlier point")
        found.append(config)
    if problems:
        raise CollectedUsageError(problems)
    return found


def _forced_balance(axes: Sequence[Axis], base: Config) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Band balance would rescale the semantic term to its band whatever beta is: such a sweep compares nothing."""
    fields = {axis.field for axis in axes}
    if SEMANTIC_SCALE not in fields:
        return {}, ()
    if BALANCE in fields:
        raise UsageError(
            f"--grid {BALANCE}: cannot be swept with {SEMANTIC_SCALE}, which only balance=fixed leaves as it is given"
        )
    found = base.to_dict()["objective"]["balance"]
    if found == "fixed":
        return {}, ()
    note = f"{BALANCE}: fixed instead of {found}, which would scale the semantic term itself, whatever the value"
    return {BALANCE: "fixed"}, (note,)


def _in_full(base: Config, output: Path, fraction: float | None) -> dict[str, Any]:
    """What turns a trial's settings into those of the real training: all the data, scored on validation, in full."""
    values: dict[str, Any] = {
        "output_dir": str(output / "best"),
        "evaluation.split": "validation",
        "evaluation.limit": _not_reduced(base.evaluation.limit, defaults.EVALUATION_LIMIT),
        "evaluation.dev_limit": _not_reduced(base.evaluation.dev_limit, defaults.DEV_LIMIT),
    }
    if fraction is not None and base.data.max_train_samples == defaults.MAX_TRAIN_SAMPLES:
        values[TRAIN_RECORDS] = None  # unless somebody chose a number
    return values


def _not_reduced(limit: int, usual: int) -> int:
    return limit if limit == 0 else max(limit, usual)


def _folder_name(text: str) -> str:
    """Safe on every file system, and not too long; the number before it keeps it apart from others."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", text).strip("_.")[:80]


def _definition(axes: Sequence[Axis], seeds: Sequence[int], config: Config) -> Definition:
    values = config.to_dict()
    for name in ("seed", "output_dir", "device"):  # a second worker may have another directory and device
        del values[name]
    flat = dict(_flat(values))
    for axis in axes:
        for name in [name for name in flat if name == axis.field or name.startswith(f"{axis.field}.")]:
            del flat[name]
    return {"grid": {axis.field: list(axis.values) for axis in axes}, "seeds": list(seeds), "config": flat}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Raise DataError (exit code 3) naming what differs between the sweep in a folder and the one that is asked for."""
    differences = []
    first, second = _comparable(there), _comparable(here)
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            differences.append(f"{name} {value_text(first.get(name))} there, {value_text(second.get(name))} here")
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise DataError(f"{folder}: holds another sweep: {shown}. Use its settings, or choose another -o DIR")


def _comparable(definition: Mapping[str, Any]) -> dict[str, Any]:
    grid = {f"--grid {field}": values for field, values in definition.get("grid", {}).items()}
    return {**grid, "--seeds (from seed)": definition.get("seeds"), **definition.get("config", {})}

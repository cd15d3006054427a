"""Step logs made by hand: known losses, scales, gradients and cosines, written as the training writes them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.core.run_dir import step_metric_columns
from distillctl.core.run_dir.step_table import Column

Value = float | Column


@dataclass
class Log:
    """What a log says: per term a raw loss, scale, weight and gradient norm at the logits, each a number or [steps]."""

    losses: Mapping[str, Value] = field(default_factory=lambda: {"focal": 1.0, "jsd": 0.8, "semantic": 0.2})
    scales: Mapping[str, Value] = field(default_factory=lambda: {"semantic": 5.0})
    weights: Mapping[str, Value] = field(default_factory=dict)
    norms: Mapping[str, Value] = field(default_factory=dict)
    cosines: Mapping[tuple[str, str], Value | None] = field(default_factory=dict)
    clip: Value = 1.0
    steps: int = 600
    noise: float = 0.0
    gradient_steps: int = 10
    every: int = 1

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(self.losses)

    def columns(self) -> dict[str, Column]:
        """Every column [steps], NaN where the log has a blank."""
        steps = self.every * np.arange(1, self.steps + 1)
        columns = {name: np.full(self.steps, 0.5) for name in step_metric_columns(self.terms)}
        columns |= {"step": steps, "epoch": steps / self.steps, "samples_seen": 8.0 * steps}
        random = np.random.default_rng(7)
        measured = np.arange(self.steps) % self.gradient_steps == 0
        norms = {term: self._full(self.norms.get(term, 0.01)) for term in self.terms}
        for term in self.terms:
            loss = self._full(self.losses[term]) * (1 + self.noise * random.standard_normal(self.steps))
            scale, weight = (self._full(of.get(term, 1.0)) for of in (self.scales, self.weights))
            columns |= {
                f"loss_{term}": loss,
                f"scale_{term}": scale,
                f"weight_{term}": weight,
                f"weighted_{term}": loss * scale * weight,
                f"grad_norm_{term}": np.where(measured, norms[term], np.nan),
            }
        for name in columns:
            if name.startswith("grad_cos_"):
                columns[name] = np.where(measured, 0.0, np.nan)
        for (first, second), cosine in self.cosines.items():
            values = self._full(np.nan if cosine is None else cosine)
            columns[f"grad_cos_{first}_{second}"] = np.where(measured, values, np.nan)
        for group, member in (("primary", True), ("auxiliary", False)):
            squares = [norms[term] ** 2 for term in self.terms if (term in ("focal", "jsd")) is member]
            columns[f"grad_norm_{group}"] = np.sqrt(np.sum([np.zeros(self.steps), *squares], axis=0))
        columns["auxiliary_clip"] = self._full(self.clip)
        return columns

    def _full(self, value: Value) -> Column:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), self.steps).copy()


def write_log(folder: Path, log: Log, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row) -> str:
    """Writes ``folder``/step_metrics.csv, each row of texts changed by ``change``; returns the folder."""
    columns = log.columns()
    rows = [
        change({name: "" if np.isnan(values[place]) else f"{values[place]:.9g}" for name, values in columns.items()})
        for place in range(log.steps)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "step_metrics.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return str(folder)

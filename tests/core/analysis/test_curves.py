"""Curves from step rows: which, where blank, how smooth, and the band around the core terms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillctl.core.analysis.curves import column, core_median, cosine_pairs, curve, scaled_loss, terms_of
from tests.core.analysis.arms import Arm, step_row


def rows(arm: Arm) -> list[dict[str, float | None]]:
    return [step_row(step, arm) for step in range(1, arm.steps + 1)]


def test_blanks_and_what_is_not_finite_are_left_out() -> None:
    values = [1.0, None, math.nan, math.inf, 5.0]
    found = curve([{"step": float(step), "x": value} for step, value in enumerate(values)], column("x"))
    assert (found.steps.tolist(), found.values.tolist()) == ([0, 4], [1, 5])
    assert found
    assert not curve([{"step": 1.0}], column("x"))
    assert not curve([], column("x"))


def test_gradient_columns_are_there_every_tenth_step() -> None:
    assert curve(rows(Arm(steps=40)), column("grad_norm_jsd")).steps.tolist() == [1, 11, 21, 31]


def test_terms_and_pairs_come_from_the_columns() -> None:
    made = rows(Arm(steps=1, terms=("focal", "jsd", "contrastive")))
    assert terms_of(made) == ["focal", "jsd", "contrastive"]
    assert cosine_pairs(made) == [("focal", "jsd"), ("focal", "contrastive"), ("jsd", "contrastive")]
    assert terms_of([]) == cosine_pairs([]) == []


def test_the_scaled_loss_is_scale_times_loss() -> None:
    value = scaled_loss("jsd")
    assert value({"scale_jsd": 2.0, "loss_jsd": 0.25, "weight_jsd": 9.0}) == 0.5
    assert value({"scale_jsd": None, "loss_jsd": 0.25}) is None
    assert value({}) is None


def test_short_curves_stay_and_long_ones_are_smoothed() -> None:
    short = curve([{"step": float(i), "x": float(i % 2)} for i in range(50)], column("x"))
    assert short.smooth is short.values
    long = curve([{"step": float(i), "x": float(i % 2) + (i == 500) * 1e6} for i in range(1000)], column("x"))
    assert long.smooth.shape == long.values.shape
    assert long.smooth.max() == 1
    naive = [np.median(long.values[i - 12 : i + 13]) for i in range(12, 988)]
    assert long.smooth[12:988].tolist() == naive


def test_the_core_median_is_the_middle_term() -> None:
    made = [
        {
            "step": float(i),
            **{f"loss_{term}": value for term, value in (("focal", 1.0), ("jsd", 3.0), ("semantic", 2.0))},
            **dict.fromkeys(("scale_focal", "scale_jsd", "scale_semantic"), 2.0),
            **dict.fromkeys(("weighted_focal", "weighted_jsd", "weighted_semantic"), 0.0),
        }
        for i in range(5)
    ]
    assert core_median(made).values.tolist() == [4.0] * 5
    two = [{name: value for name, value in row.items() if not name.endswith("semantic")} for row in made]
    assert core_median(two).values.tolist() == [4.0] * 5  # between 2 and 6
    one = [{name: value for name, value in row.items() if not name.endswith(("semantic", "jsd"))} for row in made]
    assert not core_median(one)
    assert not core_median([])


@pytest.mark.parametrize("missing", [0, 3])
def test_a_step_without_one_core_term_has_no_median(missing: int) -> None:
    made = rows(Arm(steps=6))
    made[missing]["loss_jsd"] = math.nan
    assert core_median(made).steps.tolist() == [row["step"] for i, row in enumerate(made) if i != missing]

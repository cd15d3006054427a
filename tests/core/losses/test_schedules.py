"""Linear schedules: ends met exactly, constants constant, nonsense refused."""

from __future__ import annotations

import math

import pytest

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.schedules import LinearSchedule


def test_linear_between_its_ends() -> None:
    schedule = LinearSchedule(0.7, 0.35)
    assert (schedule.at(0), schedule.at(1)) == (0.7, 0.35)
    assert schedule.at(0.5) == pytest.approx(0.525)
    rising = LinearSchedule(0.0, 0.35)
    assert [rising.at(p) for p in (0, 0.2, 1)] == pytest.approx([0, 0.07, 0.35])


def test_a_constant_never_moves() -> None:
    assert {LinearSchedule.constant(0.3).at(step / 7) for step in range(8)} == {0.3}


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_bad_bounds_are_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="start"):
        LinearSchedule(bad, 1)
    with pytest.raises(UsageError, match="end"):
        LinearSchedule(1, bad)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_the_run_is_refused(progress: float) -> None:
    with pytest.raises(RunError, match="Progress"):
        LinearSchedule(0, 1).at(progress)

"""The share limit: scales down only, from earlier steps, and resumes exactly."""

from __future__ import annotations

import json
import math

import pytest

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.auxiliary import ShareLimit


def test_clips_to_the_share_and_never_up() -> None:
    limit = ShareLimit(0.3)
    assert limit.clip == 1.0
    assert not limit.seeded
    limit.observe(primary=2.0, auxiliary=20.0)
    assert limit.seeded
    assert limit.clip == pytest.approx(0.3 * 2 / 20)
    small = ShareLimit(0.3)
    small.observe(primary=10.0, auxiliary=0.1)
    assert small.clip == 1.0


def test_running_norms_follow_the_steps() -> None:
    limit = ShareLimit(1.0, decay=0.75)
    limit.observe(1.0, 4.0)
    limit.observe(5.0, 8.0)
    # 0.75 * 1 + 0.25 * 5 = 2; 0.75 * 4 + 0.25 * 8 = 5
    assert limit.clip == pytest.approx(2 / 5)


def test_a_term_that_starts_at_weight_0_seeds_at_its_first_gradient() -> None:
    limit = ShareLimit(0.3)
    limit.observe(1.0, 0.0)
    assert limit.clip == 1.0
    limit.observe(1.0, 10.0)
    assert limit.clip == pytest.approx(0.03)


def test_without_primary_terms_nothing_is_clipped() -> None:
    limit = ShareLimit(0.3)
    limit.observe(0.0, 5.0)
    assert limit.clip == 1.0


def test_state_survives_json_to_the_bit() -> None:
    limit = ShareLimit(0.3)
    for step in range(1, 6):
        limit.observe(1 / (3 * step), math.pi * step)
    other = ShareLimit(0.3)
    other.load_state_dict(json.loads(json.dumps(limit.state_dict())))
    assert other.clip == limit.clip
    assert other.state_dict() == limit.state_dict()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_shares_are_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="max_auxiliary_share"):
        ShareLimit(bad)
    with pytest.raises(UsageError, match="decay"):
        ShareLimit(0.3, decay=1.0)


def test_norms_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RunError, match="auxiliary gradient norm"):
        ShareLimit(0.3).observe(1.0, math.nan)

"""How numbers are written."""

from __future__ import annotations

import pytest

from distillctl.core.analysis.figures import (
    digits_apart,
    digits_text,
    factor_text,
    interval_text,
    p_equation,
    p_text,
    percent_text,
    signed,
    steps_text,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "+0.50"), (-0.024, "-0.02"), (0.0, "0.00"), (-0.001, "0.00"), (0.004, "0.00"), (12.345, "+12.35")],
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("value", "limit", "digits"),
    [(0.4961, 0.5, 3), (0.49, 0.5, 2), (1.1004, 1.1, 4), (94.8, 95, 1), (95, 95, 0), (3, 95, 0)],
)
def test_a_miss_is_written_as_one(value: float, limit: float, digits: int) -> None:
    assert digits_apart(value, limit, {0.5: 2, 1.1: 3, 95: 0}[limit]) == digits


def test_intervals() -> None:
    assert interval_text(-0.1, 0.524) == "-0.10 to +0.52"
    assert interval_text(None, None) == "none (a single file or run)"


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.000"), (0.0123, "0.012"), (0.001, "0.001"), (0.0002, "< 0.001")])
def test_p(value: float, text: str) -> None:
    assert p_text(value) == text


def test_p_in_running_text() -> None:
    assert (p_equation(0.0123), p_equation(0.0001)) == ("p = 0.012", "p < 0.001")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ("a b", "a b"), (True, "true"), (1.0, "1.0"), ([1, "é"], '[1, "é"]'), ({}, "{}")]
)
def test_values(value: object, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.05601, "0.056x"),
        (5.0, "5x"),
        (9.94, "9.9x"),
        (17.2, "17x"),
        (1234.5, "1,234x"),
        (1e300, "> 1,000,000x"),
        (1e-300, "0x"),
    ],
)
def test_factors(value: float, text: str) -> None:
    assert factor_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.74, "0.740"), (12.0, "12.0"), (99.96, "100"), (1234.5, "1,234"), (0.0, "0.00")]
)
def test_three_digits(value: float, text: str) -> None:
    assert digits_text(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.001, "< 1 %"), (0.5, "50 %"), (0.995, "> 99 %"), (0.99, "99 %"), (1.0, "100 %")],
)
def test_percents_are_0_or_100_only_if_it_is_that(share: float, text: str) -> None:
    assert percent_text(share) == text


def test_counted_steps() -> None:
    assert (steps_text(1), steps_text(1000)) == ("1 step", "1,000 steps")

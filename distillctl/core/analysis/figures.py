"""How numbers are written in reports: the same on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import json
from typing import Any


def signed(value: float, digits: int = 2) -> str:
    """Points with their sign and two digits, or as many: ``+0.50``, ``-0.02``, ``0.00``."""
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def digits_apart(value: float, limit: float, digits: int) -> int:
    """How many digits, ``digits`` or more, keep a value that misses a limit from being written as the limit itself."""
    while round(value, digits) == limit != value:
        digits += 1
    return digits


def interval_text(low: float | None, high: float | None) -> str:
    """``-0.10 to +0.52``; where there is none, that."""
    return "none (a single file or run)" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def p_text(value: float) -> str:
    """Three digits, never 0: ``0.012``, ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equation(value: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def factor_text(value: float) -> str:
    """A ratio in two digits, large ones in full: ``0.056x``, ``5x``, ``1,230x``; beyond a million, that."""
    if value >= 1e6:
        return "> 1,000,000x"
    if value < 1e-6:
        return "0x"
    return f"{value:,.0f}x" if value >= 10 else f"{value:.2g}x"


def digits_text(value: float) -> str:
    """Three digits, large numbers in full: ``0.740``, ``12.0``, ``1,230``."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def percent_text(share: float, digits: int = 0) -> str:
    """Whole percents, or with digits; 0 and 100 only where it is exactly that."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.{digits}f} %"


def steps_text(count: int) -> str:
    """``1 step``, ``1,000 steps``."""
    return f"{count:,} step{'' if count == 1 else 's'}"


def value_text(value: Any) -> str:
    """A setting or fact as JSON, text without its quotes, nothing as a dash."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

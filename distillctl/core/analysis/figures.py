"""How numbers are written in reports: the same on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import json
from typing import Any


def signed(value: float) -> str:
    """Points with their sign and two digits: ``+0.50``, ``-0.02``, ``0.00``."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


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


def value_text(value: Any) -> str:
    """A setting or fact as JSON, text without its quotes, nothing as a dash."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

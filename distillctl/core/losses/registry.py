"""Term names and their factories. A new term is its own file and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from distillctl.core.errors import UsageError
from distillctl.core.losses.contrastive import ContrastiveTerm
from distillctl.core.losses.focal import FocalTerm
from distillctl.core.losses.jsd import JsdTerm
from distillctl.core.losses.semantic import SemanticTerm
from distillctl.core.losses.term import Term

TERMS: dict[str, Callable[..., Term]] = {
    "focal": FocalTerm,
    "jsd": JsdTerm,
    "semantic": SemanticTerm,
    "contrastive": ContrastiveTerm,
}
"""Order is the order of columns in step_metrics.csv."""


def make_term(name: str, **settings: Any) -> Term:
    """The term called ``name`` with its own settings (see each term's class).

    Raises:
        UsageError: the name is unknown, or a setting is out of range.
    """
    if name not in TERMS:
        near = difflib.get_close_matches(name, TERMS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"Unknown loss term '{name}': should be one of {', '.join(TERMS)}.{hint}")
    return TERMS[name](**settings)

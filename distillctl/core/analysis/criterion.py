"""A line of the request with what was measured and a verdict: how it is shown, and how ``--check`` demands it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distillctl.core.analysis.document import Cell, Table, Tone
from distillctl.core.errors import GateError

Verdict = Literal["met", "not met", "met, not significant", "not measured"]
MET: Verdict = "met"
NOT_MET: Verdict = "not met"
NOT_SIGNIFICANT: Verdict = "met, not significant"
NOT_MEASURED: Verdict = "not measured"
TONES: Mapping[str, Tone] = {MET: "good", NOT_MET: "bad", NOT_SIGNIFICANT: "unsure", NOT_MEASURED: "unsure"}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of the acceptance table; ``name`` and ``requirement`` are fixed, the rest is measured."""

    name: str
    requirement: str
    measured: str
    verdict: Verdict


def criteria_table(criteria: Sequence[Criterion]) -> Table:
    """Each criterion, what was measured, and the verdict."""
    rows = [
        [Cell(one.name), Cell(one.verdict, TONES[one.verdict]), Cell(one.requirement), Cell(one.measured)]
        for one in criteria
    ]
    return Table(["criterion", "verdict", "required", "measured"], rows)


def demand(criteria: Sequence[Criterion]) -> None:
    """Raise GateError, listing the others with what was measured, unless every criterion is met."""
    unmet = [f"{one.name}: {one.verdict} ({one.measured})" for one in criteria if one.verdict != MET]
    if unmet:
        raise GateError(f"{len(unmet)} of {len(criteria)} criteria are not met: {'; '.join(unmet)}")

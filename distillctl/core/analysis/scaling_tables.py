"""The figures of a run's loss scales as tables, and as the JSON object of analysis/loss_scaling.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distillctl.core.analysis.document import Cell, Table, Tone
from distillctl.core.analysis.figures import digits_text, factor_text, percent_text, steps_text
from distillctl.core.analysis.scaling import AGAINST, FIGHTING, PairFigures, Scaling, TermFigures, Window
from distillctl.core.analysis.scaling_verdicts import Assessed

SCHEMA = 1
"""Version of the JSON object; it rises when a name in it changes its meaning."""
PLACES = ("start", "middle", "end")
_NOTHING = "-"


def facts_line(assessed: Assessed) -> str:
    """Which run, how long, and over what the figures are taken; one fact or note a line."""
    run, scaling = assessed.run, assessed.scaling
    facts = [f"{scaling.rows:,} rows (steps {scaling.first_step:,} to {scaling.last_step:,})"]
    if run.beta is not None:
        facts.append(f"beta {run.beta:g}")
    facts.append(f"balance {run.balance}")
    if run.share_limit is not None:
        facts.append(f"share limit {run.share_limit:g}")
    shortened = f" ({scaling.asked:,} asked, a third of the log at most)" if scaling.shortened else ""
    measured = f"gradients by term in {steps_text(scaling.gradient_steps)}"
    means = f"Running means over {steps_text(scaling.window)}{shortened}; {measured}"
    unfinished = [f"UNFINISHED: the run's status is {run.unfinished}"] if run.unfinished else []
    notes = [f"note: {note}" for note in run.notes]
    return "\n".join([f"{run.path}: {', '.join(facts)}", means, *unfinished, *notes])


def loss_table(scaling: Scaling) -> Table:
    """Running mean and std of each term's raw and scaled loss at start, middle and end."""
    rows = []
    for term, found in scaling.terms.items():
        if found.raw == found.scaled:
            rows.append([Cell(term), Cell("raw = scaled"), *_windows(found.raw)])
        else:
            rows.append([Cell(term), Cell("raw"), *_windows(found.raw)])
            rows.append([Cell(""), Cell(f"x {_scale(found)}"), *_windows(found.scaled)])
    first = next(iter(scaling.terms.values())).raw
    columns = ["term", "loss", *(f"{place} ({first[place].first}-{first[place].last})" for place in PLACES)]
    return Table(columns, rows, numbers=3)


def _windows(found: Mapping[str, Window]) -> list[Cell]:
    return [Cell(f"{digits_text(found[place].mean)} ± {found[place].std:.2g}") for place in PLACES]


def _scale(found: TermFigures) -> str:
    first, last = found.scale
    return f"{first:.3g}" if math.isclose(first, last, rel_tol=1e-6) else f"{first:.3g} to {last:.3g}"


def gradient_table(scaling: Scaling) -> Table:
    """Each term's gradient norm at the logits at start, middle and end, and its share of the sum of norms."""
    rows = []
    for term, found in scaling.terms.items():
        norms = [found.gradient[place] for place in PLACES]
        silent: Tone = "bad" if found.silent else "plain"
        rows.append(
            [
                Cell(f"{term}{' (log only)' if found.log_only else ''}"),
                *(Cell(_NOTHING if norm is None else f"{norm.mean:.2g}", silent) for norm in norms),
                Cell(_share(found.share)),
                Cell(_share(found.share_reaching)),
            ]
        )
    return Table(["term", *PLACES, "share", "share behind the limit"], rows, numbers=5)


def pair_table(scaling: Scaling) -> Table:
    """Each two terms: how far their losses are apart, and whether their gradients pull against each other."""
    rows = []
    for (first, second), found in scaling.pairs.items():
        core = found.ratio is not None
        band: Tone = "plain" if not core else "good" if found.in_band == 1 else "bad" if not found.in_band else "unsure"
        rows.append(
            [
                Cell(f"{first} - {second}"),
                Cell(_ratio(found)),
                Cell(_share(found.in_band), band),
                Cell(_NOTHING if found.cosine is None else f"{found.cosine:+.2f}"),
                Cell(_NOTHING if found.lowest is None else f"{found.lowest:+.2f}"),
                Cell(_share(found.against if found.measured else None)),
                Cell(_share(found.fighting if found.measured else None), "bad" if found.fighting else "plain"),
            ]
        )
    columns = ["pair", "ratio", "in band", "cosine", "lowest", f"< {AGAINST:g}", f"< {FIGHTING:g}"]
    return Table(columns, rows, numbers=6)


def _ratio(found: PairFigures) -> str:
    return _NOTHING if found.ratio is None else factor_text(found.ratio)


def _share(share: float | None) -> str:
    return _NOTHING if share is None else percent_text(share)


def to_record(assessed: Assessed) -> dict[str, Any]:
    """The JSON object: every figure, verdict and sentence. Infinite figures are null."""
    run, scaling = assessed.run, asdict(assessed.scaling)
    pairs = {f"{first}-{second}": asdict(found) for (first, second), found in assessed.scaling.pairs.items()}
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run.path,
        "balance": run.balance,
        "share_limit": run.share_limit,
        "unfinished": run.unfinished,
        "headline": assessed.headline,
        "met": assessed.met,
        "verdicts": [asdict(one) for one in assessed.criteria],
        "findings": list(assessed.findings),
        "beta": asdict(assessed.advice),
        "change": list(assessed.change),
        "command": assessed.command,
        "notes": list(run.notes),
        **scaling,
        "pairs": pairs,
    }
    cleaned: dict[str, Any] = _finite(record)
    return cleaned


def _finite(value: Any) -> Any:
    """The same without infinities and NaN, which JSON does not have, and with 9 digits, as the log."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value

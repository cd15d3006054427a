"""Which lines the pictures of a training hold: for each a label, the curve, and how it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from distillctl.core.analysis.curves import Curve, column, cosine_pairs, curve, scaled_loss, terms_of

if TYPE_CHECKING:
    from distillctl.core.analysis.run_data import StepRows

# Okabe and Ito's palette: told apart with any kind of colour vision; line styles say the same once more.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, BLACK = "#56B4E9", "#D55E00", "#000000"
_TERM_STYLES = {"focal": (BLUE, "-"), "jsd": (ORANGE, "--"), "semantic": (GREEN, "-."), "contrastive": (PURPLE, ":")}
STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (SKY, "-"), (VERMILION, "--"), (BLACK, "-."))

Line = tuple[str, Curve, tuple[str, str]]
Lines = Callable[["StepRows"], Sequence[Line]]


def term_style(term: str, index: int) -> tuple[str, str]:
    """Colour and dashes of a term, the same in every picture; of one not known here by its place."""
    return _TERM_STYLES.get(term, STYLES[4 + index % 3])


def pair_style(first: str, second: str) -> tuple[str, str]:
    """Colour and dashes of a pair of terms: by name, not by place, so that it looks the same in every run."""
    known = list(combinations(_TERM_STYLES, 2))
    return STYLES[known.index((first, second)) if (first, second) in known else -1]


def _per_term(
    rows: StepRows, value: Callable[[str], Callable[[Mapping[str, float | None]], float | None]]
) -> list[Line]:
    return [(term, curve(rows, value(term)), term_style(term, index)) for index, term in enumerate(terms_of(rows))]


def scaled_losses(rows: StepRows) -> list[Line]:
    """Scale times raw loss of each term."""
    return _per_term(rows, scaled_loss)


def gradient_norms(rows: StepRows) -> list[Line]:
    """Norm of each weighted term's gradient at the logits."""
    return _per_term(rows, lambda term: column(f"grad_norm_{term}"))


def weights(rows: StepRows) -> list[Line]:
    """Weight of each term."""
    return _per_term(rows, lambda term: column(f"weight_{term}"))


def scales(rows: StepRows) -> list[Line]:
    """Scale of each term."""
    return _per_term(rows, lambda term: column(f"scale_{term}"))


def cosines(rows: StepRows) -> list[Line]:
    """Cosine of each pair of terms' gradients."""
    return [
        (f"{first} - {second}", curve(rows, column(f"grad_cos_{first}_{second}")), pair_style(first, second))
        for first, second in cosine_pairs(rows)
    ]


def step_times(rows: StepRows) -> list[Line]:
    """Seconds a step computes, and waits for data."""
    return [
        ("computing", curve(rows, column("step_seconds")), (BLUE, "-")),
        ("waiting for data", curve(rows, column("data_seconds")), (ORANGE, "--")),
    ]

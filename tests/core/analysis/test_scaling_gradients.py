"""Gradient figures against real vectors: shares, silence, totals and spreads before and after scaling."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from distillctl.core.analysis.scaling_gradients import Gradients, auxiliary_figures
from tests.core.analysis.logs import Log
from tests.core.analysis.test_scaling import run_of

FOUR = {"focal": 1.0, "jsd": 0.8, "semantic": 0.2, "contrastive": 3.0}
STEPS = np.arange(600)


def test_shares_are_of_the_sum_of_norms_before_and_behind_the_limit() -> None:
    log = Log(losses=FOUR, norms={"focal": 1.0, "jsd": 1.0, "semantic": 2.0, "contrastive": 4.0}, clip=0.25)
    found = Gradients.of(run_of(log))
    assert found.share("contrastive", reaching=False) == pytest.approx(4 / 8)
    assert found.share("contrastive", reaching=True) == pytest.approx(1 / 3.5)
    assert found.share("focal", reaching=True) == pytest.approx(1 / 3.5)


def test_what_is_logged_only_has_no_share() -> None:
    found = Gradients.of(run_of(Log(), log_only=frozenset(["jsd"])))
    assert found.share("jsd", reaching=False) is None
    assert found.share("focal", reaching=False) == pytest.approx(0.5)
    assert found.silent("jsd") == (0.0, None, None)


def test_a_silent_term_has_a_loss_and_no_gradient() -> None:
    norms = np.where((STEPS >= 200) & (STEPS < 500), 0.0, 0.02)
    found = Gradients.of(run_of(Log(norms={"semantic": norms})))
    assert found.silent("semantic") == (0.5, 201, 491)
    assert found.silent("focal") == (0.0, None, None)


@pytest.mark.parametrize("why", ["no weight", "no loss"])
def test_without_a_weight_or_a_loss_no_gradient_is_expected(why: str) -> None:
    log = Log(norms={"semantic": 0.0})
    if why == "no weight":
        log.weights = {"semantic": 0.0}
    else:
        log.losses = {**log.losses, "semantic": 0.0}
    assert Gradients.of(run_of(log)).silent("semantic") == (0.0, None, None)


def test_totals_are_those_of_the_vectors() -> None:
    random = np.random.default_rng(5)
    scales, clip = {"focal": 1.0, "jsd": 2.0, "semantic": 6.0, "contrastive": 1.0}, 0.3
    vectors = {term: random.standard_normal(9) * size for term, size in zip(FOUR, (1.0, 0.6, 3.0, 5.0), strict=True)}
    norms = {term: float(np.linalg.norm(vector)) for term, vector in vectors.items()}
    cosines = {(a, b): float(vectors[a] @ vectors[b]) / norms[a] / norms[b] for a, b in combinations(FOUR, 2)}
    found = Gradients.of(run_of(Log(losses=FOUR, scales=scales, norms=norms, cosines=cosines, clip=clip))).totals()
    core = ("focal", "jsd", "semantic")
    before = [vectors[term] / scales[term] for term in core]
    limits = {"focal": 1, "jsd": 1, "semantic": clip, "contrastive": clip}
    after = {term: limits[term] * vector for term, vector in vectors.items()}
    assert found is not None
    assert found.measured == 60
    assert found.ratio == pytest.approx(np.linalg.norm(sum(after.values())) / np.linalg.norm(sum(before)), rel=1e-6)

    def spread(parts: list[np.ndarray]) -> float:
        sizes = [float(np.linalg.norm(part)) for part in parts]
        return max(sizes) / min(sizes)

    assert found.spread_before == pytest.approx(spread(before), rel=1e-6)
    assert found.spread_after == pytest.approx(spread([after[term] for term in core]), rel=1e-6)


def test_scales_of_one_change_nothing() -> None:
    found = Gradients.of(run_of(Log(scales={}, norms={"semantic": 0.4}))).totals()
    assert found is not None
    assert (found.ratio, found.within) == (1, 1)
    assert found.spread_before == found.spread_after == pytest.approx(40)


def test_within_counts_steps() -> None:
    semantic = np.where(STEPS >= 300, 10.0, 0.05)
    found = Gradients.of(run_of(Log(norms={"semantic": semantic}))).totals()
    assert found is not None
    assert found.within == 0.5


def test_without_gradients_there_are_no_totals() -> None:
    columns = Log().columns()
    for name in columns:
        if name.startswith("grad_norm_") and name not in ("grad_norm_primary", "grad_norm_auxiliary"):
            columns[name][:] = np.nan
    run = run_of(Log())
    run = type(run)(run.path, run.terms, columns)
    found = Gradients.of(run)
    assert (found.totals(), found.share("focal", reaching=True)) == (None, None)
    assert found.silent("focal") == (0.0, None, None)


def test_the_auxiliary_gradient_against_the_primary_one() -> None:
    log = Log(losses=FOUR, norms={"focal": 3.0, "jsd": 4.0, "semantic": 30.0, "contrastive": 40.0}, clip=0.03)
    found = auxiliary_figures(run_of(log))
    assert found is not None
    assert found.terms == ("semantic", "contrastive")
    assert (found.unlimited, found.reaching) == pytest.approx((10, 0.3))
    assert (found.above, found.clipped) == (0, 1)
    loose = auxiliary_figures(run_of(Log(losses=FOUR, norms=log.norms)))
    assert loose is not None
    assert (loose.above, loose.clipped) == (1, 0)


@pytest.mark.parametrize("losses", [{"focal": 1.0, "jsd": 1.0}, {"semantic": 1.0}])
def test_one_kind_of_terms_only_has_nothing_to_compare(losses: dict[str, float]) -> None:
    assert auxiliary_figures(run_of(Log(losses=losses))) is None

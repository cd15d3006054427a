"""Verdicts and sentences: what is planted in a log is named, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distillctl.core.analysis.scaling import analyse
from distillctl.core.analysis.scaling_verdicts import Assessed, assess_scaling
from tests.core.analysis.logs import Log, Value
from tests.core.analysis.test_scaling import run_of

FOUR = {"focal": 1.0, "jsd": 0.8, "semantic": 0.2, "contrastive": 3.0}
STEPS = np.arange(600)


def assessed(log: Log, **settings: Any) -> Assessed:
    settings.setdefault("beta", 5.0 if "semantic" in log.losses else None)
    run = run_of(log, **settings)
    return assess_scaling(run, analyse(run, 100))


def verdicts(found: Assessed) -> list[str]:
    return [one.verdict for one in found.criteria]


def test_a_balanced_run_is_left_alone() -> None:
    found = assessed(Log(noise=0.1))
    assert verdicts(found) == ["met", "met", "met"]
    assert found.met
    assert (found.headline.split(":")[0], found.tone) == ("Balanced", "good")
    assert "No two terms pull against each other." in found.findings
    assert found.change[0].startswith(
        "By losses: keep beta = 5: it holds semantic within 0.5-2x of focal and jsd in 100 %"
    )
    assert found.change[1] == "By gradient norms: beta = 5, weights left out. Losses and gradients agree."
    assert found.command is None


def test_beta_100_leaves_the_band_names_semantic_and_lands_in_it() -> None:
    found = assessed(Log(scales={"semantic": 100.0}, norms={"semantic": 0.2}, noise=0.1), beta=100.0)
    assert verdicts(found) == ["not met", "not met", "not met"]
    assert found.headline.startswith("Not balanced: semantic (20x) left the band")
    assert found.findings[0] == (
        "semantic leaves the band from the first window (steps 1-100) to the last: above it, 20x the core terms' "
        "median."
    )
    assert found.change[0].startswith("By losses: beta = 4.45 instead of 100. It brings semantic midway between focal")
    assert "in 100 % of the windows (now 0 %)" in found.change[0]
    assert found.command is not None
    assert "--beta 4.45 " in found.command
    # What was recommended is balanced.
    assert assessed(Log(scales={"semantic": 4.45}, noise=0.1), beta=4.45).met


def test_a_silent_term_is_named() -> None:
    silent = {("focal", "semantic"): None, ("jsd", "semantic"): None}
    losses = {"focal": 1.0, "jsd": 0.8, "semantic": np.linspace(0.3, 0.15, 600)}
    found = assessed(Log(losses=losses, norms={"semantic": 0.0}, cosines=silent))
    assert found.headline == "Not balanced: semantic is silent: a loss without a gradient."
    assert found.findings[0].startswith("semantic is silent: its loss looks healthy (0.288 to 0.162), but its gradient")
    assert "0 in 100 % of the measured steps, 1 to 591" in found.findings[0]
    assert verdicts(found) == ["met", "met", "not met"]
    assert found.criteria[2].measured == "semantic without gradient"


def test_a_fighting_pair_is_named() -> None:
    found = assessed(Log(cosines={("focal", "semantic"): np.where(STEPS >= 300, -0.7, 0.1)}))
    assert found.headline == "Not balanced: focal and semantic fight."
    assert found.findings[0].startswith(
        "focal and semantic fight: the cosine of their gradients is below -0.5 in 50 % of the measured steps, first in "
        "step 301 (mean -0.30, lowest -0.70)."
    )
    assert not any("No two terms" in text for text in found.findings)


def test_milder_pulls_and_twins_are_told_without_alarm() -> None:
    cosines = {("focal", "semantic"): -0.3, ("semantic", "contrastive"): 0.9}
    found = assessed(Log(losses=FOUR, norms={"contrastive": 0.003}, cosines=cosines))
    assert found.tone == "good"
    text = " ".join(found.findings)
    assert "Pull against each other at times (cosine below -0.1): focal and semantic (100 % of the measured" in text
    assert "semantic and contrastive pull nearly the same way (mean cosine 0.90)" in text


def test_auxiliary_terms_that_drown_the_primary_ones() -> None:
    log = Log(losses=FOUR, norms={"semantic": 0.1, "contrastive": 0.1})
    found = assessed(log)
    assert "the auxiliary gradient drowns the primary one" in found.headline
    text = next(text for text in found.findings if text.startswith("The auxiliary gradient"))
    assert "(semantic and contrastive) is 10x the primary one at the logits (median) and drowns it" in text
    assert "9.3 to 3.5" in text
    assert found.command is not None
    assert "objective.max_auxiliary_share=0.3" in found.command
    assert verdicts(found) == ["met", "not met", "not met"]


def test_auxiliary_terms_that_are_held() -> None:
    log = Log(losses=FOUR, norms={"semantic": 0.1, "contrastive": 0.1}, clip=0.03)
    found = assessed(log, share_limit=0.3)
    text = " ".join(found.findings)
    assert (
        "10x the primary one at the logits (median) and held: 0.3x behind the share limit, which acts in 100 %" in text
    )
    assert "Behind the limit they share what is left (semantic 50 %, contrastive 50 %)" in text
    assert "drowns" not in found.headline
    assert "the share limit (0.3) is what holds it" in found.change[-1]


def test_equal_losses_with_unequal_gradients_have_two_verdicts() -> None:
    found = assessed(Log(norms={"semantic": 0.1}))
    assert verdicts(found) == ["met", "not met", "not met"]
    assert found.change[0].startswith("By losses: keep beta = 5")
    assert found.change[1].startswith("By gradient norms: beta = 0.5, weights left out. With equal losses semantic's")


def test_a_late_departure_is_told_with_its_steps() -> None:
    losses = {"focal": 1.0, "jsd": np.where(STEPS >= 400, 0.1, 0.8), "semantic": 0.2}
    found = assessed(Log(losses=losses))
    assert found.findings[0].startswith(
        "jsd leaves the band in 32 % of the windows, first in steps 344-443, last in steps 501-600: below it, 0.1x"
    )
    assert "focal and jsd are beyond 2x of each other in 32 % of the windows" in found.change[1]
    assert "objective.balance=band" in found.change[1]


def test_a_wandering_semantic_loss_is_out_of_reach_of_one_beta() -> None:
    found = assessed(Log(losses={"focal": 1.0, "jsd": 1.0, "semantic": np.geomspace(1, 0.01, 600)}))
    assert "the middle moves from beta 1.4" in found.change[1]


def test_a_share_that_misses_is_not_written_as_enough() -> None:
    """Of 501 windows of 100 steps 475 are in the band: 94.8 %."""
    away = Log(losses={**FOUR, "semantic": np.where(STEPS < 574, 0.2, 1e6)})
    found = assessed(away)
    assert verdicts(found)[0] == "not met"
    assert found.criteria[0].measured == "in 94.8 % of 501 windows"


def test_a_single_spike_decides_nothing() -> None:
    losses = {"focal": 1.0, "jsd": 0.8, "semantic": np.where(STEPS == 300, 20.0, 0.2)}
    cosine = np.where(STEPS == 300, -0.9, 0.0)
    norms = {"semantic": np.where(STEPS == 300, 5.0, 0.01)}
    found = assessed(Log(losses=losses, norms=norms, cosines={("focal", "semantic"): cosine}))
    assert verdicts(found)[1:] == ["met", "met"]
    assert "fight" not in found.headline


def test_band_says_what_beta_would_be_under_fixed() -> None:
    log = Log(scales={"semantic": np.linspace(5, 3, 600)})
    found = assessed(log, balance="band")
    assert found.change[0].startswith(
        "Keep balance = band: it moved scale_semantic (beta x correction) from 5 to 3. Under balance = fixed, "
        "semantic_loss_scale should be 4.47, by losses"
    )
    assert "under balance = fixed, weights left out" in found.change[1]
    assert found.command is None


def test_band_that_did_not_hold_says_so() -> None:
    log = Log(losses={"focal": 1.0, "jsd": 0.3, "semantic": 0.2}, scales={"semantic": np.linspace(50, 30, 600)})
    found = assessed(log, balance="band")
    assert found.change[0].startswith("balance = band did not hold the band: it moved")
    assert found.change[1].startswith("A fixed beta would not hold all core terms: focal and jsd are beyond 2x")


def test_too_few_gradients_are_not_judged() -> None:
    found = assessed(Log(gradient_steps=500))
    assert verdicts(found) == ["met", "not measured", "not measured"]
    assert (found.met, found.tone) == (False, "unsure")
    assert "gradients by term in 2 steps only" in found.criteria[1].measured
    assert any("smaller logging.gradient_steps" in text for text in found.findings)


def test_one_core_term_is_not_judged() -> None:
    found = assessed(Log(losses={"focal": 1.0}))
    assert verdicts(found) == ["not measured", "met", "not measured"]
    assert found.change == ("semantic did not train this run: there is no beta to choose.",)
    assert found.command is None


def test_what_is_logged_only_is_said() -> None:
    found = assessed(Log(), log_only=frozenset(["semantic"]))
    assert "semantic is logged without being trained on (log_only)." in found.findings


def test_what_is_logged_only_is_not_judged_nor_advised_on() -> None:
    """Out of the band and against all others, it changes nothing in the student, and neither would its beta."""
    losses: dict[str, Value] = {"focal": 1.0, "jsd": 0.8, "semantic": 0.02}
    log = Log(losses=losses, cosines={("focal", "semantic"): -0.9, ("jsd", "semantic"): -0.2})
    assert "semantic" in assessed(log).headline
    found = assessed(log, log_only=frozenset(["semantic"]))
    assert found.criteria[0].verdict == "met"
    assert found.headline.startswith("Balanced")
    assert not any("semantic and" in text or "and semantic" in text for text in found.findings)
    assert (found.change, found.command) == (("semantic did not train this run: there is no beta to choose.",), None)


def test_a_beta_beyond_what_a_configuration_holds_is_not_a_command() -> None:
    found = assessed(Log(losses={"focal": 1.0, "jsd": 1.0, "semantic": 1e-4}))
    assert "A configuration may hold 1000 at most" in found.change[0]
    assert found.command is None


@pytest.mark.parametrize("clip", [1.0, 0.01])
def test_a_semantic_loss_of_zero_has_no_advice_by_losses(clip: float) -> None:
    found = assessed(Log(losses={"focal": 1.0, "jsd": 1.0, "semantic": 0.0}, clip=clip))
    assert found.change[0].startswith("By losses: no beta to recommend")

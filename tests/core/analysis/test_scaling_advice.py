"""The recommended beta: right within 1 % on known scales, by losses and by gradients, and the command that tries it."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace

import numpy as np
import pytest

from distillctl import cli
from distillctl.core.analysis.scaling_advice import BetaAdvice, advise, command_to_try
from tests.core.analysis.logs import Log
from tests.core.analysis.test_scaling import run_of

STEPS = np.arange(600)


@pytest.mark.parametrize("beta", [0.01, 1.0, 5.0, 100.0, 1000.0])
@pytest.mark.parametrize(("focal", "jsd", "semantic"), [(1.0, 1.0, 0.2), (1.1, 0.7, 0.4), (0.2, 0.35, 0.003)])
def test_on_known_scales_the_centre_is_right_within_one_percent(
    beta: float, focal: float, jsd: float, semantic: float
) -> None:
    log = Log(losses={"focal": focal, "jsd": jsd, "semantic": semantic}, scales={"semantic": beta}, noise=0.1)
    found = advise(run_of(log, beta=beta), 100)
    assert found.by_losses == pytest.approx(math.sqrt(focal * jsd) / semantic, rel=0.01)
    assert found.suggested == pytest.approx(found.by_losses, rel=0.005)
    assert found.semantic_in_band == found.all_in_band == 1
    assert found.within_reach


@pytest.mark.parametrize("beta", [1.0, 5.0, 100.0])
def test_by_gradients_the_centre_is_right_whatever_the_weights(beta: float) -> None:
    weights = {"focal": 0.3, "jsd": np.linspace(0.7, 0.2, 600), "semantic": np.linspace(0.0, 0.35, 600)}
    plain = {"focal": 0.02, "jsd": 0.08, "semantic": 0.1}  # at weight and scale 1
    norms = {term: norm * weights[term] * (beta if term == "semantic" else 1) for term, norm in plain.items()}
    log = Log(scales={"semantic": beta}, weights=weights, norms=norms)
    found = advise(run_of(log, beta=beta), 100)
    assert found.by_gradients == pytest.approx(math.sqrt(0.02 * 0.08) / 0.1)
    assert found.by_losses == pytest.approx(math.sqrt(0.8) / 0.2)


def test_a_beta_in_the_band_is_kept_and_one_outside_is_not() -> None:
    kept = advise(run_of(Log(noise=0.1), beta=5.0), 100)
    assert kept.keep
    assert kept.semantic_in_band_now == 1
    found = advise(run_of(Log(noise=0.1), beta=100.0), 100)
    assert not found.keep
    assert found.semantic_in_band_now == 0


def test_a_beta_that_is_worse_by_its_own_measure_is_not_advised() -> None:
    """The semantic loss falls: the middle of all windows is that of the few in which it moves."""
    falling = np.where(np.arange(600) < 300, 0.2, 0.2 * 2.0 ** (-np.arange(600) / 60))
    found = advise(run_of(Log(losses={"focal": 1.0, "jsd": 0.8, "semantic": falling}), beta=5.0), 100)
    assert found.semantic_in_band < found.semantic_in_band_now < 0.95
    assert found.keep


def test_the_range_that_stays_in_the_band_is_told() -> None:
    found = advise(run_of(Log(), beta=5.0), 100)
    assert (found.low, found.high) == pytest.approx((0.5 * 1.0 / 0.2, 2 * 0.8 / 0.2))


def test_focal_and_jsd_apart_are_out_of_reach_of_any_beta() -> None:
    log = Log(losses={"focal": 1.0, "jsd": 0.3, "semantic": 0.2})
    found = advise(run_of(log, beta=5.0), 100)
    assert (found.anchors_in_band, found.within_reach) == (0, False)
    assert found.apart == pytest.approx(1 / 0.3)
    assert found.semantic_in_band == 1  # within 2x of both, if not they of each other


def test_under_band_the_beta_is_that_of_unscaled_others() -> None:
    log = Log(
        losses={"focal": 1.0, "jsd": 0.5, "semantic": 0.2}, scales={"jsd": 2.0, "semantic": np.linspace(4, 6, 600)}
    )
    log.norms = {"focal": 0.01, "jsd": 0.02, "semantic": 0.03 * np.linspace(4, 6, 600)}
    found = advise(run_of(log, beta=5.0, balance="band"), 100)
    assert found.by_losses == pytest.approx(math.sqrt(0.5) / 0.2)
    assert found.by_gradients == pytest.approx(0.01 / 0.03)


def test_with_one_other_core_term_semantic_gets_its_size() -> None:
    found = advise(run_of(Log(losses={"focal": 1.0, "semantic": 0.1}), beta=5.0), 100)
    assert (found.by_losses, found.anchors) == (pytest.approx(10), ("focal",))


@pytest.mark.parametrize("losses", [{"focal": 1.0, "jsd": 1.0}, {"semantic": 1.0, "contrastive": 1.0}])
def test_without_both_kinds_there_is_nothing_to_recommend(losses: dict[str, float]) -> None:
    beta = 5.0 if "semantic" in losses else None
    assert advise(run_of(Log(losses=losses), beta=beta), 100) == BetaAdvice(current=beta)


def test_a_beta_of_zero_is_not_kept() -> None:
    found = advise(run_of(Log(scales={"semantic": 0.0}), beta=0.0), 100)
    assert (found.current, found.keep) == (0.0, False)
    assert found.by_losses == pytest.approx(math.sqrt(0.8) / 0.2)


def test_a_semantic_loss_of_zero_gives_no_beta_by_losses() -> None:
    found = advise(run_of(Log(losses={"focal": 1.0, "jsd": 1.0, "semantic": 0.0}), beta=5.0), 100)
    assert (found.by_losses, found.by_gradients) == (None, pytest.approx(5.0))


def test_windows_without_a_loss_are_left_out() -> None:
    semantic = np.where(STEPS < 300, 0.0, 0.2)
    found = advise(run_of(Log(losses={"focal": 1.0, "jsd": 1.0, "semantic": semantic}), beta=5.0), 1)
    assert found.by_losses == pytest.approx(5)


# --- the command ----------------------------------------------------------------------------------------------------

AWAY = BetaAdvice(current=5.0, by_losses=1.2345, suggested=1.23, all_in_band=1.0, anchors=("focal", "jsd"))


def command(advice: BetaAdvice, *, balance: str = "fixed", band_met: bool = False, drowned: bool = False) -> str | None:
    run = replace(run_of(Log(steps=3), balance=balance, config_file="r/config.yaml"), path="r/")
    found = command_to_try(run, advice, band_met=band_met, drowned=drowned)
    return None if found is None else found.removeprefix("distillctl train --config r/config.yaml ")


def test_the_command_has_the_runs_settings_and_the_new_beta() -> None:
    assert command(AWAY) == "--beta 1.23 --output-dir r-beta-1.23"
    assert command(replace(AWAY, keep=True)) is None
    assert command(replace(AWAY, suggested=None)) is None
    assert command(replace(AWAY, suggested=1234.0)) is None


def test_what_no_beta_reaches_asks_for_the_band() -> None:
    apart = replace(AWAY, all_in_band=0.3)
    assert command(apart) == "--beta 1.23 --set objective.balance=band --output-dir r-beta-1.23-band"
    assert command(replace(apart, keep=True)) == "--set objective.balance=band --output-dir r-band"


def test_a_flood_asks_for_a_limit() -> None:
    assert command(AWAY, drowned=True) == (
        "--beta 1.23 --set objective.max_auxiliary_share=0.3 --output-dir r-beta-1.23-limit"
    )
    run = replace(run_of(Log(steps=3), share_limit=0.4), path=".")
    found = command_to_try(run, replace(AWAY, keep=True), band_met=True, drowned=True)
    assert found == "distillctl train --set objective.max_auxiliary_share=0.2 --output-dir results/run-limit"


def test_a_band_that_holds_is_left_alone() -> None:
    assert command(AWAY, balance="band", band_met=True) is None
    assert command(AWAY, balance="band") == ("--beta 1.23 --set objective.balance=fixed --output-dir r-beta-1.23-fixed")
    assert command(replace(AWAY, all_in_band=0.3), balance="band") == "--beta 1.23 --output-dir r-beta-1.23"


def test_the_command_is_one_that_train_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("distillctl.commands.train.run", lambda config, **options: taken.append(config))
    found = command_to_try(run_of(Log(steps=3)), AWAY, band_met=False, drowned=True)
    assert found is not None
    assert cli.run(shlex.split(found)[1:]) == 0
    (config,) = taken
    assert (config.objective.semantic_loss_scale, config.objective.max_auxiliary_share) == (1.23, 0.3)
    assert config.output_dir == "run-beta-1.23-limit"

"""Every criterion in every verdict."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.analysis.acceptance import acceptance, first_not_finite, last_epoch
from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.criterion import Criterion
from distillctl.core.analysis.run_data import Overhead
from distillctl.core.errors import DataError
from distillctl.core.evaluation.significance import Difference
from tests.core.analysis.arms import Arm, compared
from tests.core.analysis.costs import measurement


def criterion(comparison: Comparison, name: str) -> Criterion:
    (found,) = [one for one in acceptance(comparison) if one.name == name]
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("plain"), [Arm()], [Arm(right=range(20))])


def with_difference(comparison: Comparison, name: str, found: Difference) -> Comparison:
    return replace(comparison, differences={**comparison.differences, name: found})


@pytest.mark.parametrize(
    ("difference", "low", "high", "verdict"),
    [
        (0.5, 0.1, 0.9, "met"),
        (5.6 - 5.1, 0.1, 0.9, "met"),  # 0.4999999999999991
        (0.5, -0.1, 1.1, "met, not significant"),
        (0.5, 0.0, 1.1, "met, not significant"),
        (0.5, None, None, "met, not significant"),
        (0.49, 0.4, 0.6, "not met"),
        (-2.0, -3.0, -1.0, "not met"),
        (0.0, 0.0, 0.0, "not met"),
    ],
)
def test_f1(plain: Comparison, difference: float, low: float | None, high: float | None, verdict: str) -> None:
    found = Difference(10.0, 10.0 + difference, difference, low, high, 0.04, 12)
    assert criterion(with_difference(plain, "f1", found), "F1").verdict == verdict


def test_f1_of_a_few_files_is_not_shown_by_an_interval_that_p_contradicts(plain: Comparison) -> None:
    found = Difference(10.0, 14.65, 4.65, 3.57, 5.0, 0.253, 3)
    assert criterion(with_difference(plain, "f1", found), "F1").verdict == "met, not significant"


def test_validity_that_is_lower_by_less_than_is_shown_says_so(plain: Comparison) -> None:
    found = Difference(76.95, 76.9471, -0.0029, -0.1, 0.1, 0.9, 12)
    one = criterion(with_difference(plain, "valid_syntax", found), "Valid syntax")
    assert (one.verdict, one.measured) == ("not met", "76.947 against 76.950 (-0.003)")


def test_f1_says_what_was_measured(plain: Comparison) -> None:
    found = Difference(10.0, 10.72, 0.72, 0.1, 1.3, 0.0004, 12)
    one = criterion(with_difference(plain, "f1", found), "F1")
    assert one.measured == "+0.72, 95 % interval +0.10 to +1.30, p < 0.001"


@pytest.mark.parametrize(
    ("difference", "said"), [(0.4961, "+0.496"), (0.49996, "+0.49996"), (0.49, "+0.49"), (0.504, "+0.50")]
)
def test_what_misses_the_limit_is_not_written_as_the_limit(plain: Comparison, difference: float, said: str) -> None:
    found = Difference(10.0, 10.0 + difference, difference, 0.1, 1.3, 0.0004, 12)
    assert criterion(with_difference(plain, "f1", found), "F1").measured.startswith(f"{said}, ")


@pytest.mark.parametrize(("difference", "verdict"), [(1.0, "met"), (0.0, "met"), (-0.01, "not met")])
def test_validity(plain: Comparison, difference: float, verdict: str) -> None:
    found = Difference(90.0, 90.0 + difference, difference, -2.0, 2.0, 0.9, 12)
    one = criterion(with_difference(plain, "valid_syntax", found), "Valid syntax")
    assert one.verdict == verdict
    assert one.measured.startswith(f"{90 + difference:.2f} against 90.00")


# --- wall time ------------------------------------------------------------------------------------------------------

WALL = "Wall time, runs"


@pytest.mark.parametrize(("seconds", "ratio", "verdict"), [(49.0, "1.089", "met"), (50.0, "1.111", "not met")])
def test_wall_time_of_the_runs(seconds: float, ratio: str, verdict: str, tmp_path: Path) -> None:
    one = criterion(compared(tmp_path, [Arm()], [Arm(seconds=seconds)]), WALL)
    assert one.verdict == verdict
    assert one.measured.startswith(f"{ratio} = ")
    assert "per optimizer step of 8 samples (seconds.training / training.steps of run.json), scoring" in one.measured


def test_wall_time_is_per_step(tmp_path: Path) -> None:
    one = criterion(compared(tmp_path, [Arm()], [Arm(seconds=90.0, steps=180)]), WALL)
    assert one.measured.startswith("1.000 = ")


def test_wall_time_of_several_pairs_is_the_ratio_of_means(tmp_path: Path) -> None:
    arms = [Arm(), Arm(seconds=135.0)], [Arm(), Arm(seconds=90.0)]
    assert criterion(compared(tmp_path, *arms), WALL).measured.startswith("0.750 = ")


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm(record={"resumed_at": "2026-01-01"}), "was resumed"),
        (Arm(record={"training": {"steps": None}}), "no seconds of a whole training"),
        (Arm(seconds=0.0), "no seconds of a whole training"),
        (Arm(status="interrupted"), "no seconds of a whole training"),
        (
            Arm(change_step=lambda row: row | {"samples_seen": 2 * (row["samples_seen"] or 0)}),
            "optimizer steps of different sizes .8, 16 samples",
        ),
        (Arm(record={"hardware": {"processor": "another"}}), "different hardware"),
        (Arm(record={"processes": 8}), "different numbers of processes"),
    ],
)
def test_wall_time_that_cannot_be_compared_is_not_measured(arm: Arm, words: str, tmp_path: Path) -> None:
    one = criterion(compared(tmp_path, [Arm()], [arm], allow_unfinished=True), WALL)
    assert one.verdict == "not measured"
    assert re.search(words, one.measured)


def test_a_gpu_that_a_run_left_alone_is_not_its_hardware(tmp_path: Path) -> None:
    record = {"hardware": {"processor": "made", "cores": 2, "accelerator": "one"}}
    on, off = Arm(record=record), Arm(record=record, settings=("device=cpu",))
    mixed = criterion(compared(tmp_path / "mixed", [off], [on]), WALL)
    assert (mixed.verdict, "different hardware" in mixed.measured) == ("not measured", True)
    assert criterion(compared(tmp_path / "without", [Arm()], [off]), WALL).verdict == "met"


def test_wall_time_of_the_other_pairs_counts_where_one_is_left_out(tmp_path: Path) -> None:
    slow, resumed = Arm(seconds=500.0), Arm(seconds=1.0, record={"resumed_at": "2026-01-01"})
    both = criterion(compared(tmp_path, [Arm(), Arm()], [slow, resumed]), WALL)
    alone = criterion(compared(tmp_path / "alone", [Arm()], [slow]), WALL)
    assert both.verdict == alone.verdict
    assert both.measured.startswith(f"{alone.measured}. Left out with its pair: ")
    assert "was resumed" in both.measured


@pytest.mark.parametrize(
    ("median", "high", "verdict"),
    [(1.05, 1.08, "met"), (1.10, 1.10, "met"), (1.05, 1.12, "met, not significant"), (1.11, 1.2, "not met")],
)
def test_the_overhead_measurement(plain: Comparison, median: float, high: float, verdict: str) -> None:
    overhead = Overhead(median, 1.0, high, "b1/analysis/overhead.json")
    measured = replace(plain, candidates=(replace(plain.candidates[0], overhead=overhead),))
    one = criterion(measured, "Wall time, overhead")
    assert one.verdict == verdict
    assert one.measured == f"{median:.3f}, interval 1.000 to {high:.3f} (b1/analysis/overhead.json)"
    assert len(acceptance(measured)) == len(acceptance(plain)) + 1


def test_an_overhead_of_few_steps_is_met_with_a_doubt(plain: Comparison) -> None:
    before, after = (side[0].config["objective"] for side in (plain.baselines, plain.candidates))
    verdicts = {}
    for blocks in (1, 5, 6):
        overhead = measurement(before, after, blocks=blocks)
        measured = replace(plain, candidates=(replace(plain.candidates[0], overhead=overhead),))
        verdicts[blocks] = criterion(measured, "Wall time, overhead")
    assert [one.verdict for one in verdicts.values()] == ["met, not significant", "met, not significant", "met"]
    assert verdicts[5].measured.endswith("; of 10 steps, and 12 or more make an interval to be relied on")


def test_an_overhead_of_other_objectives_decides_nothing(plain: Comparison) -> None:
    """An earlier candidate that is now the baseline has a measurement of itself against something else."""
    before, after = (side[0].config["objective"] for side in (plain.baselines, plain.candidates))
    other = replace(plain.baselines[0], overhead=measurement({"other": 1}, {"another": 2}))
    one = criterion(replace(plain, baselines=(other,)), "Wall time, overhead")
    assert one.verdict == "not measured"
    assert one.measured == (
        "b1/analysis/overhead.json is about another objective than that of the baseline and the candidate"
    )
    both = replace(plain, baselines=(other,), candidates=(replace(plain.candidates[0], overhead=None),))
    own = replace(plain.candidates[0], overhead=measurement(before, after, median=1.05))
    assert criterion(replace(both, candidates=(own,)), "Wall time, overhead").measured.startswith("1.050")


def test_of_several_overheads_the_largest_decides(plain: Comparison) -> None:
    before, after = (side[0].config["objective"] for side in (plain.baselines, plain.candidates))
    runs = [replace(plain.candidates[0], overhead=measurement(before, after, median)) for median in (1.02, 1.2, 1.05)]
    several = replace(plain, candidates=tuple(runs), baselines=plain.baselines * 3)
    assert criterion(several, "Wall time, overhead").verdict == "not met"


def test_what_was_measured_well_decides_before_other_overheads(plain: Comparison) -> None:
    before, after = (side[0].config["objective"] for side in (plain.baselines, plain.candidates))
    found = [measurement(before, after, 1.04), measurement(before, after, 1.12, blocks=1), Overhead(1.2, 1.1, 1.3, "x")]
    runs = tuple(replace(plain.candidates[0], overhead=one) for one in found)
    several = replace(plain, candidates=runs, baselines=plain.baselines * 3)
    assert criterion(several, "Wall time, overhead").measured.startswith("1.040")


def test_an_overhead_just_above_the_limit_is_seen_to_be(plain: Comparison) -> None:
    overhead = Overhead(1.1004, 1.1, 1.1200001, "b1/analysis/overhead.json")
    measured = replace(plain, candidates=(replace(plain.candidates[0], overhead=overhead),))
    assert criterion(measured, "Wall time, overhead").measured.startswith("1.1004, interval 1.100 to 1.120 (")


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "verdict"), [(3.0, "met"), (2.9999999, "met"), (4.5, "met"), (2.0, "not measured")])
def test_finite_losses_need_three_epochs(epochs: float, verdict: str, tmp_path: Path) -> None:
    one = criterion(compared(tmp_path, [Arm(epochs=1.0)], [Arm(epochs=epochs)]), "No NaN or Inf")
    assert one.verdict == verdict
    assert one.measured == f"all finite in 90 logged steps, {epochs:.2f} epochs"


def test_the_shortest_candidate_counts(tmp_path: Path) -> None:
    one = criterion(compared(tmp_path, [Arm(), Arm()], [Arm(), Arm(epochs=2.0)]), "No NaN or Inf")
    assert (one.verdict, one.measured) == ("not measured", "all finite in 180 logged steps, 2.00 epochs")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_loss_that_is_not_finite_is_not_met(value: float | None, tmp_path: Path) -> None:
    spoilt = Arm(epochs=2.0, change_step=lambda row: row | ({"loss_jsd": value} if row["step"] == 41 else {}))
    one = criterion(compared(tmp_path, [Arm()], [spoilt]), "No NaN or Inf")
    assert one.verdict == "not met"
    shown = "blank" if value is None else str(value)
    assert one.measured == f"{tmp_path / 'b1'}: loss_jsd is {shown} in step 41"


def test_steps_that_were_skipped_are_told_whatever_the_log_says(tmp_path: Path) -> None:
    spoilt = Arm(record={"training": {"steps": 90, "skipped_steps": [7, 41]}})
    one = criterion(compared(tmp_path, [Arm()], [spoilt]), "No NaN or Inf")
    assert one.verdict == "not met"
    assert one.measured == f"{tmp_path / 'b1'}: 2 steps were not finite and were skipped (--on-nan skip): 7, 41"


def test_nonsense_about_skipped_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"skipped_steps should be a list of steps. Found 'no'"):
        acceptance(compared(tmp_path, [Arm()], [Arm(record={"training": {"skipped_steps": "no"}})]))


def test_a_gradient_that_is_blank_is_fine() -> None:
    assert first_not_finite([{"step": 1.0, "loss_focal": 1.0, "grad_norm_focal": None}]) is None
    assert last_epoch([]) == 0


def test_samples(plain: Comparison) -> None:
    one = criterion(plain, "Samples")
    assert (one.verdict, one.measured) == ("not met", "48 of validation")
    run = plain.baselines[0]
    enough = replace(plain, baselines=(replace(run, rows=list(run.rows) * 115),))
    assert criterion(enough, "Samples").verdict == "met"
    other = criterion(replace(enough, split="dev"), "Samples")
    assert (other.verdict, other.measured) == ("not measured", "5,520 of dev")

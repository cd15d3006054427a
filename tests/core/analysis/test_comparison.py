"""Two arms: who may be compared, swaps, seeds, and parts that add up to the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.analysis.comparison import compare
from distillctl.core.analysis.run_data import RunData, read_run
from distillctl.core.errors import DataError, UsageError
from tests.core.analysis.arms import DECODING, SAMPLES, Arm, compared, make_run

BETTER = Arm(right=range(4, 24), terms=("focal", "jsd", "semantic", "contrastive"))


def runs(folder: Path, *arms: Arm) -> list[RunData]:
    return [read_run(make_run(folder / str(n), arm), "validation") for n, arm in enumerate(arms)]


# --- refusals -------------------------------------------------------------------------------------------------------


def only_first(field: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: row | {field: value} if row["id"].endswith("::test_0") else row


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (
            Arm(samples=SAMPLES - 1),
            "different sample ids .48 and 47, 47 shared; 'p2/test_11.py::test_47' only in the first",
        ),
        (Arm(samples=SAMPLES + 1), "different sample ids .48 and 49, 48 shared; .* only in the second"),
        (Arm(change_row=only_first("id", "other")), "different sample ids .48 and 48, 47 shared"),
        (
            Arm(change_row=only_first("input_fingerprint", "f")),
            "different data: input fingerprint of 1 samples differs",
        ),
        (
            Arm(change_row=only_first("gold", ["assert z"])),
            "different data: gold of 1 samples differs, first 'p0/test_0",
        ),
        (Arm(change_row=only_first("language", "java")), "different data: language"),
        (Arm(change_row=only_first("path", "x.py")), "different data: path"),
        (Arm(decoding=DECODING | {"num_beams": 4}), "different decoding settings .num_beams 1 and 4"),
        (Arm(decoding={"num_beams": 1, "bf16": False}), "different decoding settings .max_new_tokens 48 and None"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_reason(arm: Arm, words: str, tmp_path: Path) -> None:
    first, second = runs(tmp_path, Arm(), arm)
    with pytest.raises(DataError, match=words) as caught:
        compare([first], [second], "validation")
    assert first.path in str(caught.value)
    assert second.path in str(caught.value)


def test_other_metric_versions_are_refused(tmp_path: Path) -> None:
    (first,) = runs(tmp_path, Arm())
    with pytest.raises(DataError, match=r"different metric versions \(1 and 2\)"):
        compare([first], [replace(first, metric_version=2)], "validation")


def test_a_second_pair_must_fit_the_first(tmp_path: Path) -> None:
    first, second, odd = runs(tmp_path, Arm(), Arm(), Arm(samples=20))
    with pytest.raises(DataError, match="different sample ids"):
        compare([first, odd], [second, odd], "validation")


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 2), (2, 1)])
def test_arms_must_be_equally_long(before: int, after: int, tmp_path: Path) -> None:
    (run,) = runs(tmp_path, Arm(samples=4, steps=1))
    with pytest.raises(UsageError, match="equally often"):
        compare([run] * before, [run] * after, "validation")


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_difference_by_hand(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [BETTER])
    f1 = found.differences["f1"]
    assert f1.baseline == pytest.approx(100 * 12 / SAMPLES)
    assert f1.candidate == pytest.approx(100 * 20 / SAMPLES)
    assert f1.low is not None and f1.high is not None
    assert f1.low < f1.difference < f1.high
    assert (found.samples, found.files, f1.clusters) == (SAMPLES, 12, 12)


def test_swapping_the_arms_flips_every_sign(tmp_path: Path) -> None:
    first, second = runs(tmp_path, Arm(empty=[13, 14, 40]), BETTER)
    there, back = compare([first], [second], "validation"), compare([second], [first], "validation")
    for name, found in there.differences.items():
        other = back.differences[name]
        assert found.low is not None and found.high is not None
        assert (other.difference, other.low, other.high) == (-found.difference, -found.high, -found.low), name
        assert other.p_value == found.p_value
    for group, other_group in zip(there.by_project + there.by_kind, back.by_project + back.by_kind, strict=True):
        assert group.difference == -other_group.difference


def test_a_run_against_itself_gives_0_and_p_1(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, Arm())
    for found in compare([run], [run], "validation").differences.values():
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_order_of_samples_does_not_matter(tmp_path: Path) -> None:
    first, second = runs(tmp_path, Arm(), BETTER)
    turned = replace(second, rows=second.rows[::-1], sums=second.sums[::-1])
    assert compare([first], [turned], "validation").differences == compare([first], [second], "validation").differences


def test_several_pairs_are_pooled_and_told_apart(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm(), Arm(right=range(14), seed=14)], [BETTER, Arm(right=range(20, 38), seed=14)])
    per_pair = [pair["f1"].difference for pair in found.by_pair]
    assert per_pair == pytest.approx([100 * 8 / SAMPLES, 100 * 4 / SAMPLES])
    assert found.differences["f1"].difference == pytest.approx(sum(per_pair) / 2)
    assert found.differences["f1"].clusters == 12
    assert found.seeds["f1"].mean == pytest.approx(sum(per_pair) / 2)
    assert found.seeds["f1"].low is not None
    assert found.noise is not None
    assert found.noise["f1"].difference == pytest.approx(100 * 2 / SAMPLES)


def test_one_pair_has_no_spread_over_seeds_and_no_noise(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [BETTER])
    assert (found.seeds["f1"].low, found.noise) == (None, None)


def test_the_same_baseline_twice_says_nothing_about_noise(tmp_path: Path) -> None:
    first, second, third = runs(tmp_path, Arm(), BETTER, BETTER)
    assert compare([first, first], [second, third], "validation").noise is None


def test_groups_add_up(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [BETTER])
    for groups in (found.by_project, found.by_kind):
        assert sum(group.samples for group in groups) == SAMPLES
        weighted = sum(group.samples * group.difference for group in groups)
        assert weighted / SAMPLES == pytest.approx(found.differences["f1"].difference)
    assert [group.name for group in found.by_project] == ["p0", "p1", "p2"]
    assert {group.files for group in found.by_project} == {4}


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [Arm(status="interrupted")], allow_unfinished=True)
    assert [run.path for run in found.unfinished] == [str(tmp_path / "b1")]

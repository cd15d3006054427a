"""Which differing samples are shown: enough of each side, spread out, readable, always the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.analysis.differing import differing_samples, is_right
from distillctl.core.analysis.run_data import RunData
from tests.core.analysis.arms import Arm, compared


def pair(folder: Path, first: Arm, second: Arm) -> tuple[RunData, RunData]:
    found = compared(folder, [first], [second])
    return found.baselines[0], found.candidates[0]


def test_ten_gained_and_ten_lost(tmp_path: Path) -> None:
    found = differing_samples(*pair(tmp_path, Arm(right=range(16)), Arm(right=range(12, 40))))
    assert (len(found.gained), len(found.lost)) == (10, 10)
    assert (found.all_gained, found.all_lost, found.both_right, found.both_wrong) == (24, 12, 4, 8)
    for sample in found.gained:
        assert sample.candidate == sample.gold != sample.baseline
    for sample in found.lost:
        assert sample.baseline == sample.gold != sample.candidate


@pytest.mark.parametrize(
    ("before", "after", "gained", "lost"),
    [(range(0), range(30), 20, 0), (range(30), range(27), 0, 3), (range(3), range(3, 40), 17, 3), ([1], [1], 0, 0)],
)
def test_one_side_fills_up_for_the_other(before: Any, after: Any, gained: int, lost: int, tmp_path: Path) -> None:
    found = differing_samples(*pair(tmp_path, Arm(right=before), Arm(right=after)))
    assert (len(found.gained), len(found.lost)) == (gained, lost)


def test_the_choice_is_spread_over_projects_and_kinds(tmp_path: Path) -> None:
    found = differing_samples(*pair(tmp_path, Arm(right=[]), Arm(right=range(48))), shown=12)
    projects = Counter(sample.project for sample in found.gained)
    assert set(projects.values()) == {4}
    assert set(Counter(sample.kind for sample in found.gained).values()) == {3}


def test_swapping_the_arms_swaps_gained_and_lost(tmp_path: Path) -> None:
    first, second = pair(tmp_path, Arm(right=range(16)), Arm(right=range(12, 40)))
    there, back = differing_samples(first, second), differing_samples(second, first)
    assert [sample.id for sample in there.gained] == [sample.id for sample in back.lost]
    assert [sample.id for sample in there.lost] == [sample.id for sample in back.gained]


def test_near_misses_come_first_and_long_texts_last(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["id"].rpartition("_")[2])
        row |= {"project": "p", "gold": ["assert abc == 1"]}
        if number == 5:
            return row | {"prediction": "assert abc == 2"}
        if number == 6:
            return row | {"prediction": "assert abc == 2" + " " * 500 + "#"}
        return row | {"prediction": "x = 0"}

    first = Arm(samples=12, change_row=change)
    right = Arm(samples=12, change_row=lambda row: change(row) | {"prediction": "assert abc == 1"})
    found = differing_samples(*pair(tmp_path, first, right))
    assert found.gained[0].id.endswith("test_5")
    assert found.gained[-1].id.endswith("test_6")


def test_right_needs_something_to_be_right_about() -> None:
    assert is_right({"tp": 1, "fp": 0, "fn": 0})
    assert not is_right({"tp": 0, "fp": 0, "fn": 0})
    assert not is_right({"tp": 1, "fp": 1, "fn": 0})
    assert not is_right({"tp": 1, "fp": 0, "fn": 1})

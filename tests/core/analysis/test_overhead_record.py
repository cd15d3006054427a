"""overhead.json, its tables and its picture, from arms of known cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distillctl.core.analysis.document import Table
from distillctl.core.analysis.overhead import read_ratio
from distillctl.core.analysis.overhead_plot import draw_overhead, overhead_figure, part_order
from distillctl.core.analysis.overhead_record import other_objectives, read_record
from distillctl.core.analysis.overhead_tables import (
    arms_table,
    asked_table,
    parts_table,
    payback_text,
    ratios_table,
    terms_table,
)
from distillctl.core.errors import DataError
from tests.core.analysis.costs import MAIN, made_record


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(made_record(), allow_nan=False))
    return values


def cells(table: Table, row: str) -> list[str]:
    (found,) = [[cell.text for cell in cells] for cells in table.rows if cells[0].text == row]
    return found[1:]


def test_the_headline_is_candidate_over_baseline(record: dict[str, Any]) -> None:
    assert record["ratio"]["median"] == pytest.approx(0.106 / 0.104, rel=1e-3)
    assert (record["within"], record["certain"]) == (True, True)


def test_every_comparison_is_there_with_and_without_the_optimizer(record: dict[str, Any]) -> None:
    found = {(one["arm"], one["to"]): one for one in record["ratios"]}
    cached_live = found["candidate", "candidate, live"]
    assert cached_live["whole_step"]["median"] == pytest.approx(0.5, rel=1e-3)
    assert cached_live["without_optimizer"]["median"] == pytest.approx(0.086 / 0.192, rel=1e-3)
    assert found["candidate", "cross-entropy"]["whole_step"]["median"] == pytest.approx(1.06, rel=1e-3)


def test_a_term_costs_what_its_arm_lacks(record: dict[str, Any]) -> None:
    added = {one["to"]: one["whole_step"]["median"] for one in record["terms"]}
    assert added == pytest.approx(
        {
            "candidate without semantic": 0.106 / 0.105,
            "candidate without contrastive": 0.106 / 0.1055,
            "candidate without semantic and contrastive": 0.106 / 0.101,
        },
        rel=1e-3,
    )


def test_measuring_gradients_costs_its_share_of_every_tenth_step(record: dict[str, Any]) -> None:
    assert record["logging"]["measuring_share"] == pytest.approx((0.111 / 0.106 - 1) / 10, rel=0.02)
    assert record["logging"]["share"] == pytest.approx(0.0005 / 0.106, rel=1e-6)


def test_the_cache_is_paid_back_and_hardly_slows_the_loader(record: dict[str, Any]) -> None:
    assert record["cache"]["paid_back_after_epochs"] == pytest.approx(0.01 / (0.106 / 8), rel=0.03)
    assert record["loader"]["alone"]["median"] == pytest.approx(1.05)
    assert record["loader"]["whole_step"]["median"] == pytest.approx(0.106 / 0.1059)
    assert "Capturing is paid back after 0.74 epochs" in payback_text(record)


def test_tokens_per_second_and_memory_are_per_arm(record: dict[str, Any]) -> None:
    table = arms_table(record)
    assert [row[0].text for row in table.rows] == list(MAIN)
    step, tokens, peak, of_it = cells(table, "candidate")
    assert (peak, of_it) == ("96.0", "32.0")
    assert float(tokens.replace(",", "")) == pytest.approx(160 / float(step) * 1000, rel=0.02)


def test_the_parts_of_an_arm_add_up_to_its_step(record: dict[str, Any]) -> None:
    table = parts_table(record)
    for place, arm in enumerate(record["arms"].values(), start=1):
        shown = [row[place].text for row in table.rows if row[place].text != "-"]
        assert sum(map(float, shown)) == pytest.approx(1000 * arm["seconds"], rel=0.01)


def test_what_was_asked_for_stands_beside_what_was_measured(record: dict[str, Any]) -> None:
    table = asked_table(record, "file")
    assert cells(table, "candidate / baseline, embedded")[:2] == ["1.00", "<= 1.02"]
    assert cells(table, "cache bytes per target token, k = 64")[2] == "265.0"
    tones = {row[0].text: row[3].tone for row in table.rows}
    assert tones["candidate cached / live, embedded"] == "good"
    assert tones["loader alone with / without"] == "bad"


def test_tables_name_both_arms(record: dict[str, Any]) -> None:
    assert cells(ratios_table(record, "file"), "candidate / cross-entropy")[0].startswith("1.060 (")
    terms = terms_table(record, "file")
    assert terms is not None
    assert [row[0].text for row in terms.rows][-1] == "without semantic and contrastive"


def test_the_picture_stacks_every_part_up_to_the_step(record: dict[str, Any]) -> None:
    (axes,) = overhead_figure(record).axes
    for place, arm in enumerate(record["arms"].values()):
        widths = [container[place].get_width() for container in axes.containers]
        assert sum(widths) == pytest.approx(1000 * arm["seconds"])
    assert draw_overhead(record).startswith(b"\x89PNG")


def test_the_student_comes_first_and_no_part_is_lost() -> None:
    names = ["data", "other", "focal", "teacher", "student forward", "logging", "student backward"]
    ordered = part_order(names)
    assert sorted(ordered) == sorted(names)
    assert ordered[:2] == ["student forward", "student backward"]


# --- reading it back --------------------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_is(record: dict[str, Any]) -> None:
    assert read_record(record, "file") == record
    assert read_record({"ratio": {"median": 1.0, "low": 1.0, "high": 1.0}}, "file") is None


@pytest.mark.parametrize("key", ["ratios", "terms", "settings", "provenance", "ratio"])
def test_a_damaged_record_is_refused_by_name(record: dict[str, Any], key: str) -> None:
    with pytest.raises(DataError, match=r"^b1/overhead\.json: "):
        read_record({**record, key: 5}, "b1/overhead.json")


@pytest.mark.parametrize("ratios", [[5], [{}], [{"arm": "a", "to": "b"}], [{"arm": "a", "to": "b", "whole_step": {}}]])
def test_a_damaged_ratio_is_refused_by_name(record: dict[str, Any], ratios: list[Any]) -> None:
    with pytest.raises(DataError, match=r"^b1/overhead\.json: "):
        read_record({**record, "ratios": ratios}, "b1/overhead.json")


def test_objectives_that_were_not_measured_are_named(record: dict[str, Any]) -> None:
    configs = {"baseline": {"objective": {"a": 1}}, "candidate": {"objective": {"a": 2}}}
    measured = {**record, "provenance": {"configs": configs}}
    assert other_objectives(measured, {"baseline": {"a": 1}, "candidate": {"a": 3}}) == ["candidate"]
    assert read_ratio(measured["ratio"], "file").blocks == 6

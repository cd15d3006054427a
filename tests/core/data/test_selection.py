"""Which records a run uses: training records by the seed, scored records the same for every seed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distillctl.core.data.selection import fixed_sample, main_language, training_sample
from tests.tiny import tiny_records

RECORDS = tiny_records()


def test_training_records_are_drawn_by_the_seed_and_keep_their_order() -> None:
    chosen = training_sample(RECORDS, 20, 1)
    assert len(chosen) == 20
    positions = [RECORDS.index(record) for record in chosen]
    assert positions == sorted(set(positions))
    assert chosen == training_sample(RECORDS, 20, 1)
    assert chosen != training_sample(RECORDS, 20, 2)
    assert chosen != RECORDS[:20]


@pytest.mark.parametrize("limit", [None, 62, 1000])
def test_no_limit_takes_all(limit: int | None) -> None:
    assert training_sample(RECORDS, limit, 1) == RECORDS


def test_scored_records_depend_on_their_ids_alone() -> None:
    chosen = fixed_sample(RECORDS, 10)
    assert len(chosen) == 10
    assert [record for record in RECORDS if record in chosen] == chosen
    assert sorted(r.id for r in fixed_sample(RECORDS[::-1], 10)) == sorted(r.id for r in chosen)
    larger = fixed_sample(RECORDS, 25)
    assert {record.id for record in chosen} < {record.id for record in larger}
    assert fixed_sample(RECORDS, 0) == fixed_sample(RECORDS, 99) == RECORDS
    moved = fixed_sample([replace(record, focal_method="x") for record in RECORDS], 10)
    assert [record.id for record in moved] == [record.id for record in chosen]


def test_the_language_is_that_of_most_records() -> None:
    java = [replace(record, language="java") for record in RECORDS[:10]]
    assert main_language(RECORDS) == "python"
    assert main_language(java + RECORDS[:5]) == "java"

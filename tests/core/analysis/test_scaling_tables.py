"""Tables and the JSON object of a run's loss scales."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from distillctl.core.analysis.document import Table
from distillctl.core.analysis.scaling_tables import facts_line, gradient_table, loss_table, pair_table, to_record
from tests.core.analysis.logs import Log
from tests.core.analysis.test_scaling import figures, run_of
from tests.core.analysis.test_scaling_verdicts import FOUR, assessed


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_losses_have_a_second_row_where_they_are_scaled() -> None:
    table = loss_table(figures(Log()))
    assert table.columns == ["term", "loss", "start (1-100)", "middle (251-350)", "end (501-600)"]
    assert texts(table) == [
        ["focal", "raw = scaled", *["1.00 ± 0"] * 3],
        ["jsd", "raw = scaled", *["0.800 ± 0"] * 3],
        ["semantic", "raw", *["0.200 ± 0"] * 3],
        ["", "x 5", *["1.00 ± 0"] * 3],
    ]
    moving = loss_table(figures(Log(scales={"semantic": np.linspace(5, 8, 600)})))
    assert texts(moving)[-1][1] == "x 5 to 8"


def test_gradients_and_what_was_not_measured() -> None:
    log = Log(norms={"semantic": 0.04}, clip=0.5)
    assert texts(gradient_table(figures(log))) == [
        ["focal", "0.01", "0.01", "0.01", "17 %", "25 %"],
        ["jsd", "0.01", "0.01", "0.01", "17 %", "25 %"],
        ["semantic", "0.04", "0.04", "0.04", "67 %", "50 %"],
    ]
    log.gradient_steps = 500
    assert texts(gradient_table(figures(log)))[0][1:4] == ["0.01", "-", "0.01"]
    silent = gradient_table(figures(Log(norms={"semantic": 0.0})))
    assert [row[1].tone for row in silent.rows] == ["plain", "plain", "bad"]


def test_a_term_that_is_only_logged_has_no_share() -> None:
    found = assessed(Log(), log_only=frozenset(["jsd"]))
    assert texts(gradient_table(found.scaling))[1] == ["jsd (log only)", "0.01", "0.01", "0.01", "-", "-"]


def test_pairs_have_a_band_only_where_both_are_core() -> None:
    log = Log(losses=FOUR, cosines={("focal", "jsd"): -0.6, ("jsd", "contrastive"): None})
    rows = texts(pair_table(figures(log)))
    assert rows[0] == ["focal - jsd", "1.2x", "100 %", "-0.60", "-0.60", "100 %", "100 %"]
    assert rows[2] == ["focal - contrastive", "-", "-", "+0.00", "+0.00", "0 %", "0 %"]
    assert rows[4] == ["jsd - contrastive", *["-"] * 6]


def test_the_facts_name_the_run_and_what_is_odd_about_it() -> None:
    found = assessed(Log(steps=30), share_limit=0.3, unfinished="failed", notes=("odd",))
    assert facts_line(found).splitlines() == [
        "run: 30 rows (steps 1 to 30), beta 5, balance fixed, share limit 0.3",
        "Running means over 10 steps (100 asked, a third of the log at most); gradients by term in 3 steps",
        "UNFINISHED: the run's status is failed",
        "note: odd",
    ]


def test_the_record_is_json_without_infinities() -> None:
    found = assessed(Log(noise=0.1))
    broken = replace(found, advice=replace(found.advice, high=float("inf")))
    record = to_record(broken)
    assert record["beta"]["high"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["terms"]) == {"focal", "jsd", "semantic"}
    assert set(record["pairs"]) == {"focal-jsd", "focal-semantic", "jsd-semantic"}
    assert record["met"] is True


def test_a_run_of_zeros_has_a_record() -> None:
    log = Log(
        losses={"focal": 0.0, "jsd": 0.0, "semantic": 0.0}, norms=dict.fromkeys(("focal", "jsd", "semantic"), 0.0)
    )
    json.dumps(to_record(assessed(log)), allow_nan=False)
    assert run_of(log).terms == ("focal", "jsd", "semantic")

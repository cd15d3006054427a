"""Adds what running the predictions showed to their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distillctl.core.data.records import Record
from distillctl.core.evaluation.evaluate_assertions import Scores
from distillctl.core.execution.execute import execute
from distillctl.core.execution.outcomes import EXECUTION
from distillctl.core.execution.request import RunTests
from distillctl.core.progress import Reporter


def with_executions(
    name: str, systems: Mapping[str, Scores], records: Sequence[Record], tests: RunTests, reporter: Reporter
) -> Scores:
    """The scores of the system ``name`` with the outcomes of all systems' predictions, in metrics and rows.

    ``tests_pass`` becomes its pass rate, in points of 100.
    """
    reporter.note(f"running predictions: {tests.limits.isolation.words}")
    with reporter.task("running tests", min(tests.most, len(records))) as task:
        found = execute(
            records,
            {system: [row["prediction"] for row in scores.rows] for system, scores in systems.items()},
            tests.limits,
            most=tests.most,
            on_progress=task.update,
        )
    facts = found.facts(name)
    rows = [row | ({EXECUTION: made} if (made := found.row(row["id"])) else {}) for row in systems[name].rows]
    passing = facts["systems"].get(name, {}).get("pass_rate", {}).get("value", systems[name].metrics["tests_pass"])
    return replace(systems[name], rows=rows, metrics=systems[name].metrics | {EXECUTION: facts, "tests_pass": passing})

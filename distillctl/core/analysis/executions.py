"""Do the tests pass with the predicted assertions in them? Both arms on the same samples, beside gold and teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.document import Block, Cell, Heading, Notice, Paragraph, Table
from distillctl.core.analysis.run_data import RunData
from distillctl.core.analysis.tables import arm_names, difference_cells
from distillctl.core.evaluation.significance import Difference, FloatArray, paired_differences
from distillctl.core.execution.outcomes import GOLD, OUTCOMES, PASSED, about, rate_text, summarise, verdict_of

RATES = {"pass": "Test passes", "able": "Passes, and can fail"}
_SAME = ("timeout_seconds", "most_parameter_sets", "sandboxed")


def executed_samples(comparison: Comparison) -> list[str]:
    """Ids of the samples that every run has run (their gold passes everywhere), in order; none where a run ran none."""
    passing = [
        {name for name, row in run.executions.items() if row[GOLD]["outcome"] == PASSED and _subject(run) in row}
        for run in comparison.runs
    ]
    return [row["id"] for row in comparison.baselines[0].rows if all(row["id"] in found for found in passing)]


def execution_blocks(comparison: Comparison) -> Iterable[Block]:
    """The section of a report; nothing where no run ran its predictions."""
    having = [run for run in comparison.runs if run.executions]
    if not having:
        return
    yield Heading("Do the tests pass?")
    lacking = [run.path for run in comparison.runs if not run.executions]
    samples = executed_samples(comparison)
    if lacking or not samples:
        which = f"not measured for {', '.join(lacking)}" if lacking else "the runs have no such sample in common"
        yield Paragraph(
            f"Not compared: {which}. Run `distillctl evaluate RUN --run-tests --allow-code-execution` on each with the "
            "same options."
        )
        return
    for notice in _notices(having):
        yield Notice(notice)
    yield systems_table(comparison, samples)
    table = execution_table(comparison)
    if table is not None:
        yield table
    yield Paragraph(
        "Passing is not being right: the test's previous assertion, repeated, usually passes. Can fail: with another "
        "value in the place of the one that the assertion inspects it fails, which `assert x == x` does not."
    )


def _notices(runs: Sequence[RunData]) -> Iterator[str]:
    unsafe = [run.path for run in runs if not run.execution["sandboxed"]]
    if unsafe:
        yield f"{', '.join(unsafe)}: predictions ran without a sandbox (--unsafe-no-sandbox)"
    for name in _SAME:
        if len({run.execution[name] for run in runs}) > 1:
            yield f"The predictions of the runs did not run in the same way: {name.replace('_', ' ')} differs"


def _subject(run: RunData) -> str:
    return str(run.execution.get("subject", ""))


def systems_table(comparison: Comparison, samples: Sequence[str]) -> Table:
    """Rates and outcomes of gold, of the systems beside the runs, and of each run."""
    first = comparison.baselines[0]
    rows = [_row(name, found, samples) for name, found in _systems(comparison, samples)]
    columns = ["", "passes (95 % interval)", "passes, can fail (95 % interval)", *OUTCOMES]
    caption = (
        f"{len(samples):,} samples of {len(_clusters(first, samples)):,} files that all runs ran; rates are points of "
        f"100 with Wilson's interval. {about(first.execution)}"
    )
    return Table(columns, rows, numbers=len(columns) - 1, caption=caption)


Verdicts = Mapping[str, Mapping[str, Any]]
"""Of one system, by sample id."""


def _systems(comparison: Comparison, samples: Sequence[str]) -> Iterator[tuple[str, Verdicts]]:
    """Gold, teacher and the like once where all runs agree about them, else once a run; then the runs."""
    names = arm_names(len(comparison.baselines))
    beside = dict.fromkeys(
        system for run in comparison.runs for system in run.executions[samples[0]] if system != _subject(run)
    )
    for system in beside:
        found = {
            name: {sample: run.executions[sample][system] for sample in samples}
            for name, run in zip(names, comparison.runs, strict=True)
            if all(system in run.executions[sample] for sample in samples)
        }
        different = [name for place, name in enumerate(found) if found[name] not in list(found.values())[:place]]
        for name in different:
            yield (system if len(different) == 1 else f"{system} ({name})"), found[name]
    for name, run in zip(names, comparison.runs, strict=True):
        yield name, {sample: run.executions[sample][_subject(run)] for sample in samples}


def _row(name: str, found: Verdicts, samples: Sequence[str]) -> list[Cell]:
    facts = summarise(verdict_of(found[sample]) for sample in samples)
    return [
        Cell(name),
        Cell(rate_text(facts["pass_rate"])),
        Cell(rate_text(facts["pass_and_can_fail_rate"])),
        *(Cell(f"{facts['counts'][outcome]:,}") for outcome in OUTCOMES),
    ]


def execution_differences(comparison: Comparison) -> Mapping[str, Difference]:
    """The differences of the two rates (points), paired by sample, files drawn; empty where none can be paired."""
    samples = executed_samples(comparison)
    if not samples:
        return {}
    before, after = (
        np.concatenate([_sums(run, samples) for run in side]) for side in (comparison.baselines, comparison.candidates)
    )
    clusters = [_cluster_of(run)[sample] for run in comparison.baselines for sample in samples]
    statistics = {name: _points_of(column) for column, name in enumerate(RATES, start=1)}
    return paired_differences(before, after, clusters, statistics)


def _points_of(column: int) -> Any:
    def statistic(sums: FloatArray) -> FloatArray:
        points: FloatArray = 100 * sums[..., column] / np.maximum(sums[..., 0], 1)
        return points

    return statistic


def _sums(run: RunData, samples: Sequence[str]) -> FloatArray:
    verdicts = [verdict_of(run.executions[sample][_subject(run)]) for sample in samples]
    return np.array([[1, found.passed, found.passed_and_can_fail] for found in verdicts], dtype=np.float64)


def _cluster_of(run: RunData) -> Mapping[str, str]:
    return {row["id"]: cluster for row, cluster in zip(run.rows, run.clusters, strict=True)}


def _clusters(run: RunData, samples: Sequence[str]) -> set[str]:
    of = _cluster_of(run)
    return {of[sample] for sample in samples}


def execution_table(comparison: Comparison) -> Table | None:
    """Candidate against baseline; None where there is nothing to compare."""
    found = execution_differences(comparison)
    if not found:
        return None
    rows = [[Cell(RATES[name]), *difference_cells(one)] for name, one in found.items()]
    caption = (
        f"Points of 100 on the {len(executed_samples(comparison)):,} samples that all runs ran. Interval: paired BCa "
        "bootstrap over files; p: permutation test that swaps the arms within files."
    )
    return Table(["", "baseline", "candidate", "delta", "95 % interval", "p"], rows, numbers=5, caption=caption)

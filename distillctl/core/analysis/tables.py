"""The tables of a report, which the terminal shows too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillctl.core.analysis.comparison import Arm, Comparison, Group
from distillctl.core.analysis.document import Cell, Table
from distillctl.core.analysis.figures import interval_text, p_text, signed
from distillctl.core.analysis.names import METRIC_TITLES
from distillctl.core.analysis.run_data import RunData
from distillctl.core.analysis.settings import provenance, setting_differences
from distillctl.core.analysis.wall_time import step_times
from distillctl.core.evaluation.significance import Difference, mean_interval

MOST_GROUPS = 20
MAIN_METRICS = ("f1", "exact_match", "valid_syntax", "edit_similarity", "bleu")


def before_after_table(comparison: Comparison) -> Table:
    """Each metric of both arms, the difference, its interval and p."""
    columns = ["metric", *arms(comparison), "delta", "95 % interval", "p"]
    rows = [[Cell(METRIC_TITLES[name]), *difference_cells(found)] for name, found in comparison.differences.items()]
    pooled = f", pooled over {len(comparison.by_pair)} pairs of runs" if len(comparison.by_pair) > 1 else ""
    caption = (
        f"Points of 100. {comparison.samples:,} samples of {comparison.files:,} files of {comparison.split}{pooled}. "
        "Interval: paired BCa bootstrap over files; p: permutation test that swaps the arms within files."
    )
    return Table(columns, rows, numbers=5, caption=caption)


def arms_table(comparison: Comparison, *, brief: bool = False) -> Table | None:
    """Candidate and other arms, each against the baselines of its seeds: F1, valid syntax, time; None without others.

    ``brief`` leaves columns out, so that it fits into a terminal.
    """
    if not comparison.others:
        return None
    rows = [_baseline_row(comparison), *(_arm_row(arm) for arm in _against_baseline(comparison))]
    delta = ("delta", "95 % interval", "p")
    columns = ["arm", "runs", "F1", *delta, "valid syntax", *delta[:2], "step time"]
    if brief:
        shown = (0, 1, 2, 3, 4, 6, 9)
        columns, rows = [columns[n] for n in shown], [[row[n] for n in shown] for row in rows]
    caption = (
        "Points of 100; deltas from the baselines of the same seeds, intervals over files. Step time is that of the "
        "baseline's step, by the runs' own clocks; a dash where they cannot be divided. Many arms, many intervals: one "
        "in twenty of those that hold nothing but chance leaves 0 out."
    )
    return Table(columns, rows, numbers=len(columns) - 1, caption=caption)


def arms_by_seed_table(comparison: Comparison) -> Table | None:
    """F1 and valid syntax of every arm that has several runs: seed by seed, with the interval over them.

    None where no arm but the candidate, which has a table of its own, has several.
    """
    if all(len(arm.runs) == 1 for arm in comparison.others):
        return None
    several = [arm for arm in _against_baseline(comparison) if len(arm.runs) > 1]
    rows = [[_arm_name(arm), *_spread_cells(arm, "f1"), *_spread_cells(arm, "valid_syntax")] for arm in several]
    columns = ["arm", "F1 by seed", "mean", "95 % t interval", "valid syntax by seed", "mean", "95 % t interval"]
    caption = (
        "Deltas from the baseline of the same seed, in points of 100. The t interval is over seeds and so holds the "
        "noise of training, which the interval over files does not; with two seeds it is very wide."
    )
    return Table(columns, rows, numbers=len(columns) - 1, caption=caption)


def _against_baseline(comparison: Comparison) -> tuple[Arm, ...]:
    """The candidate and the other arms."""
    candidate = Arm("candidate", comparison.baselines, comparison.candidates, comparison.differences)
    return (candidate, *comparison.others)


def _spread_cells(arm: Arm, metric: str) -> list[Cell]:
    by_seed = arm.by_seed(metric)
    spread = mean_interval([difference for _, difference in by_seed])
    each = ", ".join(f"{seed}: {signed(difference)}" for seed, difference in by_seed)
    shown = (each, signed(spread.mean), interval_text(spread.low, spread.high))
    return [Cell(text) for text in shown]


def _arm_name(arm: Arm) -> Cell:
    return Cell(arm.name if all(run.finished for run in arm.runs) else f"{arm.name} (unfinished)")


def _baseline_row(comparison: Comparison) -> list[Cell]:
    f1, valid = comparison.differences["f1"], comparison.differences["valid_syntax"]
    texts = [len(comparison.baselines), f"{f1.baseline:.2f}", "", "", "", f"{valid.baseline:.2f}", "", "", "1.00"]
    return [Cell("baseline"), *(Cell(str(text)) for text in texts)]


def _arm_row(arm: Arm) -> list[Cell]:
    f1, valid = arm.differences["f1"], arm.differences["valid_syntax"]
    times = step_times(arm.baselines, arm.runs)
    return [
        _arm_name(arm),
        Cell(str(len(arm.runs))),
        *difference_cells(f1)[1:],
        *difference_cells(valid)[1:4],
        Cell("-" if isinstance(times, str) else f"{times.ratio:.2f}"),
    ]


def difference_cells(found: Difference) -> list[Cell]:
    """Both arms, the difference, its interval and p."""
    return [
        Cell(f"{found.baseline:.2f}"),
        Cell(f"{found.candidate:.2f}"),
        Cell(signed(found.difference)),
        Cell(interval_text(found.low, found.high)),
        Cell(p_text(found.p_value)),
    ]


def beside_table(comparison: Comparison) -> Table | None:
    """What the arms' figures are to be held against: trivial answers, the teacher, each student before training.

    A system that scored the same in all runs that have it is one row, else each run's score is one; None where no run
    has any.
    """
    names = arm_names(len(comparison.baselines))
    rows = []
    for system in dict.fromkeys(name for run in comparison.runs for name in run.beside):
        having = [(name, run) for name, run in zip(names, comparison.runs, strict=True) if system in run.beside]
        scores = {name: run.beside[system] for name, run in having}
        values = [tuple(_score(found, metric) for metric in MAIN_METRICS) for found in scores.values()]
        titles = [system] if len(set(values)) == 1 else [f"{system} ({name})" for name in scores]
        rows += [
            [Cell(title), *(Cell(text) for text in found)]
            for title, found in zip(titles, dict.fromkeys(values) if len(titles) == 1 else values, strict=True)
        ]
    if not rows:
        return None
    caption = (
        "Points of 100, on the same samples, as each evaluation noted them. A student worth having beats the two "
        "answers that need no model; the teacher is what it learns from."
    )
    return Table(["system", *(METRIC_TITLES[name] for name in MAIN_METRICS)], rows, numbers=5, caption=caption)


def _score(scores: Mapping[str, float], metric: str) -> str:
    return f"{scores[metric]:.2f}" if metric in scores else "not measured"


def seeds_table(comparison: Comparison) -> Table:
    """The difference of each pair, their mean with its interval, and two baselines against each other."""
    pairs = zip(comparison.baselines, comparison.candidates, strict=True)
    columns = ["delta of", *(f"pair {n} (seeds {seed_of(a)}, {seed_of(b)})" for n, (a, b) in enumerate(pairs, start=1))]
    columns += ["mean over pairs", "95 % t interval", "A/A: baseline 2 - baseline 1"]
    rows = []
    for name in MAIN_METRICS:
        spread = comparison.seeds[name]
        rows.append(
            [
                Cell(METRIC_TITLES[name]),
                *(Cell(signed(pair[name].difference)) for pair in comparison.by_pair),
                Cell(signed(spread.mean)),
                Cell(interval_text(spread.low, spread.high)),
                Cell(_noise(comparison, name)),
            ]
        )
    caption = (
        "Points of 100. The t interval is over the pairs' deltas and so holds the noise of training, which the "
        "interval over files does not; with two pairs it is very wide. A/A is what the same configuration with "
        "another seed differs by, with its interval over files."
    )
    return Table(columns, rows, numbers=len(columns) - 1, caption=caption)


def _noise(comparison: Comparison, name: str) -> str:
    if comparison.noise is None:
        return "not measured"
    found: Difference = comparison.noise[name]
    return f"{signed(found.difference)} ({interval_text(found.low, found.high)})"


def groups_table(comparison: Comparison, groups: Sequence[Group], what: str) -> Table:
    """F1 per project or kind, the largest groups; the others together are counted in the caption."""
    shown, rest = groups[:MOST_GROUPS], groups[MOST_GROUPS:]
    rows = [
        [
            Cell(group.name, code=True),
            Cell(f"{group.samples:,}"),
            Cell(f"{group.files:,}"),
            Cell(f"{group.baseline:.2f}"),
            Cell(f"{group.candidate:.2f}"),
            Cell(signed(group.difference)),
        ]
        for group in shown
    ]
    caption = "F1 in points. Many groups, few samples in most: a place to look, not a finding, hence no p-values."
    if rest:
        caption += f" Left out: {len(rest)} smaller ones with {sum(group.samples for group in rest):,} samples in all."
    return Table([what, "samples", "files", *arms(comparison), "delta"], rows, numbers=5, caption=caption)


def provenance_table(comparison: Comparison) -> Table:
    """The facts of every run, one column each."""
    facts = [provenance(run) for run in comparison.runs]
    names = arm_names(len(comparison.baselines))
    rows = [[Cell("directory"), *(Cell(run.path, code=True) for run in comparison.runs)]]
    rows += [[Cell(name), *(Cell(fact[name]) for fact in facts)] for name in facts[0]]
    return Table(["", *names], rows)


def settings_table(comparison: Comparison) -> Table:
    """Configuration fields whose values differ between the first pair."""
    return Table(["field", *arms(comparison)], _settings_rows(comparison.baselines[0], comparison.candidates[0]))


def other_settings_table(arm: Arm) -> Table:
    """Configuration fields whose values differ between another arm's first run and its baseline."""
    return Table(["field", "baseline", arm.name], _settings_rows(arm.baselines[0], arm.runs[0]))


def _settings_rows(baseline: RunData, other: RunData) -> list[list[Cell]]:
    return [
        [Cell(found.name, code=True), Cell(found.baseline, code=True), Cell(found.candidate, code=True)]
        for found in setting_differences(baseline, other)
    ]


def arm_names(pairs: int) -> list[str]:
    """``baseline``, ``candidate``; numbered when there are several."""
    numbers = [""] if pairs == 1 else [f" {number}" for number in range(1, pairs + 1)]
    return [f"{arm}{number}" for arm in ("baseline", "candidate") for number in numbers]


def arms(comparison: Comparison) -> list[str]:
    """The two columns' names, marked where a run of the arm did not come to its end."""
    sides = (("baseline", comparison.baselines), ("candidate", comparison.candidates))
    return [name if all(run.finished for run in runs) else f"{name} (unfinished)" for name, runs in sides]


def seed_of(run: RunData) -> str:
    """The run's seed, as noted."""
    return str(run.facts("seeds").get("seed", "unknown"))

"""Two arms side by side: every metric's difference with its interval, per seed, per project, per kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distillctl.core.analysis.comparable import check_comparable, in_order_of
from distillctl.core.analysis.run_data import RunData
from distillctl.core.errors import UsageError
from distillctl.core.evaluation.corpus_sums import METRICS
from distillctl.core.evaluation.significance import Difference, MeanInterval, mean_interval, paired_differences


@dataclass(frozen=True, slots=True)
class Group:
    """F1 (points) of the samples that share a project or a kind. ``samples`` counts each once, not per seed."""

    name: str
    samples: int
    files: int
    baseline: float
    candidate: float

    @property
    def difference(self) -> float:
        """Candidate minus baseline, in points."""
        return self.candidate - self.baseline


@dataclass(frozen=True, eq=False)
class Arm:
    """Another arm: its runs, and the baseline of each one's seed, by position. ``differences`` pool all pairs."""

    name: str
    baselines: tuple[RunData, ...]
    runs: tuple[RunData, ...]
    differences: Mapping[str, Difference]

    def by_seed(self, metric: str) -> list[tuple[str, float]]:
        """Of each run the seed, and its difference from the baseline of that seed in points; in the seeds' order."""
        score = METRICS[metric]
        pairs = sorted(zip(self.baselines, self.runs, strict=True), key=lambda pair: pair[1].config.get("seed") or 0)
        return [
            (str(run.config.get("seed")), float(score(run.sums.sum(axis=0)) - score(before.sums.sum(axis=0))))
            for before, run in pairs
        ]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What there is to say about baseline and candidate runs, paired by position.

    ``differences`` pools the samples of all pairs and draws the same files for all of them; ``by_pair`` takes
    each pair alone. ``noise`` compares the first two baselines with each other: a difference where there is none.
    ``others`` are further arms, each against the baseline too.
    """

    split: str
    baselines: tuple[RunData, ...]
    candidates: tuple[RunData, ...]
    differences: Mapping[str, Difference]
    by_pair: tuple[Mapping[str, Difference], ...]
    seeds: Mapping[str, MeanInterval]
    noise: Mapping[str, Difference] | None
    by_project: tuple[Group, ...]
    by_kind: tuple[Group, ...]
    others: tuple[Arm, ...] = ()

    @property
    def runs(self) -> tuple[RunData, ...]:
        """The runs of the two arms, baselines first."""
        return (*self.baselines, *self.candidates)

    @property
    def all_runs(self) -> tuple[RunData, ...]:
        """Those, and the other arms'."""
        return (*self.runs, *(run for arm in self.others for run in arm.runs))

    @property
    def samples(self) -> int:
        """How many samples each run answered."""
        return len(self.baselines[0].rows)

    @property
    def files(self) -> int:
        """How many files they come from."""
        return len(set(self.baselines[0].clusters))

    @property
    def unfinished(self) -> tuple[RunData, ...]:
        """Runs that did not come to their end."""
        return tuple(run for run in self.all_runs if not run.finished)


def compare(
    baselines: Sequence[RunData],
    candidates: Sequence[RunData],
    split: str,
    others: Mapping[str, Sequence[RunData]] | None = None,
) -> Comparison:
    """Compares the arms, the first baseline with the first candidate and so on; of ``others``, by their seeds.

    Raises UsageError unless there are equally many, or for a run of another arm without a baseline of its seed;
    DataError for runs that cannot be compared.
    """
    others = others or {}
    if not baselines or len(baselines) != len(candidates):
        raise UsageError(
            f"--baseline and --candidate should be given equally often, at least once. "
            f"Found {len(baselines)} and {len(candidates)}"
        )
    check_comparable([*baselines, *candidates, *(run for runs in others.values() for run in runs)])
    before = tuple(_in_order(baselines[0], run) for run in baselines)
    after = tuple(_in_order(baselines[0], run) for run in candidates)
    by_pair = tuple(_differences([first], [second]) for first, second in zip(before, after, strict=True))
    return Comparison(
        split=split,
        baselines=before,
        candidates=after,
        differences=by_pair[0] if len(by_pair) == 1 else _differences(before, after),
        by_pair=by_pair,
        seeds={name: mean_interval([pair[name].difference for pair in by_pair]) for name in METRICS},
        noise=_differences(before[:1], before[1:2]) if _two_runs(before) else None,
        by_project=_groups(before, after, "project"),
        by_kind=_groups(before, after, "kind"),
        others=tuple(_arm(name, runs, before) for name, runs in others.items()),
    )


def _arm(name: str, runs: Sequence[RunData], baselines: Sequence[RunData]) -> Arm:
    by_seed = {run.config.get("seed"): run for run in reversed(baselines)}
    for run in runs:
        if run.config.get("seed") not in by_seed:
            raise UsageError(
                f"{run.path}: seed {run.config.get('seed')}, and no baseline has it ({', '.join(map(str, by_seed))}): "
                "arms are compared with the baselines of their seeds, which saw the same records in the same order"
            )
    mine = tuple(_in_order(baselines[0], run) for run in runs)
    before = tuple(by_seed[run.config.get("seed")] for run in runs)
    return Arm(name, before, mine, _differences(before, mine))


def _in_order(first: RunData, run: RunData) -> RunData:
    places = in_order_of(first, run)
    return replace(run, rows=[run.rows[place] for place in places], sums=run.sums[places])


def _two_runs(runs: Sequence[RunData]) -> bool:
    return len(runs) > 1 and not runs[0].is_same(runs[1])


def _differences(before: Sequence[RunData], after: Sequence[RunData]) -> Mapping[str, Difference]:
    return paired_differences(
        np.concatenate([run.sums for run in before]),
        np.concatenate([run.sums for run in after]),
        [cluster for run in before for cluster in run.clusters],
        METRICS,
    )


def _groups(before: Sequence[RunData], after: Sequence[RunData], field: str) -> tuple[Group, ...]:
    """Largest first; of equally large ones the alphabetically first."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(before[0].rows):
        places[row[field]].append(place)
    clusters = before[0].clusters
    groups = [
        Group(
            name=name,
            samples=len(members),
            files=len({clusters[place] for place in members}),
            baseline=_f1(before, members),
            candidate=_f1(after, members),
        )
        for name, members in places.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.samples, group.name)))


def _f1(runs: Sequence[RunData], places: list[int]) -> float:
    total: Any = sum(run.sums[places].sum(axis=0) for run in runs)
    return float(METRICS["f1"](total))

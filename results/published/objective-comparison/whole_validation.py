"""v1 against trident on all of validation: the 5,500 records of runs/ and the rest of runs-rest/, put together.

    python results/published/objective-comparison/whole_validation.py            # [BASELINE CANDIDATE]

prints what report-rest/ and report/ say each for itself, over both, for the seeds that both arms have in both folders.
"""

from __future__ import annotations

import json
import lzma
import sys

import numpy as np
from report_all import kept_seeds
from run_all import HERE

from distillctl.core.evaluation.significance import FloatArray, mean_interval, paired_differences

PARTS = (HERE / "runs", HERE / "runs-rest")
COLUMNS = ("tp", "fp", "fn", "valid_syntax")


def main(baseline: str = "trident", candidate: str = "v1") -> None:
    """Prints the two metrics that the request sets a bound to."""
    seeds = sorted(
        set.intersection(*(set(kept_seeds(part).get(arm, [])) for part in PARTS for arm in (baseline, candidate)))
    )
    before, after = ([rows(arm, seed) for seed in seeds] for arm in (baseline, candidate))
    clusters = [cluster for _, names in before for cluster in names]
    found = paired_differences(
        np.concatenate([values for values, _ in before]),
        np.concatenate([values for values, _ in after]),
        clusters,
        {"F1": f1, "valid syntax": valid},
    )
    print(f"{candidate} against {baseline}, {len(before[0][1]):,} records, seeds {', '.join(seeds)}")
    for name, statistic in (("F1", f1), ("valid syntax", valid)):
        pairs = [
            float(statistic(b.sum(axis=0)) - statistic(a.sum(axis=0)))
            for (a, _), (b, _) in zip(before, after, strict=True)
        ]
        print(name, found[name], pairs, mean_interval(pairs), sep="\n  ")


def rows(arm: str, seed: str) -> tuple[FloatArray, list[str]]:
    """[N, columns] of a run's records in the order of their ids, and the file of each."""
    found = []
    for part in PARTS:
        with lzma.open(
            part / f"{arm}-{seed}" / "evaluation/validation/predictions.jsonl.xz", "rt", encoding="utf-8"
        ) as file:
            found += [json.loads(line) for line in file]
    found.sort(key=lambda row: row["id"])
    values = np.array([[*(row[column] for column in COLUMNS), 1] for row in found], dtype=float)
    return values, [f"{row['project']}/{row['path']}" for row in found]


def f1(sums: FloatArray) -> FloatArray:
    """Of sums [..., columns], in points."""
    return 200 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def valid(sums: FloatArray) -> FloatArray:
    """Share of valid syntax, in points."""
    return 100 * sums[..., 3] / sums[..., 4]


if __name__ == "__main__":
    main(*sys.argv[1:])

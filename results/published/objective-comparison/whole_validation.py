"""v1 against trident on all of validation: the 5,500 records of runs/ and the rest in runs-rest/, put together.

    python results/published/objective-comparison/whole_validation.py            # [BASELINE CANDIDATE]

prints what report/ and report-rest/ say each for itself, over both, for the seeds that both arms have in runs-rest/.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from report_all import kept_seeds
from run_all import HERE

from distillctl.core.analysis.comparison import compare
from distillctl.core.analysis.run_data import RunData, read_run

REPORTED, REST = HERE / "runs", HERE / "runs-rest"


def main(baseline: str = "trident", candidate: str = "v1") -> None:
    """Prints each metric: both arms, the difference, its interval over files, the pairs' and theirs."""
    kept = kept_seeds(REST)
    seeds = [seed for seed in kept[baseline] if seed in kept[candidate]]
    before, after = ([whole(f"{arm}-{seed}") for seed in seeds] for arm in (baseline, candidate))
    found = compare(before, after, "validation")
    print(f"{candidate} against {baseline}, {found.samples:,} records of {found.files} files, seeds {', '.join(seeds)}")
    for name, of in found.differences.items():
        pairs = ", ".join(f"{pair[name].difference:+.2f}" for pair in found.by_pair)
        over = found.seeds[name]
        print(
            f"{name}: {of.baseline:.2f} to {of.candidate:.2f}, {of.difference:+.2f} ({of.low:+.2f} to {of.high:+.2f}), "
            f"p = {of.p_value:.4f}; pairs {pairs}; over the pairs {over.low:+.2f} to {over.high:+.2f}"
        )


def whole(name: str) -> RunData:
    """A run with the samples of both of its scores."""
    reported, rest = (read_run(str(part / name), "validation") for part in (REPORTED, REST))
    rows, sums = [*reported.rows, *rest.rows], np.concatenate([reported.sums, rest.sums])
    return replace(reported, rows=rows, sums=sums, inputs={**reported.inputs, **rest.inputs})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Builds this experiment's tables and pictures from its runs, with ``distillctl report``.

    python results/published/objective-comparison/report_all.py

writes report/ (every arm against trident), report-from-v1/ (what v1 loses by each part that is taken out of it),
report-rest/ (the same students on the rest of validation) and report-all/ (of the runs on all records, before v1 had
gating); of those with the first teacher, first-teacher/report/, /report-from-v1/ and /report-4000/ (on 4,000 records).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from run_all import HERE, is_kept

REPORTS = {
    "report": ("runs", "trident", "v1"),
    "report-from-v1": ("runs", "v1", "v1-no-gating"),
    "report-rest": ("runs-rest", "trident", "v1"),
    "report-all": ("runs-all", "trident", "v1-no-gating"),
    "report-4000": ("runs-4000", "trident", "v1"),
    "first-teacher/report": ("first-teacher/runs", "trident", "v1"),
    "first-teacher/report-from-v1": ("first-teacher/runs", "v1", "v1-unbalanced"),
    "first-teacher/report-4000": ("first-teacher/runs-4000", "trident", "v1"),
}
"""Folder: its runs; the arm that all others are compared with; the one that gets the pictures and the verdicts."""


def main() -> int:
    """Builds those of which there are runs; the first exit code that is not 0, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="the folders are written below it")
    parser.add_argument("--only", choices=REPORTS, help="one of them")
    options = parser.parse_args()
    for name, (runs, baseline, candidate) in REPORTS.items():
        seeds = kept_seeds(HERE / runs)
        if options.only in (None, name) and {baseline, candidate} <= seeds.keys():
            arguments = command(seeds, baseline, candidate)
            # From beside the runs: what a report calls a run is the path it was given.
            code = subprocess.run(
                [sys.executable, "-m", "distillctl", *arguments, "-o", str((options.output / name).resolve())],
                cwd=HERE / runs,
                check=False,
            ).returncode
            if code:
                return code
    return 0


def kept_seeds(runs: Path) -> dict[str, list[str]]:
    """Arm: the seeds of which there is a finished run."""
    seeds: dict[str, list[str]] = {}
    for folder in sorted(runs.iterdir()) if runs.exists() else ():
        if is_kept(folder):
            arm, _, seed = folder.name.rpartition("-")
            seeds.setdefault(arm, []).append(seed)
    return seeds


def command(seeds: dict[str, list[str]], baseline: str, candidate: str) -> list[str]:
    """``report`` of the seeds that both have; of other arms, those of the same seeds.

    Against v1 only its own variants are laid: against trident, all.
    """
    common = [seed for seed in seeds[baseline] if seed in seeds[candidate]]
    arguments = ["report"]
    for seed in common:
        arguments += ["--baseline", f"{baseline}-{seed}", "--candidate", f"{candidate}-{seed}"]
    for arm in sorted(seeds, key=lambda arm: (arm.startswith("v1"), arm)):
        if arm not in (baseline, candidate) and (baseline != "v1" or arm.startswith("v1")):
            arguments += [part for seed in seeds[arm] if seed in common for part in ("--arm", f"{arm}={arm}-{seed}")]
    return arguments


if __name__ == "__main__":
    sys.exit(main())

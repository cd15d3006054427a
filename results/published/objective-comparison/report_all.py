"""Builds this experiment's tables and pictures from its runs, with ``distillctl report``.

    python results/published/objective-comparison/report_all.py

writes report/ (every arm against trident) and report-from-v1/ (what v1 loses by each part that is taken out of it),
both on 5,500 validation records; report-rest/ (the same students on the others); on all of them report-whole/,
report-whole-from-v1/ and report-whole-from-ancestor/ (v1 and trident against focal + jsd, which is trident as the
ancestor ran it); of the runs on all training records report-all/ (v1 before it had gating) and report-all-v1/
(today's); of those with the first teacher first-teacher/report/, /report-from-v1/ and /report-4000/ (4,000 records).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from run_all import HERE, is_kept
from whole_validation import put_together

WHOLE = "runs-whole"  # of runs/ and runs-rest/, made when it is needed
REPORTS = {
    "report": ("runs", "trident", "v1"),
    "report-from-v1": ("runs", "v1", "v1-all-tokens-alike"),
    "report-rest": ("runs-rest", "trident", "v1"),
    "report-whole": (WHOLE, "trident", "v1"),
    "report-whole-from-v1": (WHOLE, "v1", "v1-all-tokens-alike"),
    "report-whole-from-ancestor": (WHOLE, "focal-jsd", "v1"),
    "report-all": ("runs-all", "trident", "v1-no-gating"),
    "report-all-v1": ("runs-all", "trident", "v1"),
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
    wanted = {name: of for name, of in REPORTS.items() if options.only in (None, name)}
    with tempfile.TemporaryDirectory() as made:
        if any(runs == WHOLE for runs, _, _ in wanted.values()):
            put_together(Path(made) / WHOLE)
        for name, (runs, baseline, candidate) in wanted.items():
            folder = (Path(made) if runs == WHOLE else HERE) / runs
            code = report(folder, baseline, candidate, options.output / name)
            if code:
                return code
    return 0


def report(runs: Path, baseline: str, candidate: str, output: Path) -> int:
    """Builds one, if both have runs of one seed; the exit code."""
    seeds = kept_seeds(runs)
    if not set(seeds.get(baseline, ())) & set(seeds.get(candidate, ())):
        return 0
    arguments = [*command(seeds, baseline, candidate), "-o", str(output.resolve())]
    # From beside the runs: what a report calls a run is the path it was given.
    return subprocess.run([sys.executable, "-m", "distillctl", *arguments], cwd=runs, check=False).returncode


def kept_seeds(runs: Path) -> dict[str, list[str]]:
    """Arm: the seeds of which there is a finished run."""
    seeds: dict[str, list[str]] = {}
    for folder in sorted(runs.iterdir()) if runs.exists() else ():
        if is_kept(folder):
            arm, _, seed = folder.name.rpartition("-")
            seeds.setdefault(arm, []).append(seed)
    return seeds


def command(seeds: dict[str, list[str]], baseline: str, candidate: str) -> list[str]:
    """``report`` of the seeds that both have; of other arms, those of the same seeds."""
    common = [seed for seed in seeds[baseline] if seed in seeds[candidate]]
    arguments = ["report"]
    for seed in common:
        arguments += ["--baseline", f"{baseline}-{seed}", "--candidate", f"{candidate}-{seed}"]
    for arm in sorted(seeds, key=lambda arm: (arm.startswith("v1"), arm)):
        if arm not in (baseline, candidate) and is_laid_beside(baseline, arm):
            arguments += [part for seed in seeds[arm] if seed in common for part in ("--arm", f"{arm}={arm}-{seed}")]
    return arguments


def is_laid_beside(baseline: str, arm: str) -> bool:
    """Against trident all are laid, against v1 its own variants, against another one trident."""
    return {"trident": True, "v1": arm.startswith("v1")}.get(baseline, arm == "trident")


if __name__ == "__main__":
    sys.exit(main())

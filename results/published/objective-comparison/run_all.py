"""The runs of this experiment, one after the other: what is finished lies in runs/ and is not run again.

    python results/published/objective-comparison/run_all.py --hours 2 --commit

With ``--records 4000`` it is the same experiment with other numbers of training records, in runs-4000/. With
``--config all-records.yaml --runs runs-all`` it is what that file says, on a GPU for instance.

Stopped at any time, it goes on with the next run that is missing; one that was under way goes on from its checkpoint
where ``--work`` still has it. Several of it may run at once on one machine: each takes what no other has. With
``--hours`` it starts no run that would end after that time, by the longest of its runs so far.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distillctl.core.store.lock import hold_alone

HERE = Path(__file__).resolve().parent
RECORDS = 10_000
"""Of common.yaml."""
MAIN = ("trident", "v1", "focal-jsd", "plain-ce")
SEEDS = (1, 2, 3)
IN_USE = 2
"""Exit code of distillctl where another process has the directory (and of wrong usage, which stops it all)."""


def main() -> int:
    """Runs what is missing. 0: nothing is missing any more, or the time is up; else the code of the run that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=",".join(MAIN), help="comma-separated names of files in arms/")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--hours", type=float, default=float("inf"))
    parser.add_argument("--records", type=int, default=RECORDS, help="to train on")
    parser.add_argument("--work", type=Path, help="where runs are trained (default: in results/)")
    parser.add_argument("--runs", type=Path, help="where finished runs are archived (default: beside this file)")
    parser.add_argument("--config", type=Path, action="append", default=[], help="besides common.yaml: with --runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="to try it out: with --runs")
    parser.add_argument("--commit", action="store_true", help="commit each finished run")
    options = parser.parse_args()
    if (options.set or options.config) and options.runs is None:
        parser.error("--set and --config make other runs than this experiment's: give --runs DIR, too")
    if not options.config:  # else it says on how many records
        options.set.append(f"data.max_train_samples={options.records}")
    options.runs = options.runs or done(options.records)
    options.work = options.work or Path("results/objective-comparison") / options.runs.name
    end, longest = time.monotonic() + options.hours * 3600, 0.0
    for arm, seed in missing(options.runs, options.arms.split(","), options.seeds.split(",")):
        if time.monotonic() + longest > end:
            print("no time for another run", flush=True)
            return 0
        started = time.monotonic()
        name = f"{arm}-{seed}"
        code = 0 if is_kept(options.work / name) else train(arm, seed, options)
        if code == IN_USE and (lock := options.work / name / "run.lock").exists():
            print(f"left out: {lock} says that another process is at it", flush=True)
            continue
        if code:
            return code
        keep(options.work / name, options.runs, commit=options.commit)
        longest = max(longest, time.monotonic() - started)
    return 0


def done(records: int) -> Path:
    """Where the finished runs on so many records are kept."""
    return HERE / f"runs{suffix(records)}"


def suffix(records: int) -> str:
    """What the names of folders end with."""
    return "" if records == RECORDS else f"-{records}"


def missing(runs: Path, arms: list[str], seeds: list[str]) -> Iterator[tuple[str, str]]:
    """All arms with the first seed, then with the next; looked up when each one's turn comes."""
    for seed in seeds:
        for arm in arms:
            if not is_kept(runs / f"{arm}-{seed}"):
                yield arm, seed


def is_kept(folder: Path) -> bool:
    """Whether a finished run lies there, whole: run.json says so last."""
    record = folder / "run.json"
    return record.exists() and json.loads(record.read_text(encoding="utf-8"))["status"] == "finished"


def train(arm: str, seed: str, options: argparse.Namespace) -> int:
    """Trains and scores one run, or goes on with it; the exit code."""
    folder = options.work / f"{arm}-{seed}"
    print(f"{time.strftime('%H:%M:%S')} {folder}", flush=True)
    files = [HERE / "arms" / f"{arm}.yaml", HERE / "common.yaml", *options.config]
    configs = [part for file in files for part in ("--config", str(file))]
    sets = [part for setting in options.set for part in ("--set", setting)]
    command = ["train", *configs, *sets, "--seed", seed, "--output-dir", str(folder), *again(folder)]
    return subprocess.run([sys.executable, "-m", "distillctl", *command], check=False).returncode


def again(folder: Path) -> list[str]:
    """How to start in a directory that an earlier attempt may have left."""
    if any((folder / "checkpoints").glob("step-*")):
        return ["--resume"]
    return ["--overwrite"] if (folder / "run.json").exists() else []


def keep(folder: Path, runs: Path, *, commit: bool) -> None:
    """Archives a run that is not kept yet, and commits it; one process after the other."""
    with Path(__file__).open("rb") as file:  # git lets nobody wait, and another may be about to keep the same run
        hold_alone(file)
        if is_kept(runs / folder.name):
            return
        archive(folder, runs)
        if commit:
            kept = str(runs.resolve() / folder.name)
            subprocess.run(["git", "add", kept], cwd=HERE, check=True)
            subprocess.run(["git", "commit", "-q", "-m", f"docs: run {folder.name}", "--", kept], cwd=HERE, check=True)


def archive(folder: Path, runs: Path) -> None:
    """Copies what reports need of a run; what may be there already was cut off on the way."""
    command = ["archive", str(folder), "-o", str(runs), *(["--overwrite"] if (runs / folder.name).exists() else [])]
    subprocess.run([sys.executable, "-m", "distillctl", *command], check=True)


if __name__ == "__main__":
    sys.exit(main())

"""Scores finished runs on the validation records that their own scores leave out.

    python results/published/objective-comparison/rest_of_validation.py results/objective-comparison/runs/v1-1 ...

5,500 of some 17,000 are reported again and again; on these, whose scores nobody has seen, a choice can be confirmed.
The runs are archived in runs-rest/ with these scores; what is there is not scored again. The files are not new: both
parts have records of the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from run_all import HERE, archive, is_kept

from distillctl.core.config import load_config
from distillctl.core.data.records import write_jsonl
from distillctl.core.data.selection import fixed_sample
from distillctl.core.materials import read_corpus
from distillctl.core.progress import SilentReporter

RUNS = HERE / "runs-rest"
WORK = Path("results/objective-comparison/rest")


def main() -> None:
    """Scores and archives the runs that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a finished run")
    options = parser.parse_args()
    records = WORK / "records.jsonl"
    if not records.exists():
        write_rest(records)
    for run in options.runs:
        if not is_kept(RUNS / run.name):
            score(run, WORK / run.name, records)


def write_rest(path: Path) -> None:
    """All training records, and the validation records that a run's ``evaluation.limit`` leaves out."""
    config = load_config(["loss-improvements-v1", str(HERE / "common.yaml")])
    corpus = read_corpus(config, SilentReporter())
    every = corpus.records("validation")
    scored = {record.id for record in fixed_sample(every, config.evaluation.limit)}
    rest = [record for record in every if record.id not in scored]
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{os.getpid()}")  # half a file would be taken for all of it
    write_jsonl(whole, [*corpus.records("train"), *rest])  # train: the baselines are made of it
    whole.replace(path)
    print(f"{len(rest):,} of {len(every):,} validation records", flush=True)


def score(run: Path, folder: Path, records: Path) -> None:
    """A copy of the run with other scores; one that was cut off goes on where it was."""
    left_out = shutil.ignore_patterns("checkpoints", "tensorboard", "evaluation")
    shutil.copytree(run, folder, ignore=left_out, dirs_exist_ok=True)
    command = ["evaluate", str(folder), "--data", str(records), "--limit", "0", "--no-teacher"]
    subprocess.run([sys.executable, "-m", "distillctl", *command], check=True)
    archive(folder, RUNS)


if __name__ == "__main__":  # the corpus is mined in processes that import this file
    main()

"""Sweeps with an objective that trains nothing: planned from real configurations, scored by a formula."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl.core.config import Config, load_config
from distillctl.core.progress import Reporter, SilentReporter
from distillctl.core.sweep.plan import Sweep, Trial, plan_sweep
from distillctl.core.sweep.study import Entry, Result, Study, sqlite_url
from distillctl.core.sweep.worker import Worker

FILES = 12
SAMPLES = 20  # of each file


def configure(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """What a command line without options gives."""
    return load_config(flags=values)


def planned(folder: Path, *grid: str, seeds: int = 1, **options: Any) -> Sweep:
    return plan_sweep(configure, grid or ("beta=3,5,7",), seeds=seeds, output=folder, **options)


def study_in(folder: Path, sweep: Sweep) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(sweep, sqlite_url(folder / "sweep.db"))


MADE_FROM = {"data": "d", "teacher": "t", "tokenizer": "k"}


def result(right: int, records: str = "dev", uneven: bool = True) -> Result:
    """Of each file's samples, about ``right`` answered rightly; files differ from each other."""
    files = {}
    for number in range(FILES):
        tp = min(SAMPLES, max(0, right + (number % 3 - 1) * uneven))
        files[f"file{number:02}"] = (tp, SAMPLES - tp, SAMPLES - tp)
    done = sum(tp for tp, _, _ in files.values())
    return Result(100 * done / (FILES * SAMPLES), files, records, FILES * SAMPLES, 1.5, MADE_FROM)


class Silent:
    """A view that remembers."""

    def __init__(self) -> None:
        self.seen: list[list[Entry]] = []

    def show(self, entries: Sequence[Entry], mine: int | None) -> None:
        self.seen.append(list(entries))

    def reporter(self, trial: Trial) -> Reporter:
        return SilentReporter()


def main(folder: Path, log: Path, seconds: float, die_in: str) -> None:
    """A worker as a process: notes in ``log`` what it starts and ends, takes ``seconds`` a trial, may kill itself."""

    def note(word: str, trial: Trial) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{word} {trial.number} {os.getpid()}\n")

    def objective(trial: Trial, reporter: Reporter) -> Result:
        note("start", trial)
        if die_in == str(trial.number):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        note("end", trial)
        return result(5 + trial.number % 7)

    sweep = planned(folder, "beta=1,2,3,4,5,6", seeds=2)
    Worker(sweep, study_in(folder, sweep), objective, Silent()).work()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])

"""A process that has collected some test files and runs changed tests of them, and what to do when it dies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillctl.core.execution.outcomes import ERROR, TIMEOUT, UNTRIED, Verdict, judge
from distillctl.core.execution.placing import Place, put
from distillctl.core.execution.sandbox import TOTAL_BYTES, Isolation, Started

RUNNER = "distillctl.core.execution.runner"
COLLECTING_SECONDS = 120
SECONDS_PER_FILE = 10
GRACE = 15
"""Seconds beyond a test's own time that its runner has to kill it and answer."""
MOST_DEATHS = 3
MOST_ITEMS = 20
"""At most this many parameter sets of a test are run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one run of one test may take, and the isolation it runs in."""

    timeout: float
    isolation: Isolation


class Session:
    """Runs tests of some files of one package. Close it, or use it as a context manager."""

    def __init__(self, root: Path, files: Sequence[Path], limits: Limits) -> None:
        self._root = root
        self._files = [str(file) for file in files]
        self._limits = limits
        self._shared: Started | None = None
        self._alone: Started | None = None
        self._collected: str | None = None  # the one file that the shared process has; None: all
        self._one_by_one = False
        self._hopeless: set[str] = set()
        self._deaths = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        for started in (self._shared, self._alone):
            if started is not None:
                started.close()
        self._shared = self._alone = None

    def kill(self) -> None:
        """Ends the processes from another thread: whoever waits for an answer gets none."""
        for started in (self._shared, self._alone):
            if started is not None:
                started.process.kill()

    def run_gold(self, place: Place, text: str) -> Verdict:
        """The record's own assertion. What goes wrong beside others is tried again in a process of its own."""
        verdict = self.run(place, text)
        if verdict.outcome in (ERROR, TIMEOUT) and not verdict.alone:
            return self.run(place, text, alone=True)
        return verdict

    def run(self, place: Place, text: str, *, items: Sequence[str] | None = None, alone: bool = False) -> Verdict:
        """The test with ``text`` in it; if it passes, whether its assertion can fail.

        ``items`` are the parameter sets to run; None is those there are. ``alone``: in a process that imports the test
        file for this run only.
        """
        alone = alone or self._deaths >= MOST_DEATHS
        job = self._job(place, text, items)
        verdict = replace(judge(self._ask(job, alone=alone)), alone=alone)
        if verdict.passed:
            mutated = self._ask(job | {"mutated": True, "items": list(verdict.items)}, alone=alone)
            if mutated is not None and mutated["status"] == "ended":
                return replace(verdict, can_fail=bool(mutated["report"].get("can_fail")))
            return replace(verdict, detail=UNTRIED)
        return verdict

    def _job(self, place: Place, text: str, items: Sequence[str] | None) -> dict[str, Any]:
        placed = put(place, text)
        return {
            "file": str(place.file),
            "name": placed.name,
            "line": placed.line,
            "source": placed.source,
            "spans": placed.spans,
            "items": None if items is None else list(items),
            "timeout": self._limits.timeout,
            "mutated": False,
        }

    def _ask(self, job: dict[str, Any], *, alone: bool) -> dict[str, Any] | None:
        if alone:
            job = job | {"timeout": self._limits.timeout + COLLECTING_SECONDS}
        try:
            started = self._start_alone() if alone else self._start_shared(job["file"])
            if started is None:
                return None
            started.ask(job)
            answer = started.answer(job["timeout"] + GRACE)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self._bury(alone)
        return answer

    def _bury(self, alone: bool) -> None:
        if alone and self._alone is not None:
            self._alone.close()
            self._alone = None
        elif not alone:
            self._deaths += 1
            self._close_shared()

    def _close_shared(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _start_shared(self, file: str) -> Started | None:
        """The process that has collected a file: all files at first; where that fails, the file by itself."""
        if self._shared is not None and self._collected is not None and self._collected != file:
            self._close_shared()
        if self._shared is None and not self._one_by_one:
            self._shared, self._collected = self._collect(self._files), None
            self._one_by_one = self._shared is None
        if self._shared is None and file not in self._hopeless:
            self._shared, self._collected = self._collect([file]), file
            if self._shared is None:
                self._hopeless.add(file)
        return self._shared

    def _collect(self, files: Sequence[str]) -> Started | None:
        started = self._start(files)
        if started.answer(COLLECTING_SECONDS + SECONDS_PER_FILE * len(files)) is None:
            started.close()
            return None
        return started

    def _start_alone(self) -> Started | None:
        if self._alone is None:
            self._alone = self._start([])
            if self._alone.answer(GRACE) is None:
                self._bury(alone=True)
        return self._alone

    def _start(self, files: Sequence[str]) -> Started:
        """A runner that collects these files, or none: then each fork collects for itself."""
        spec = {
            "collect": bool(files),
            "files": list(files),
            "package_root": str(self._root),
            "total_bytes": TOTAL_BYTES,
            "most_items": MOST_ITEMS,
        }
        argv = [sys.executable, "-s", "-m", RUNNER]
        return Started(argv, self._limits.isolation, [self._root], spec)

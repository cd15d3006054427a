"""Works on a sweep until no trial is left: takes one after the other, outlives failures, takes over from the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from distillctl.core.errors import DistillError, InUseError, RunError
from distillctl.core.progress import Reporter
from distillctl.core.sweep.claims import DeathWatch, worker_name
from distillctl.core.sweep.plan import Sweep, Trial
from distillctl.core.sweep.study import FAILED, Entry, Result, Study

BEAT_SECONDS = 10.0
POLL_SECONDS = 1.0
IN_USE_SECONDS = 30.0
"""Until a trial is tried again in whose directory a worker that was given up for dead turned out to write still."""
MOST_DEATHS = 5
"""A trial in which this many workers died (out of memory, say) would kill every further one: it counts as failed.
--retry-failed starts the count anew."""

Objective = Callable[[Trial, Reporter], Result]
"""Trains and scores one trial. Whatever it raises is that trial's failure."""


class View(Protocol):
    """Who is shown how the sweep goes."""

    def show(self, entries: Sequence[Entry], mine: int | None) -> None:
        """How every trial stands; ``mine`` is the one that this worker is on."""

    def reporter(self, trial: Trial) -> Reporter:
        """Who hears of a trial's own progress."""


class Worker:
    """One process's part in a sweep."""

    def __init__(self, sweep: Sweep, study: Study, objective: Objective, view: View, *, retry_failed: bool = False):
        self._sweep, self._study, self._objective, self._view = sweep, study, objective, view
        self._me = worker_name()
        self._watch = DeathWatch()
        self._not_before: dict[int, float] = {}  # trial: the time until which it is left to whoever is at it
        # Only what failed before now: what fails again is not tried for ever.
        failed = (entry for entry in study.entries() if retry_failed and entry.state == FAILED)
        self._again = {entry.number for entry in failed}

    def work(self) -> None:
        """Returns when every trial is done or has failed, whoever did it.

        Raises RunError when the storage fails; KeyboardInterrupt with the trial under way given back.
        """
        while True:
            entries = self._study.entries()
            self._view.show(entries, None)
            trial = next((trial for trial in self._sweep.trials if self._gets(trial, entries[trial.number])), None)
            if trial is not None:
                self._do(trial)
            elif all(self._is_over(entry) for entry in entries):
                return
            else:  # others are at work; one of them may die
                time.sleep(POLL_SECONDS)

    def _is_over(self, entry: Entry) -> bool:
        return entry.finished and entry.number not in self._again

    def _gets(self, trial: Trial, entry: Entry) -> bool:
        """Takes the trial if it is to be had."""
        claims = self._study.claims
        if self._is_over(entry) or time.monotonic() < self._not_before.get(trial.number, 0.0):
            return False
        if entry.claim.worker is None:
            taken = claims.take(trial.number, self._me)
        elif self._watch.is_dead(trial.number, entry.claim):
            taken = claims.take_over(trial.number, entry.claim, self._me)
        else:
            return False
        if taken and self._is_over(self._study.entries()[trial.number]):  # somebody was faster, and is done already
            claims.release(trial.number, self._me)
            return False
        return taken

    def _do(self, trial: Trial) -> None:
        started = time.perf_counter()
        number = self._study.start(trial)
        entries = self._study.entries()
        self._view.show(entries, trial.number)
        try:
            if (deaths := entries[trial.number].claim.deaths) >= MOST_DEATHS:
                self._study.fail(number, f"its worker died {deaths} times (killed, or out of memory?)", 0.0)
                return
            with _Heart(self._study, trial.number, self._me, self._view):
                outcome = self._try(trial)
            if outcome is None:
                self._not_before[trial.number] = time.monotonic() + IN_USE_SECONDS
                return
            if not self._study.claims.holds(trial.number, self._me):
                return  # this process slept too long: another one has it now, and will tell
            if isinstance(outcome, Result):
                self._study.succeed(number, outcome)
            else:
                self._study.fail(number, outcome, time.perf_counter() - started)
        finally:
            self._study.claims.release(trial.number, self._me)

    def _try(self, trial: Trial) -> Result | str | None:
        """The trial's result, or why it failed; None where a process that was given up for dead is still at it."""
        reporter = self._view.reporter(trial)
        with _Failure() as failure:
            try:
                return self._objective(trial, reporter)
            except InUseError as error:  # it slept (Ctrl-Z, a closed lid) or its beat did not arrive
                reporter.note(f"left for now: {error}")
                return None
        return failure.reason


class _Failure:
    """Around one trial: its failure, of whatever kind, is kept as the trial's and does not stop the others.

    What ends a process (Ctrl-C, SIGTERM) ends this one.
    """

    reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        said = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            said = "out of memory: use a smaller training.per_device_train_batch_size"
        elif not isinstance(error, DistillError):
            said = f"{type(error).__name__}: {said}"
        self.reason = said
        return True


class _Heart:
    """Moves the beat of a trial's claim while it runs, and shows what the other workers did meanwhile."""

    def __init__(self, study: Study, trial: int, me: str, view: View) -> None:
        self._study, self._trial, self._me, self._view = study, trial, me, view
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                if not self._study.claims.beat(self._trial, self._me):
                    return
                self._view.show(self._study.entries(), self._trial)
            except RunError:
                continue  # a storage that is away for a moment does not end a training

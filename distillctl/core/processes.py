"""The processes of one job: who speaks and writes, who waits, and how the failure of one ends all.

``accelerate launch`` and ``torchrun`` start the same command several times. Tensors go through torch.distributed;
everything else goes through the launcher's key-value store, for three reasons. Waiting there has no time limit (the
main process may decode for an hour) and keeps no GPU spinning. A process can speak while the others are in the middle
of something, so that an error anywhere ends all of them with its exit code and one message. And a process that is gone
without a word is missed. Imports no torch by itself: an error before any work is told without it.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from distillctl.core.errors import RunError, UsageError

T = TypeVar("T")

PERIOD = 0.5
"""Seconds between two looks at whether another process has failed."""
GRACE = 5.0
"""Seconds in which a process may put itself away after another one's failure; one stuck in a collective cannot."""
SILENCE = 120.0
"""Seconds without a sign of life after which a process is taken to be gone."""
_MESSAGE = 2000


@dataclass(frozen=True)
class Failure:
    """Why a job ends: the process that failed first, or was first to miss another; its exit code, and what it said."""

    rank: int
    code: int
    message: str


class OtherProcessFailed(RunError):
    """Another process of this job failed, and has said why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"process {failure.rank}: {failure.message}")
        self.exit_code = failure.code


class Processes:
    """The only process of a job: nobody waits for it, and it waits for nobody. See :class:`Together`."""

    rank = 0
    count = 1
    failure: Failure | None = None
    last_words: Callable[[Failure], None] | None = None
    """What to do before a process that is stuck is ended because another one failed."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks, and writes the run's files."""
        return self.rank == 0

    def part(self) -> str:
        """What to say behind the name of work that each process does a part of."""
        return f" (this process's share of {self.count})" if self.count > 1 else ""

    def share(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives in the main process (JSON: mappings, lists, texts, numbers), in all of them."""
        return make()

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Does something in the main process while the others wait, however long; they get None."""
        return action()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does what is inside, then the others do: they find what it has made."""
        yield

    def meet(self) -> None:
        """Returns when all processes are here."""

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        """Inside, what this process meets because another one failed is raised as :class:`OtherProcessFailed`."""
        yield

    def fail(self, code: int, message: str, tell: Callable[[], None]) -> int:
        """An error ends this process, and with it the others. Returns the exit code.

        Args:
            code, message: of the error.
            tell: tells the user; called by the process whose error came first, and only there.
        """
        if launched()[1] == 0:  # before they have joined, all meet the same errors: one a machine tells
            tell()
        return code

    def leave(self) -> None:
        """The end of a job that went well: waits for the others, so that all of them end well or none does."""


class Together(Processes):
    """One of several processes.

    Args:
        rank, count: which one, of how many.
        store: key-value store (``torch.distributed.Store``) that all of them reach.
    """

    def __init__(self, rank: int, count: int, store: Any) -> None:
        self.rank, self.count, self._store = rank, count, store
        self._talks = 0
        self._heard: dict[int, tuple[int, float]] = {}
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="other processes", daemon=True)
        self._listener.start()

    # --- together ---------------------------------------------------------------------------------------------

    def share(self, make: Callable[[], Any]) -> Any:
        key = self._next("shared")
        if self.is_main:
            value = make()
            self._store.set(key, json.dumps(value))
            return value
        self._await(lambda: bool(self._store.check([key])))
        return json.loads(self._store.get(key))

    def on_main(self, action: Callable[[], T]) -> T | None:
        result: list[T] = []
        self.share(lambda: result.append(action()))
        return result[0] if result else None

    @contextmanager
    def main_first(self) -> Iterator[None]:
        if not self.is_main:
            self.share(lambda: None)
        yield
        if self.is_main:
            self.share(lambda: None)

    def meet(self) -> None:
        key = self._next("met")
        self._store.add(key, 1)
        self._await(lambda: int(self._store.add(key, 0)) >= self.count)

    def _next(self, what: str) -> str:
        """The same key in every process: they all talk in the same order."""
        self._talks += 1
        return f"{what}/{self._talks}"

    def _await(self, there: Callable[[], bool]) -> None:
        pause = 0.002
        while not there():
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    # --- one fate ---------------------------------------------------------------------------------------------

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, RuntimeError) as error:
            lost = isinstance(error, RuntimeError) and _is_lost_connection(error)
            if lost:
                self._wait_for_word()
            if self.failure is not None and self.failure.rank == self.rank:  # it was this one that missed another
                raise RunError(self.failure.message) from error
            if self.failure is not None:
                raise OtherProcessFailed(self.failure) from error
            if lost:
                raise RunError(
                    "another process of this job is gone (killed, or out of memory?): look at what its machine says"
                ) from error
            raise

    def _wait_for_word(self) -> None:
        """A connection breaks when a process ends; what it said may be a moment behind."""
        deadline = time.monotonic() + 4 * PERIOD
        while self.failure is None and time.monotonic() < deadline:
            time.sleep(PERIOD / 5)

    def fail(self, code: int, message: str, tell: Callable[[], None]) -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending; the listener may want to end it too
        with self._lock:
            self._closing.set()
        first = self.failure or Failure(self.rank, code, message[:_MESSAGE])
        with suppress(RuntimeError):  # the store is gone with its process: nobody is left to be told
            first = self._publish(first)
        if first.rank == self.rank:
            tell()
        with suppress(RuntimeError):
            self._go(last=first.rank == self.rank)
        return first.code

    def leave(self) -> None:
        import torch.distributed as dist

        with self.one_fate():
            self.meet()
        with self._lock:
            self._closing.set()
        self._listener.join()
        self._go(last=False)
        if dist.is_initialized():
            dist.destroy_process_group()

    def _go(self, last: bool) -> None:
        """Ends this process's part: with ``last`` when the others have put themselves away.

        A launcher that sees one process fail kills the rest. And the main process, which may hold the store, is there
        until nobody reads it any more: torch would complain on everybody's terminal.
        """
        self._store.set(f"away/{self.rank}", "")
        if last:
            self._await_others("away")
        self._store.set(f"gone/{self.rank}", "")
        if self.is_main:
            self._await_others("gone")

    def _await_others(self, what: str) -> None:
        deadline = time.monotonic() + GRACE + 4 * PERIOD
        keys = [f"{what}/{rank}" for rank in range(self.count) if rank != self.rank]
        while not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(PERIOD / 10)

    def _publish(self, failure: Failure) -> Failure:
        """Writes a failure down unless there is one already; returns the one that stands."""
        there = self._store.compare_set("failure", "", json.dumps(asdict(failure)))
        return Failure(**json.loads(there))

    # --- the listener's thread --------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closing.wait(PERIOD):
            failure = self._look()
            if failure is not None:
                self._end(failure)
                return

    def _look(self) -> Failure | None:
        try:
            self._store.add(f"alive/{self.rank}", 1)
            if self._store.check(["failure"]):
                return Failure(**json.loads(self._store.get("failure")))
            silent = self._silent()
            return None if silent is None else self._publish(silent)
        except RuntimeError:
            words = "the process that keeps the others together is gone (killed?): look at what its machine says"
            return Failure(self.rank, RunError.exit_code, words)

    def _silent(self) -> Failure | None:
        """The main process listens to all, the others to it."""
        now = time.monotonic()
        for rank in range(1, self.count) if self.is_main else [0]:
            signs = int(self._store.add(f"alive/{rank}", 0))
            before, since = self._heard.get(rank, (-1, now))
            self._heard[rank] = (signs, since if signs == before else now)
            if now - self._heard[rank][1] > SILENCE and not self._store.check([f"gone/{rank}"]):
                words = (
                    f"process {rank} has given no sign of life for {SILENCE:.0f} s (killed, or its machine is gone?)"
                )
                return Failure(self.rank, RunError.exit_code, words)
        return None

    def _end(self, failure: Failure) -> None:
        """Interrupts this process; ends it hard where it does not end by itself, being stuck in a collective."""
        with self._lock:
            if self._closing.is_set():
                return
            self.failure = failure
            _thread.interrupt_main()
        if self._closing.wait(GRACE):
            return
        if failure.rank == self.rank:
            sys.stderr.write(f"error: {failure.message}\n")
        if self.last_words is not None:
            self.last_words(failure)
        sys.stdout.flush()
        with suppress(RuntimeError):
            self._go(last=False)
        os._exit(failure.code)


def _is_lost_connection(error: RuntimeError) -> bool:
    import torch.distributed as dist

    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection closed", "connection reset", "broken pipe"))


# --- this process ---------------------------------------------------------------------------------------------

ALONE = Processes()
_current: Processes = ALONE


def current() -> Processes:
    """The processes that this one has joined; itself alone before that."""
    return _current


def join(rank: int, count: int) -> Processes:
    """Joins the other processes of a launch, once; torch's own process group exists by then.

    The store is that of ``torch.distributed``'s environment (MASTER_ADDR, MASTER_PORT), by a connection of its own: a
    process group may be waiting on its own one.
    """
    global _current
    if count > 1 and not isinstance(_current, Together):
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        store, _, _ = next(rendezvous("env://", rank, count))
        _current = Together(rank, count, dist.PrefixStore("distillctl", store))  # type: ignore[attr-defined]
    return _current


def launched() -> tuple[int, int, int]:
    """(rank, rank on this machine, number of processes) that a launcher gave this process; (0, 0, 1) without one."""
    names = (
        ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
        ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
        ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    )
    rank, local, count = (next((os.environ[name] for name in group if name in os.environ), "") for group in names)
    if not all(value.isdecimal() or not value for value in (rank, local, count)):
        raise UsageError(
            f"RANK={rank}, LOCAL_RANK={local}, WORLD_SIZE={count}: should be numbers, as launchers set them"
        )
    return int(rank or 0), int(local or 0), int(count or 1)


def refuse_several() -> None:
    """Raise UsageError where a command that works alone was launched several times."""
    _, _, count = launched()
    if count > 1:
        raise UsageError(f"this command runs in one process, and {count} were launched: start it by itself")

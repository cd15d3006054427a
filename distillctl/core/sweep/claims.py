"""Who works on which trial: a table beside Optuna's own, in which a trial is taken by one conditional UPDATE.

Optuna's ways to hand out trials may hand one out twice: its grid sampler says so itself, and its queue looks at a
trial's state and then sets it, which on SQLite (no SELECT FOR UPDATE) is two steps that two processes can interleave.
A single UPDATE ... WHERE is atomic on every database, without any lock of ours.

A worker that lives moves its row's ``beat``. One that died is known at once by others on its machine (its process is
gone), elsewhere when the beat stood still for a while on the observer's own clock: clocks are never compared.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from optuna.exceptions import StorageInternalError
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from distillctl.core.errors import RunError

GRACE_SECONDS = 120.0
"""A beat that stood still for this long belongs to a dead worker; a living one moves it every ten seconds."""

_CLAIMS = Table(
    "distillctl_claims",
    MetaData(),
    Column("study", String(64), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(64), nullable=True),
    Column("beat", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial's row: its worker (None: free), the worker's beat, and how many workers died in this trial."""

    worker: str | None
    beat: int
    deaths: int


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what a database refuses into a RunError that says how to go on."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(
            f"the sweep's storage does not answer: {first_line(error.__cause__ or error)}. "
            "The same command goes on with what is missing"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, cut to a line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


class Claims:
    """The claims on one study's trials. Every method is one transaction."""

    def __init__(self, engine: Engine, study: str) -> None:
        self._engine, self._study = engine, study

    def prepare(self, trials: Iterable[int]) -> None:
        """Makes the table and a free row for each trial, where they are not there yet."""
        _CLAIMS.metadata.create_all(self._engine)
        with self._engine.connect() as connection:
            there = set(connection.scalars(select(_CLAIMS.c.trial).where(_CLAIMS.c.study == self._study)))
        for trial in trials:
            if trial not in there:
                self._add(trial)

    def _add(self, trial: int) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_CLAIMS).values(study=self._study, trial=trial, beat=0, deaths=0))
        except IntegrityError:
            pass  # another worker was faster, with the same row

    def all(self) -> dict[int, Claim]:
        """Every claim by trial."""
        with storage_errors(), self._engine.connect() as connection:
            rows = connection.execute(select(_CLAIMS).where(_CLAIMS.c.study == self._study)).all()
        return {row.trial: Claim(row.worker, row.beat, row.deaths) for row in rows}

    def take(self, trial: int, me: str) -> bool:
        """Takes a free trial. False: somebody has it."""
        return self._change(trial, None, None, {"worker": me, "beat": 0, "deaths": 0})

    def take_over(self, trial: int, found: Claim, me: str) -> bool:
        """Takes a trial from a worker found dead. False: it lives after all, or somebody else was faster."""
        return self._change(trial, found.worker, found.beat, {"worker": me, "beat": 0, "deaths": found.deaths + 1})

    def beat(self, trial: int, me: str) -> bool:
        """Says that I live. False: the trial was taken from me."""
        return self._change(trial, me, None, {"beat": _CLAIMS.c.beat + 1})

    def release(self, trial: int, me: str) -> None:
        """Gives the trial back, done or not."""
        self._change(trial, me, None, {"worker": None})

    def holds(self, trial: int, me: str) -> bool:
        """Whether the trial is still mine."""
        claim = self.all().get(trial)
        return claim is not None and claim.worker == me

    def _change(self, trial: int, worker: str | None, beat: int | None, values: Mapping[str, object]) -> bool:
        statement = update(_CLAIMS).where(_CLAIMS.c.study == self._study, _CLAIMS.c.trial == trial)
        statement = statement.where(_CLAIMS.c.worker.is_(None) if worker is None else _CLAIMS.c.worker == worker)
        if beat is not None:
            statement = statement.where(_CLAIMS.c.beat == beat)
        with storage_errors(), self._engine.begin() as connection:
            return connection.execute(statement.values(dict(values))).rowcount == 1


def worker_name() -> str:
    """Names this process, its machine only as a hash: ``machine:pid:start:random``."""
    pid = os.getpid()
    return f"{_machine()}:{pid}:{int(psutil.Process(pid).create_time())}:{secrets.token_hex(4)}"


def _machine() -> str:
    """Hash of what two processes that can see each other's ids share: host, boot, and process namespace."""
    facts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        if path.is_symlink():
            facts.append(str(path.readlink()))
        elif path.is_file():
            facts.append(path.read_text(encoding="ascii"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def is_gone(worker: str) -> bool:
    """Whether a worker of this machine is no more; False for one of another machine, of whom nothing is known."""
    machine, pid, started, _ = worker.split(":")
    if machine != _machine():
        return False
    try:
        process = psutil.Process(int(pid))
        return bool(process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - int(started)) > 2)
    except psutil.NoSuchProcess:
        return True


class DeathWatch:
    """Finds dead workers: gone from this machine, or without a beat for ``grace`` seconds of this observer's time."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._seen: dict[int, tuple[Claim, float]] = {}

    def is_dead(self, trial: int, claim: Claim) -> bool:
        """Whether the claim's worker is dead, as far as can be told by now."""
        if claim.worker is None:
            return False
        now = time.monotonic()
        known = self._seen.get(trial)
        if known is None or known[0] != claim:
            self._seen[trial] = (claim, now)
            return is_gone(claim.worker)
        return is_gone(claim.worker) or now - known[1] > self._grace

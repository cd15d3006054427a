"""The Optuna study of a sweep: one Optuna trial per grid point and seed, with its values, score or reason.

Everything the ranking needs is in it, so that machines which share nothing but the storage can work on one sweep.
Trials are handed out by :mod:`~distillctl.core.sweep.claims`, not by Optuna's grid sampler, which may repeat a point
when several workers ask; its marks (``grid_id``) are set all the same, so Optuna's own tools see the grid.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from distillctl.core.errors import UsageError
from distillctl.core.sweep.claims import Claim, Claims, first_line, storage_errors
from distillctl.core.sweep.plan import Sweep, Trial

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
_OPENING_TRIES = 8
_BUSY_SECONDS = 60
_RACED = ("exist", "duplicate", "unique", "locked")  # how databases word it

T = TypeVar("T")

FileSums = Mapping[str, tuple[int, int, int]]
"""Per file of the scored split (named by a hash): true positives, false positives, false negatives."""


MADE_FROM = ("data", "teacher", "tokenizer", "encoder")
"""The fingerprints of a run by which trials of one sweep are told to be of one kind."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial scored. ``f1`` in points of 100; ``records`` is the fingerprint of what it was scored on.

    ``made_from`` are those of what it was trained on and learned from (:data:`MADE_FROM`), as far as it said them.
    """

    f1: float
    files: FileSums
    records: str
    samples: int
    seconds: float
    made_from: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """How a trial stands. ``number`` is Optuna's; None before the trial was started."""

    state: str
    claim: Claim
    number: int | None = None
    f1: float | None = None
    seconds: float | None = None
    reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state in (DONE, FAILED)


def sqlite_url(file: Path) -> str:
    """The storage URL of an SQLite file. Optuna formats URLs, so braces are doubled; a % would begin an escape."""
    if "?" in str(file):
        raise UsageError(f"{file}: an SQLite file's path cannot hold a '?'; choose another -o DIR")
    return "sqlite:///" + str(file).replace("%", "%25").replace("{", "{{").replace("}", "}}")


class Study:
    """A sweep's state, shared by all its workers."""

    def __init__(self, sweep: Sweep, url: str) -> None:
        """Opens the study, making it where it is not there yet.

        Raises UsageError for a storage that cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._sweep = sweep
        name = f"distillctl-sweep-{sweep.fingerprint[:16]}"
        storage = _open(url)
        with storage_errors():
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                # Never asked: trials come with their values.
                sampler=optuna.samplers.RandomSampler(),
            )
            self._study.set_user_attr("distillctl", sweep.definition)
        self._storage, self._study_id = storage, storage.get_study_id_from_name(name)
        self.claims = Claims(storage.engine, name)
        with storage_errors():
            _again_if_raced(lambda: self.claims.prepare(range(len(sweep.trials))))

    def entries(self) -> list[Entry]:
        """How every trial stands, in the sweep's order."""
        with storage_errors():
            # Claims first: a claim that is seen free after its trial was seen unfinished would look like work to do.
            claims = self.claims.all()
            latest = self._latest()
        return [_entry(claims[trial.number], latest.get(trial.number)) for trial in self._sweep.trials]

    def _latest(self) -> dict[int, FrozenTrial]:
        """The last Optuna trial of each of the sweep's (a failed one may have been tried again)."""
        return {trial.user_attrs["trial"]: trial for trial in self._study.get_trials(deepcopy=False)}

    def start(self, trial: Trial) -> int:
        """Notes that a claimed trial runs; returns Optuna's number of it. A dead worker's is gone on with."""
        with storage_errors():
            there = self._latest().get(trial.number)
            if there is None or there.state.is_finished():
                self._study.add_trial(self._new(trial))
                there = self._latest()[trial.number]
            return there.number

    def _new(self, trial: Trial) -> FrozenTrial:
        space = _search_space(self._sweep)
        values = dict(zip(space, [*map(_scalar, trial.point), trial.seed], strict=True))
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=values,
            distributions={name: CategoricalDistribution(choices) for name, choices in space.items()},
            user_attrs={"trial": trial.number, "directory": trial.name},
            system_attrs={"grid_id": trial.number, "search_space": space},
        )

    def succeed(self, number: int, result: Result) -> None:
        """Notes a trial's score under Optuna's number."""
        self._tell(
            number,
            {
                "seconds": round(result.seconds, 3),
                "records": result.records,
                "samples": result.samples,
                "made_from": dict(result.made_from),
                "files": {name: list(sums) for name, sums in result.files.items()},
            },
            result.f1,
        )

    def fail(self, number: int, reason: str, seconds: float) -> None:
        """Notes why a trial failed."""
        self._tell(number, {"seconds": round(seconds, 3), "reason": reason[:500]}, None)

    def _tell(self, number: int, facts: Mapping[str, Any], value: float | None) -> None:
        with storage_errors():
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            for name, fact in facts.items():
                self._storage.set_trial_user_attr(trial_id, name, fact)
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            self._study.tell(number, value, state=state, skip_if_finished=True)

    def results(self) -> dict[int, Result]:
        """The scores of all trials that are done, by the sweep's number."""
        with storage_errors():
            latest = self._latest()
        return {number: _result(trial) for number, trial in latest.items() if trial.state == TrialState.COMPLETE}


def _entry(claim: Claim, trial: FrozenTrial | None) -> Entry:
    if trial is not None and trial.state.is_finished():
        state = DONE if trial.state == TrialState.COMPLETE else FAILED
        attributes = trial.user_attrs
        f1 = trial.value if state == DONE else None
        return Entry(state, claim, trial.number, f1, attributes.get("seconds"), attributes.get("reason"))
    return Entry(RUNNING if claim.worker is not None else WAITING, claim, None if trial is None else trial.number)


def _result(trial: FrozenTrial) -> Result:
    facts = trial.user_attrs
    files = {name: (int(tp), int(fp), int(fn)) for name, (tp, fp, fn) in facts["files"].items()}
    assert trial.value is not None
    return Result(trial.value, files, facts["records"], facts["samples"], facts["seconds"], facts.get("made_from", {}))


def _search_space(sweep: Sweep) -> dict[str, list[Any]]:
    return {axis.field: [_scalar(value) for value in axis.values] for axis in sweep.axes} | {"seed": list(sweep.seeds)}


def _scalar(value: Any) -> int | float | str:
    """What an Optuna choice can be, told apart from every other: numbers and texts; the rest as JSON text."""
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)


def _open(url: str) -> RDBStorage:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError("--storage: should be an Optuna storage URL, as in postgresql://host/name") from error
    shown = parsed.render_as_string(hide_password=True)
    # SQLite writes one at a time; the others wait for it instead of failing after five seconds.
    waiting = {"connect_args": {"timeout": _BUSY_SECONDS}} if parsed.get_backend_name() == "sqlite" else {}
    try:
        return _again_if_raced(lambda: RDBStorage(url, engine_kwargs=dict(waiting)))
    except ImportError as error:
        raise UsageError(f"--storage {shown}: its database driver is not installed: {error.__cause__}") from error
    except (SQLAlchemyError, RuntimeError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"--storage {shown}: cannot be opened: {first_line(error)}") from error


def _again_if_raced(action: Callable[[], T]) -> T:
    """Two workers that start together make the same tables: the slower one is refused, and finds them afterwards."""
    for _ in range(_OPENING_TRIES):
        try:
            return action()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if not any(word in f"{error} {error.__cause__}".lower() for word in _RACED):
                raise
            time.sleep(0.05 + 0.2 * random.random())
    return action()

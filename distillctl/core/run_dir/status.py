"""How long each phase of a run took, and how the run ended; what a reader of finished runs says of another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from distillctl.core.errors import DataError, DistillError, Terminated
from distillctl.core.run_dir.directory import RunDirectory


def demand_finished(record: Mapping[str, Any], path: str) -> None:
    """Raises DataError unless run.json says that the run finished, with what to do; ``path`` is what the user wrote."""
    status = record.get("status")
    if status != "finished":
        reason = f": {record['reason']}" if record.get("reason") else ""
        raise DataError(
            f"{path}: did not finish (status {status}{reason}). "
            "Finish it with train --resume, or add --allow-unfinished to have it all the same, marked"
        )


class Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to a phase, whatever ends it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)


class RunStatus:
    """Writes how a run ended into run.json, whatever ended it."""

    def __init__(self, run: RunDirectory, clock: Clock) -> None:
        self._run, self._clock = run, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.note(seconds=self._clock.seconds)
        if kind is None:
            self._run.finish("finished")
        elif issubclass(kind, KeyboardInterrupt):
            self._run.finish("interrupted", "terminated" if issubclass(kind, Terminated) else "stopped by the user")
        else:
            reason = str(error) if isinstance(error, DistillError) else f"{kind.__name__}: {error}"
            self._run.finish("failed", reason[:500])

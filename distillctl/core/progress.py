"""What long work says of itself, without knowing who listens: a terminal, a log, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A piece of work under way."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """``done`` of ``total`` units; ``note`` is shown beside them (losses, say)."""


class Reporter(Protocol):
    """Receives notes and progress."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def task(self, title: str, total: int | None = None) -> AbstractContextManager[Task]:
        """A context manager around long work."""


class _SilentTask:
    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


class SilentReporter:
    """Tells nobody."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        yield _SilentTask()

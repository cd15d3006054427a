"""What a changed test tells about itself while it runs: what left it, which assertions ran, which could fail.

Runs inside the sandbox; standard library only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, cast

_MEMBERS = 8


class Opaque:
    """Equal to nothing but itself, true, without a length or an order."""


class Witness:
    """Notes of one run of one test; see :mod:`distillctl.core.execution.instrument` for what calls it.

    ``is_failure`` tells an assertion's own failure from any other exception.
    """

    def __init__(self, is_failure: Callable[[BaseException], bool]) -> None:
        self._is_failure = is_failure
        self.started = 0
        self.ended = 0  # without an exception
        self.failures: list[str] = []  # assertion failures that left the test
        self.errors: list[str] = []  # other exceptions that left it
        self.ran: set[int] = set()
        self.can_fail: set[int] = set()

    def watch(self) -> _Watch:
        """Around the test's body."""
        return _Watch(self)

    def executed(self, number: int) -> None:
        """An assertion was executed and held."""
        self.ran.add(number)

    def others(self, value: Any, *denied: Any) -> Iterator[Any]:
        """Values to put in the place of one; first those that the assertion denies."""
        return iter([*denied, *other_values(value)])

    def members(self, container: Any) -> list[Any]:
        """Some of what is in a container."""
        made = _made(lambda: list(itertools.islice(container, _MEMBERS)))
        return [] if made is _NOTHING else cast(list[Any], made)

    def once(self) -> Iterator[None]:
        """For an assertion about a block: one attempt, without the block."""
        return iter([None])

    def attempt(self, number: int) -> _Attempt:
        """Around an assertion with another value; swallows what it raises."""
        return _Attempt(self, number)

    def left(self, error: BaseException | None) -> None:
        """How the body ended."""
        if error is None:
            self.ended += 1
        elif self._is_failure(error):
            self.failures.append(_shown(error))
        else:
            self.errors.append(_shown(error))

    def attempted(self, number: int, error: BaseException | None) -> None:
        """How an attempt ended: only a failed assertion shows that it can fail."""
        if error is not None and self._is_failure(error):
            self.can_fail.add(number)


class _Watch:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def __enter__(self) -> None:
        self._witness.started += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._witness.left(error)


class _Attempt:
    def __init__(self, witness: Witness, number: int) -> None:
        self._witness = witness
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> Literal[True]:
        self._witness.attempted(self._number, error)
        return True


def other_values(value: Any) -> list[Any]:
    """Other values in the place of one: of the same type first, then None, a value of no known type, the other truth.

    Where a type allows no other value to be made, only the latter remain.
    """
    if isinstance(value, bool):
        return [not value, None, Opaque()]
    if isinstance(value, type):
        same: list[Any] = [Opaque, _does_nothing]  # a class may not take the arguments
    elif callable(value) and hasattr(value, "__name__"):
        same = [_does_nothing]
    else:
        same = [made for maker in _makers(value) if (made := _made(maker)) is not _NOTHING]
        same += [_does_nothing] if callable(value) else []
    return [*same, None, Opaque(), False]


def _does_nothing(*arguments: Any, **options: Any) -> None:
    pass


_NOTHING = object()


def _makers(value: Any) -> list[Callable[[], Any]]:
    """Ways to make another value of a type: those of numbers, containers, arrays, frames, symbols and mocks."""
    return [
        lambda: value + 1,
        lambda: -value - 1,
        lambda: value * 1000 + 12345,
        lambda: ~value,
        lambda: value + value[:1] + value[:1],
        lambda: value + ("~" if isinstance(value, str) else b"~" if isinstance(value, bytes) else [Opaque()]),
        lambda: value[:0],
        lambda: value.iloc[:0],
        lambda: value | {Opaque()},
        lambda: {**value, Opaque(): Opaque()},
        type(value),
    ]


def _made(maker: Callable[[], Any]) -> Any:
    """What foreign code makes, or nothing: any of its own exceptions only says that this is not how."""
    with _ForeignErrors():
        return maker()
    return _NOTHING


class _ForeignErrors:
    """Swallows what arbitrary types raise, but not what ends the process."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        return isinstance(error, Exception)


def _shown(error: BaseException) -> str:
    return type(error).__name__

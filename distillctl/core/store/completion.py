"""From a directory of shards that may be damaged or lack something to one that is checked and complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distillctl.core.errors import DataError, UsageError
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.store.reader import ShardReader
from distillctl.core.store.shards import ShardDirectory
from distillctl.core.store.writer import check_room

T = TypeVar("T")

VERIFIED = 8
"""Items that are computed again when a directory is opened."""


@dataclass(frozen=True)
class Wanted(Generic[T]):
    """What a directory should hold.

    Attributes:
        items: equal ones count once.
        digest: 16 bytes that name an item by its content.
        tokens: how many target tokens, and so rows, an item has.
    """

    items: Sequence[T]
    digest: Callable[[T], bytes]
    tokens: Callable[[T], int]

    def missing(self, reader: ShardReader) -> list[T]:
        """The items that a directory lacks."""
        return reader.missing(self.items, self.digest)

    def share(self, items: Sequence[T], processes: Processes) -> list[T]:
        """Those of ``items`` that this one of several processes captures.

        By digest and not by position: however late it reads what the others have added, none is left to nobody.
        """
        count, rank = processes.count, processes.rank
        return [item for item in items if int.from_bytes(self.digest(item)[:8], "little") % count == rank]


def complete(
    store: ShardDirectory[Any],
    wanted: Wanted[T],
    capture: Callable[[list[T]], None] | None,
    reporter: Reporter,
    processes: Processes = ALONE,
) -> ShardReader:
    """A reader of a directory that holds every wanted item, all of whose bytes were checked.

    Args:
        store: may be empty.
        wanted: what it should hold.
        capture: adds the items it is given to ``store``, in whose lock it is called; None refuses an incomplete one.
        reporter: hears of the check, and of another process that captures.
        processes: that complete it together: each captures a part, the main one checks.

    Raises:
        UsageError: ``capture`` is None and there is nothing.
        DataError: it is damaged, of something else, or incomplete.
        RunError: it cannot be written, or the disk is too small for what is missing.
    """
    if store.shards:
        _check(store, reporter, processes)
    elif capture is None:
        raise UsageError(f"{store.path}: there is no {store.kind.name}. distillctl prepare makes it")
    reader = ShardReader(store)
    missing = wanted.missing(reader)
    if capture is None:
        if missing:
            raise DataError(
                f"{store.path}: the {store.kind.name} lacks {len(missing):,} of {len(wanted.items):,} "
                f"{store.kind.items}. distillctl prepare captures them"
            )
        return reader
    if not processes.share(lambda: bool(missing)):  # the others may look when the main process has begun
        if missing:  # another job has added it since this process looked
            store.reload()
            reader = ShardReader(store)
        return reader
    _capture(store, wanted, capture, reporter, processes)
    store.reload()
    _check(store, reporter, processes)
    reader = ShardReader(store)
    left = len(wanted.missing(reader))
    if left:
        raise DataError(
            f"{store.path}: {left:,} {store.kind.items} that another process captured are not there. All machines of "
            f"a job need one directory: set {store.kind.setting} or DISTILLCTL_CACHE to a shared one"
        )
    return reader


def _capture(
    store: ShardDirectory[Any],
    wanted: Wanted[T],
    capture: Callable[[list[T]], None],
    reporter: Reporter,
    processes: Processes,
) -> None:
    """Adds what is missing, each process its share; the main one holds the right to it for all of them."""
    waiting = f"{store.path}: another process captures it; waiting for it"
    with store.capturing(lambda: reporter.note(waiting)) if processes.is_main else nullcontext():
        processes.meet()
        store.reload()
        missing = wanted.missing(ShardReader(store))
        if processes.is_main:
            check_room(store, store.bytes_of(sum(map(wanted.tokens, missing)), len(missing)))
        mine = wanted.share(missing, processes)
        if mine:
            capture(mine)
        processes.meet()


def _check(store: ShardDirectory[Any], reporter: Reporter, processes: Processes) -> None:
    if processes.is_main:
        with reporter.task(f"checking the {store.kind.name}", len(store.shards)) as task:
            store.check_files(task.update)


def verified_sample(items: Sequence[T], digest: Callable[[T], bytes]) -> list[T]:
    """``VERIFIED`` of the items, always the same whatever their order."""
    return sorted(items, key=lambda item: hashlib.sha256(b"verified" + digest(item)).digest())[:VERIFIED]

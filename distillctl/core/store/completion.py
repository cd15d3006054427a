"""From a directory of shards that may be damaged or lack something to one that is checked and complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from distillctl.core.errors import DataError, UsageError
from distillctl.core.progress import Reporter
from distillctl.core.store.reader import ShardReader
from distillctl.core.store.shards import ShardDirectory

T = TypeVar("T")

VERIFIED = 8
"""Items that are computed again when a directory is opened."""


def complete(
    store: ShardDirectory[Any],
    wanted: Sequence[T],
    digest: Callable[[T], bytes],
    capture: Callable[[list[T]], None] | None,
    reporter: Reporter,
) -> ShardReader:
    """A reader of a directory that holds every wanted item, all of whose bytes were checked.

    Args:
        store: may be empty.
        wanted: items; equal ones count once.
        digest: 16 bytes that name an item by its content.
        capture: adds the items it is given to ``store``, in whose lock it is called; None refuses an incomplete one.
        reporter: hears of the check, and of another process that captures.

    Raises:
        UsageError: ``capture`` is None and there is nothing.
        DataError: it is damaged, of something else, or incomplete.
        RunError: it cannot be written.
    """
    if store.shards:
        _check(store, reporter)
    elif capture is None:
        raise UsageError(f"{store.path}: there is no {store.kind.name}. distillctl prepare makes it")
    reader = ShardReader(store)
    missing = reader.missing(wanted, digest)
    if not missing:
        return reader
    if capture is None:
        raise DataError(
            f"{store.path}: the {store.kind.name} lacks {len(missing):,} of {len(wanted):,} {store.kind.items}. "
            "distillctl prepare captures them"
        )
    with store.capturing(lambda: reporter.note(f"{store.path}: another process captures it; waiting for it")):
        missing = ShardReader(store).missing(missing, digest)
        if missing:
            capture(missing)
    _check(store, reporter)
    return ShardReader(store)


def _check(store: ShardDirectory[Any], reporter: Reporter) -> None:
    with reporter.task(f"checking the {store.kind.name}", len(store.shards)) as task:
        store.check_files(task.update)


def verified_sample(items: Sequence[T], digest: Callable[[T], bytes]) -> list[T]:
    """``VERIFIED`` of the items, always the same whatever their order."""
    return sorted(items, key=lambda item: hashlib.sha256(b"verified" + digest(item)).digest())[:VERIFIED]

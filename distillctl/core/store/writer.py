"""Gathers rows in memory until they are a shard."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from distillctl.core.errors import RunError
from distillctl.core.store.shards import INDEX_DTYPE, ShardDirectory

SHARD_BYTES = 16 * 2**20
"""Rows are kept in memory until they are a shard: what a kill loses at most."""


class ShardWriter:
    """A context manager: a shard is written whenever one is full, the rest at the end, or when stopped by Ctrl-C.

    Args:
        store: use it inside ``store.capturing``, here or in the process that this one works for.
        facts: what the manifest says besides.
    """

    def __init__(self, store: ShardDirectory[Any], facts: dict[str, Any]) -> None:
        self._store, self._facts = store, facts
        self._rows: list[np.ndarray] = []
        self._index: list[tuple[int, int, int, int]] = []
        self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self._write()

    def add(self, digest: bytes, rows: np.ndarray) -> None:
        """One item. Raises RunError where a full shard cannot be written."""
        high, low = np.frombuffer(digest, "<u8")
        self._rows.append(rows)  # first: rows without an entry do no harm, should Ctrl-C fall between the two
        self._index.append((int(high), int(low), self._tokens, len(rows)))
        self._tokens += len(rows)
        if self._store.bytes_of(self._tokens, 0) >= SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        rows, index = self._rows, self._index
        self._rows, self._index, self._tokens = [], [], 0
        if rows:
            self._store.append(np.concatenate(rows), np.array(index, INDEX_DTYPE), self._facts)


def check_room(store: ShardDirectory[Any], needed: int) -> None:
    """Raises RunError where ``needed`` bytes more do not fit on the disk."""
    free = shutil.disk_usage(_existing(store.path)).free
    if needed > free:
        raise RunError(
            f"{store.path}: the {store.kind.name} needs {needed / 2**20:,.0f} MiB more, and {free / 2**20:,.0f} MiB "
            f"are free. Free some, set DISTILLCTL_CACHE to another directory, or {store.kind.smaller}"
        )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())

"""Reads rows by content, wherever they lie.

Rows are read from the file by their place and not mapped into memory: the system's page cache serves both alike, but
so the process stays as small as its index (28 bytes an item) however large the directory is, and a file that is cut
while it is in use is an error with a name instead of a bus error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from distillctl.core.store.shards import ShardDirectory

T = TypeVar("T")


class ShardReader:
    """The rows of an open directory. What is appended to it later is not seen.

    Args:
        store: the open directory.

    Raises:
        DataError: an index is missing or cut.
    """

    def __init__(self, store: ShardDirectory[Any]) -> None:
        self.store = store
        self._entries, self._shards = store.index()

    def missing(self, items: Iterable[T], digest: Callable[[T], bytes]) -> list[T]:
        """The items that it does not hold, each once, in order."""
        seen: dict[bytes, T] = {}
        for item in items:
            seen.setdefault(digest(item), item)
        return [item for name, item in seen.items() if self.place(name) is None]

    def place(self, digest: bytes) -> int | None:
        """Where an item (16 bytes) stands in the index; None where it does not."""
        high, low = np.frombuffer(digest, "<u8")
        first, last = (int(np.searchsorted(self._entries["high"], high, side=side)) for side in ("left", "right"))
        for place in range(first, last):  # one, but for a chance of 2^-64
            if self._entries["low"][place] == low:
                return place
        return None

    def length(self, place: int) -> int:
        """Target tokens of the item at a place of the index."""
        return int(self._entries["tokens"][place])

    def rows(self, place: int) -> np.ndarray:
        """[target tokens] of the directory's dtype, of the item at a place of the index.

        Raises:
            DataError: the shard is missing or cut.
        """
        entry, shard = self._entries[place], int(self._shards[place])
        rows = np.empty(int(entry["tokens"]), self.store.dtype)
        file = self.store.rows_file(shard)
        with self.store.reading(file) as content:
            content.seek(int(entry["row"]) * rows.itemsize)
            found = content.readinto(rows.view(np.uint8))  # type: ignore[attr-defined]  # it is a raw file
        if found != rows.nbytes:
            raise self.store.damaged(file, "cut short")
        return rows

"""A directory of shards of the smallest kind: rows of one number, for what all kinds have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from distillctl.core.data.encoding import ids_digest
from distillctl.core.store.identity import Identity, Kind
from distillctl.core.store.shards import ShardDirectory
from distillctl.core.store.writer import ShardWriter


@dataclass(frozen=True)
class Numbers(Identity):
    kind: ClassVar[Kind] = Kind("a pile", "pile of numbers", "numbers", "pile.cache_dir", "count less far")

    origin: str
    schema: int = 1

    @property
    def dtype(self) -> np.dtype[np.void]:
        return np.dtype([("value", "<f4")])


WANTED = Numbers("a" * 64)
Pile = ShardDirectory[Numbers]


def digest(number: int) -> bytes:
    return ids_digest([number])


def rows_of(number: int) -> np.ndarray:
    """As many rows as the number says, at least one."""
    rows = np.zeros(max(1, number), WANTED.dtype)
    rows["value"] = number + np.arange(len(rows)) / 10
    return rows


def add(pile: Pile, numbers: Iterable[int]) -> None:
    """One shard, unless SHARD_BYTES says more."""
    with pile.capturing(lambda: None), ShardWriter(pile, {}) as writer:
        for number in numbers:
            writer.add(digest(number), rows_of(number))


def make_pile(path: Path) -> Pile:
    """3, 1, 4 in one shard, 15, 9, 2 in another."""
    pile = Pile(path, WANTED)
    add(pile, [3, 1, 4])
    add(pile, [15, 9, 2])
    return pile

"""The embedding bank's states on disk: fp16 per gold token, found by the gold's label ids, equal golds stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import ids_digest
from distillctl.core.encoder.bank import Labels, Progress, encode_golds, live_states
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.errors import DataError
from distillctl.core.store.completion import verified_sample
from distillctl.core.store.identity import Identity, Kind
from distillctl.core.store.reader import ShardReader
from distillctl.core.store.shards import ShardDirectory
from distillctl.core.store.writer import ShardWriter

SCHEMA = 1
TOLERANCE = 2e-3
"""Largest distance of a stored state from one encoded anew, relative to the norm of the latter. Rounding to fp16 alone
moves a number by 2^-11 of itself at most, so a state by 4.9e-4 of its norm; the order in which another batch, thread
count or device sums adds some 1e-6 in float32. Four times the former leaves room for matrix products in TF32 (1e-3);
states of other tokens or weights are 0.1 and more away."""


@dataclass(frozen=True)
class BankIdentity(Identity):
    """All that decides what a bank's states are, but for the golds, which are named one by one.

    Attributes:
        encoder: fingerprint of the encoder's weights (SHA-256, hex).
        table: fingerprint of the table that gives each of the student's tokens its place at the encoder's input.
        tokenizer: fingerprint of the student's, whose ids the golds are.
        width: D, numbers of a state.
        max_target_length: where golds were cut, in tokens.
        precision: in which the encoder computes. The states are stored in float16.
        schema: version of the files.
    """

    kind: ClassVar[Kind] = Kind(
        "a bank", "embedding bank", "golds", "encoder.cache_dir", "name a smaller encoder as encoder.model"
    )

    encoder: str
    table: str
    tokenizer: str
    width: int
    max_target_length: int
    precision: str
    schema: int = SCHEMA

    @property
    def dtype(self) -> np.dtype[np.void]:
        """A row: the state of a token."""
        return np.dtype([("state", "<f2", (self.width,))])


BankDirectory = ShardDirectory[BankIdentity]


class StoredStates:
    """The states of numbered golds, read from an open bank; see :class:`GoldStates`.

    Args:
        reader: of the bank.
        golds: label ids per gold.

    Raises:
        DataError: the bank lacks a gold.
    """

    def __init__(self, reader: ShardReader, golds: Sequence[Labels]) -> None:
        self._reader = reader
        self._places = np.array([_place(reader, labels) for labels in golds], dtype=np.int64)
        self.width: int = reader.store.identity.width

    def length(self, gold: int) -> int:
        """Tokens of a gold."""
        return self._reader.length(int(self._places[gold]))

    def read(self, gold: int) -> Tensor:
        """[tokens, D] float16. Raises DataError where a shard is missing or cut."""
        rows = self._reader.rows(int(self._places[gold]))["state"]
        return torch.from_numpy(rows.astype(np.float16, copy=False))


def _place(reader: ShardReader, labels: Labels) -> int:
    place = reader.place(ids_digest(labels))
    if place is None or reader.length(place) != len(labels):
        raise DataError(
            f"{reader.store.path}: the embedding bank does not hold the gold {labels[:8]}: "
            "run distillctl prepare with this run's settings"
        )
    return place


def capture_golds(
    bank: BankDirectory, encoder: FrozenEncoder, golds: Sequence[Labels], on_progress: Progress | None = None
) -> None:
    """Adds golds that the bank does not hold. Call it inside ``bank.capturing``.

    Args:
        bank: gets a shard whenever one is full, and the rest at the end, or when stopped by Ctrl-C.
        encoder: on the device that should do the work.
        golds: distinct label ids.
        on_progress: called with (golds done, golds in all) after every batch.

    Raises:
        RunError: the disk is full, or a state does not fit in fp16.
    """
    with ShardWriter(bank, {}) as writer:
        for gold, states in encode_golds(encoder, golds, on_progress=on_progress):
            rows = np.zeros(len(states), bank.dtype)
            rows["state"] = states.numpy()
            writer.add(ids_digest(golds[gold]), rows)


def verify_golds(bank: BankDirectory, states: StoredStates, encoder: FrozenEncoder, golds: Sequence[Labels]) -> float:
    """Encodes some golds anew; returns the largest distance of a state, relative to its norm.

    Args:
        bank: named where the states differ.
        states: of ``golds``.
        encoder: on the device that should do the work.
        golds: label ids per gold number; a few of them are taken, always the same.

    Raises:
        DataError: a state differs by more than rounding explains.
    """
    chosen = verified_sample(range(len(golds)), lambda gold: ids_digest(golds[gold]))
    largest = 0.0
    for gold, live in zip(chosen, live_states(encoder, [golds[gold] for gold in chosen]).cpu(), strict=True):
        expected = live[: len(golds[gold])]
        norms = expected.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        largest = max(largest, float(((states.read(gold).float() - expected).norm(dim=-1) / norms).max()))
    if not largest <= TOLERANCE:
        raise DataError(
            f"{bank.path}: the frozen encoder gives other states than the embedding bank (by up to {largest:.2g} of "
            f"their norm, {TOLERANCE:g} is allowed). Delete that directory and it is captured anew"
        )
    return largest

"""What decides the content of a directory of shards, and how messages speak of it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np


def name_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits that stand for all parts of an identity."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kind:
    """How messages call a directory of shards.

    Attributes:
        article, name: "a teacher cache", "teacher cache".
        items: what the index finds, in the plural: "examples".
        setting: the field that chooses the directory.
        smaller: what one may do besides freeing space where the disk is too small.
    """

    article: str
    name: str
    items: str
    setting: str
    smaller: str


@dataclass(frozen=True)
class Identity(ABC):
    """All that decides what the rows are, but for the items, which are named one by one.

    A frozen dataclass below it gives the parts as its fields: numbers and texts.
    """

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[np.void]:
        """A row, that is a target token: little-endian, of fixed width."""

    @property
    def name(self) -> str:
        """16 hex digits that stand for all of it: the name of the directory where none was chosen."""
        return name_of(asdict(self))

    def differences(self, found: dict[str, Any]) -> list[str]:
        """In words, what a directory was made of and this run does not want."""
        return [
            f"{name.replace('_', ' ')} {_short(found.get(name))} there, {_short(wanted)} here"
            for name, wanted in asdict(self).items()
            if found.get(name) != wanted
        ]


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)

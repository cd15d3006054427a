"""Which records of a split a run uses."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

from distillctl.core.data.records import Record


def training_sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """At most ``limit`` training records, drawn by the seed; order kept. None takes all."""
    if limit is None or limit >= len(records):
        return list(records)
    chosen = sorted(random.Random(seed).sample(range(len(records)), limit))
    return [records[index] for index in chosen]


def fixed_sample(records: Sequence[Record], limit: int) -> list[Record]:
    """The same at most ``limit`` records in every run, whatever its seed: those with the least hash of their id.

    0 takes all. A larger limit contains a smaller one's records.
    """
    if limit == 0 or limit >= len(records):
        return list(records)
    by_hash = sorted(records, key=lambda record: hashlib.sha256(record.id.encode("utf-8", "replace")).digest())
    chosen = {record.id for record in by_hash[:limit]}
    return [record for record in records if record.id in chosen]


def main_language(records: Sequence[Record]) -> str:
    """The language most records are in: the one whose critical tokens are weighted."""
    return Counter(record.language for record in records).most_common(1)[0][0]

"""Train, dev and validation by file, with near-duplicates kept on one side.

A record's split is a hash of its file's name, so it stays where it is when a package is updated or another
is added. Near-duplicate tests (copied suites, vendored copies) would let a model recite what it is scored
on, so a dev or validation test that resembles a training test is left out, and likewise between validation
and dev.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from distillctl.core.data.records import MASK, Record

Split = Literal["train", "dev", "validation"]
SPLITS: tuple[Split, ...] = ("train", "dev", "validation")
# Upper ends of the hash range: about 80 %, 3 %, 17 %.
TRAIN_BELOW, DEV_BELOW = 0.80, 0.83

SHINGLE = 5  # tokens
NEAR_DUPLICATE = Fraction(4, 5)  # Jaccard similarity of token shingles from which two tests count as the same

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2**64 over the golden ratio
_TOKEN = re.compile(r"[A-Za-z_]\w*|\d[\w.]*|\"[^\"\n]*\"|'[^'\n]*'|[^\s\w]")
_MASK = re.compile(r"<extra_id_\d+>")


def split_of(project: str, path: str) -> Split:
    """The split of a file, from its name alone."""
    digest = hashlib.sha256(f"{project}/{path}".encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < TRAIN_BELOW:
        return "train"
    return "dev" if position < DEV_BELOW else "validation"


def normalised(token: str) -> str:
    """A code token, numbers and string literals made equal: a changed constant does not make a new test."""
    first = token[0]
    return "0" if first.isdigit() else "''" if first in "\"'" else token


class _TokenHashes(dict[str, int]):
    """64-bit hashes of normalised tokens, each computed once: a corpus has few distinct ones."""

    def __missing__(self, token: str) -> int:
        digest = hashlib.blake2b(normalised(token).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[token] = value = int.from_bytes(digest, "big")
        return value


def shingles(code: str, hashes: _TokenHashes | None = None) -> np.ndarray:
    """Sorted unique hashes of the runs of SHINGLE tokens; shorter code is one run. [S] int64, none negative

    A run's hash is a polynomial in those of its tokens modulo 2**64, so that all runs are hashed at once.
    """
    known = _TokenHashes() if hashes is None else hashes
    found = list(map(known.__getitem__, _TOKEN.findall(code)))
    tokens = np.array(found + [0] * (SHINGLE - len(found)), dtype=np.uint64)
    count = len(tokens) - SHINGLE + 1
    runs = np.zeros(count, dtype=np.uint64)
    for place in range(SHINGLE):
        runs = runs * _MULTIPLIER + tokens[place : place + count]  # wraps around, as it should
    return np.unique(runs >> np.uint64(1)).astype(np.int64)


def jaccard(a: np.ndarray, b: np.ndarray) -> Fraction:
    """Share of shingles two tests have in common, 0 to 1."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return Fraction(common, len(a) + len(b) - common)


def crossing_duplicates(codes: Sequence[str], splits: Sequence[Split]) -> list[bool]:
    """For each test: does a near-duplicate stand in an earlier split (train before dev before validation)?

    Exact, by prefix filtering (Chaudhuri 2006, "A primitive operator for similarity joins"): two sets of
    size n and m with Jaccard similarity t share at least max(tn, tm) elements. So with all elements in one
    order, rarest first, the first n - ceil(tn) + 1 of one and the first m - ceil(tm) + 1 of the other have
    one in common.
    """
    hashes = _TokenHashes()
    features, shared = _rarest_first([shingles(code, hashes) for code in codes])
    prefixes = [_prefix(feature, shared) for feature in features]
    holders: dict[int, list[int]] = defaultdict(list)  # tests of earlier splits by an element of their prefix
    crosses = [False] * len(codes)
    for split in SPLITS:
        members = [index for index, own in enumerate(splits) if own == split]
        for index in members:
            candidates = {other for element in prefixes[index] for other in holders.get(element, ())}
            crosses[index] = any(_near(features[index], features[other]) for other in candidates)
        for index in members:
            if not crosses[index]:
                for element in prefixes[index]:
                    holders[element].append(index)
    return crosses


def _prefix(feature: np.ndarray, shared: int) -> list[int]:
    prefix = feature[: len(feature) - math.ceil(NEAR_DUPLICATE * len(feature)) + 1]
    elements: list[int] = prefix[prefix >= shared].tolist()
    return elements


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    if min(len(a), len(b)) < NEAR_DUPLICATE * max(len(a), len(b)):
        return False
    return jaccard(a, b) >= NEAR_DUPLICATE


def _rarest_first(sets: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """The sets, their elements renamed 0, 1, ... by how many sets hold them and sorted; and the first name
    that several sets hold."""
    if not sets:
        return [], 0
    _, names, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    ends = np.cumsum([len(one) for one in sets])
    return [np.sort(part) for part in np.split(rank[names], ends[:-1])], int((counts == 1).sum())


def split_records(records: Sequence[Record]) -> tuple[dict[Split, list[Record]], int]:
    """Records by split, in order, without near-duplicates across splits; and how many were left out for that.

    Tests are compared with their assertions back in place, so records of one test, which differ in their
    masks, are compared once.
    """
    own_split = [split_of(record.project, record.path) for record in records]
    tests = [(split, unmasked(record)) for split, record in zip(own_split, records, strict=True)]
    distinct = list(dict.fromkeys(tests))
    crossing = crossing_duplicates([code for _, code in distinct], [split for split, _ in distinct])
    dropped = {test for test, crosses in zip(distinct, crossing, strict=True) if crosses}
    splits: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    for record, test in zip(records, tests, strict=True):
        if test not in dropped:
            splits[test[0]].append(record)
    return splits, len(records) - sum(map(len, splits.values()))


def unmasked(record: Record) -> str:
    """The whole test: each mask replaced by its assertion, or the only mask by all of them."""
    lines = iter(record.assertions)
    if record.test_method_masked.count(MASK.format(1)) == 0:
        lines = iter([record.target])
    return _MASK.sub(lambda mask: next(lines, ""), record.test_method_masked)

"""Train, dev and validation by file, with near-duplicates kept on one side.

A record's split is a hash of its file's name, so it stays where it is when a package is updated or another is added.
Near-duplicate tests (copied suites, vendored copies) would let a model recite what it is scored on, so a dev or
validation test that resembles a training test is left out, and likewise between validation and dev.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from distillctl.core.data.records import Record

Split = Literal["train", "dev", "validation"]
SPLITS: tuple[Split, ...] = ("train", "dev", "validation")
# Upper ends of the hash range: about 80 %, 3 %, 17 %.
TRAIN_BELOW, DEV_BELOW = 0.80, 0.83

SHINGLE = 5  # tokens
PERMUTATIONS, BANDS = 32, 8
NEAR_DUPLICATE = 0.8  # Jaccard similarity of token shingles from which two tests count as the same

_TOKEN = re.compile(r"[A-Za-z_]\w*|\d[\w.]*|\"[^\"\n]*\"|'[^'\n]*'|[^\s\w]")
_PRIME = (1 << 61) - 1


def split_of(project: str, path: str) -> Split:
    """The split of a file, from its name alone."""
    digest = hashlib.sha256(f"{project}/{path}".encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < TRAIN_BELOW:
        return "train"
    return "dev" if position < DEV_BELOW else "validation"


def normalised_tokens(code: str) -> list[str]:
    """Code tokens with numbers and string literals made equal: a changed constant does not make a new test."""
    tokens = []
    for token in _TOKEN.findall(code):
        first = token[0]
        tokens.append("0" if first.isdigit() else "''" if first in "\"'" else token)
    return tokens


def shingles(code: str) -> np.ndarray:
    """Sorted unique 32-bit hashes of the runs of SHINGLE normalised tokens; shorter code is one shingle. [S] uint64"""
    tokens = normalised_tokens(code)
    count = max(1, len(tokens) - SHINGLE + 1)
    hashes = {zlib.crc32(" ".join(tokens[i : i + SHINGLE]).encode("utf-8", "replace")) for i in range(count)}
    return np.array(sorted(hashes), dtype=np.uint64)


def min_hashes(hashes: np.ndarray) -> np.ndarray:
    """MinHash signature (Broder 1997): per permutation the least permuted shingle. [S] -> [PERMUTATIONS] uint64"""
    rng = np.random.default_rng(0)
    scale = rng.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    shift = rng.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    permuted = (hashes[:, None] * scale + shift) % np.uint64(_PRIME)
    least: np.ndarray = permuted.min(axis=0)
    return least


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Share of shingles two tests have in common, 0 to 1."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def crossing_duplicates(codes: Sequence[str], splits: Sequence[Split]) -> list[bool]:
    """For each test method: does a near-duplicate stand in an earlier split (train before dev before validation)?

    Candidates share a band of their MinHash signature (locality-sensitive hashing); the exact Jaccard similarity of
    shingles decides.
    """
    rank = {name: position for position, name in enumerate(SPLITS)}
    features = [shingles(code) for code in codes]
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    rows = PERMUTATIONS // BANDS
    crosses = [False] * len(codes)
    for index in sorted(range(len(codes)), key=lambda i: rank[splits[i]]):
        signature = min_hashes(features[index])
        keys = [(band, signature[band * rows : (band + 1) * rows].tobytes()) for band in range(BANDS)]
        own_rank = rank[splits[index]]
        if own_rank:
            candidates = {other for key in keys for other in buckets[key] if rank[splits[other]] < own_rank}
            crosses[index] = any(jaccard(features[index], features[other]) >= NEAR_DUPLICATE for other in candidates)
        if not crosses[index]:
            for key in keys:
                # A few representatives a bucket: boilerplate tests would otherwise make this quadratic.
                if len(buckets[key]) < 64:
                    buckets[key].append(index)
    return crosses


def split_records(records: Sequence[Record]) -> tuple[dict[Split, list[Record]], int]:
    """Records by split, in order, without near-duplicates across splits; and how many were left out for that.

    Records of one test (ids equal up to ``@``) differ in their mask alone: they stand in one file and are compared
    once.
    """
    one_per_test = {test_of(record): record for record in records}
    crossing = crossing_duplicates(
        [record.test_method_masked for record in one_per_test.values()],
        [split_of(record.project, record.path) for record in one_per_test.values()],
    )
    dropped = {test for test, crosses in zip(one_per_test, crossing, strict=True) if crosses}
    splits: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        if test_of(record) not in dropped:
            splits[split_of(record.project, record.path)].append(record)
    return splits, len(records) - sum(map(len, splits.values()))


def test_of(record: Record) -> str:
    """The test a record was made of, by the miner's convention ``<test>@<which assertion>``."""
    return record.id.split("@", 1)[0]

"""The records that the embedded teacher learned from: the default corpus, and tests of a hundred other packages.

What resembles a held-out test of the default corpus (dev or validation) is left out, by the rule that keeps its own
splits apart, so that the teacher is scored on tests it has not seen. The commands are in README.md beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distillctl.core.data.corpus import open_corpus
from distillctl.core.data.records import Record, read_jsonl, write_jsonl
from distillctl.core.data.splits import crossing_duplicates, unmasked

ASSERTIONS_PER_TEST = 6


def main(others: str, output: str) -> None:
    """Writes the default corpus and the other packages' records to ``output``."""
    default = open_corpus(None, None, "one", ASSERTIONS_PER_TEST)
    held_out = [record for split in ("dev", "validation") for record in default.records(split)]
    train = default.records("train")
    known = {record.project for record in [*train, *held_out]}
    candidates = [record for record in read_jsonl(Path(others)).records if record.project not in known]
    kept = unlike(candidates, held_out)
    print(f"{len(train):,} training records, {len(kept):,} of {len(candidates):,} others, {len(held_out):,} held out")
    write_jsonl(Path(output), [*train, *held_out, *kept])


def unlike(candidates: list[Record], held_out: list[Record]) -> list[Record]:
    """The candidates whose test is none of the held-out tests, nor nearly one."""
    held = dict.fromkeys(map(unmasked, held_out))
    tests = list(dict.fromkeys([*held, *map(unmasked, candidates)]))
    # The held-out tests take the place of a training split: what crosses is what resembles one of them.
    crossing = crossing_duplicates(tests, ["train" if test in held else "validation" for test in tests])
    refused = {test for test, crosses in zip(tests, crossing, strict=True) if crosses} | set(held)
    return [record for record in candidates if unmasked(record) not in refused]


if __name__ == "__main__":
    main(*sys.argv[1:])

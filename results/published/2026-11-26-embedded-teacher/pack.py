"""Token ids of the teacher's corpus (corpus.py of 2026-11-24) as one file for teach_on_gpu.py.

    python pack.py teacher-corpus.jsonl pack.npz

Training records of all its packages, those of the default corpus 1.5 times as often, and dev of the default corpus.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillctl.core.data.corpus import file_corpus, open_corpus
from distillctl.core.data.encoding import Encoder
from distillctl.core.data.records import Record
from distillctl.core.models.loading import EMBEDDED, load_tokenizer

SOURCE, TARGET = 144, 48


def main(corpus: str, output: str) -> None:
    """Writes the arrays: source and labels [N,tokens] of both parts, 0 at padding; and how often a record comes."""
    default = open_corpus(None, None, "one", 3)
    records = file_corpus(Path(corpus)).records("train")
    encoder = Encoder(load_tokenizer(EMBEDDED, "teacher"), SOURCE, TARGET)
    source, labels, kept = arrays(encoder, records)
    dev_source, dev_labels, _ = arrays(encoder, default.records("dev"))
    repeats = np.array([1.5 if record.project in default.packages else 1.0 for record in kept], dtype=np.float32)
    np.savez(output, source=source, labels=labels, dev_source=dev_source, dev_labels=dev_labels, repeats=repeats)
    print(
        f"{len(source):,} records, {np.count_nonzero(repeats > 1):,} of the default corpus; {len(dev_source):,} of dev"
    )


def arrays(encoder: Encoder, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, tuple[Record, ...]]:
    """Ids [N,144] and [N,48], and the records they are of."""
    encoded = encoder.encode(records)
    source = np.zeros((len(encoded.examples), SOURCE), np.uint16)
    labels = np.zeros((len(encoded.examples), TARGET), np.uint16)
    for row, example in enumerate(encoded.examples):
        source[row, : len(example.input_ids)] = example.input_ids
        labels[row, : len(example.labels)] = example.labels
    return source, labels, encoded.records


if __name__ == "__main__":
    main(*sys.argv[1:])

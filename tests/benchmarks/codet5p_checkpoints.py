"""Makes directories that look like CodeT5+ 770M, 220M and CodeBERT, at their full size and with random weights.

What they predict is noise. They are for trying the whole way without access to the hub: loading, memory, time, files.

    python tests/benchmarks/codet5p_checkpoints.py DIR [--layers N] [--merges N N]

writes DIR/Salesforce/codet5p-770m, DIR/Salesforce/codet5p-220m and DIR/microsoft/codebert-base, 2.4 GB at full size.
The vocabularies are trained on the embedded corpus (mined if it was not yet) and on Python's standard library.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from distillctl.core.config import load_config
from distillctl.core.materials import read_corpus
from distillctl.core.progress import SilentReporter
from tests.codet5p import ENCODER_MERGES, MERGES, Bpe, library_sources, write_checkpoints


def corpus_texts() -> Iterator[str]:
    """Tests, their assertions and the methods under test of the embedded corpus's training records."""
    corpus = read_corpus(load_config(), SilentReporter())
    return (text for r in corpus.records("train") for text in (r.test_method_masked, r.target, r.focal_method))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of every stack; default: as many as the models have")
    parser.add_argument(
        "--merges",
        type=int,
        nargs=2,
        default=(MERGES, ENCODER_MERGES),
        help="of the two vocabularies; default: those of the models",
    )
    options = parser.parse_args()
    started = time.perf_counter()
    bpe = Bpe.trained(corpus_texts(), options.merges[0])
    encoder_bpe = Bpe.trained(library_sources(), options.merges[1])
    print(f"vocabularies trained in {time.perf_counter() - started:.0f} s", flush=True)
    made = write_checkpoints(options.folder, bpe, encoder_bpe, layers=options.layers)
    print(f"written in {time.perf_counter() - started:.0f} s. Now: distillctl train {' '.join(made.flags)}")


if __name__ == "__main__":
    main()

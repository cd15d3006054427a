"""What it costs to align two vocabularies of CodeT5+'s and CodeBERT's sizes, to open the map, and to make E of it.

The tokenizers are byte-level BPEs trained on the sources of two installed packages each, which takes some minutes.

    python tests/benchmarks/vocabulary_map.py
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from distillctl.core.encoder.map_file import open_map
from distillctl.core.progress import SilentReporter
from tests.tokenizers import CODET5_SPECIALS, ROBERTA_SPECIALS, roberta_bpe

STUDENT, ENCODER, WIDTH = 32_100, 50_265, 768
FILES = 1_500


def sources(*packages: str) -> Iterator[str]:
    """Up to ``FILES`` files of each package."""
    for package in packages:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        for file in sorted(Path(spec.origin).parent.rglob("*.py"))[:FILES]:
            yield file.read_text(encoding="utf-8", errors="ignore")


def timed(title: str, work: Callable[[], object]) -> None:
    started = time.process_time()
    work()
    print(f"{title}: {time.process_time() - started:.2f} s of processor time")


def main() -> None:
    masks = [f"<extra_id_{number}>" for number in range(100)]
    student = roberta_bpe([*sources("torch", "transformers")], STUDENT, [*CODET5_SPECIALS[:5], *masks])
    encoder = roberta_bpe([*sources("sympy", "pandas", "scipy", "numpy")], ENCODER, ROBERTA_SPECIALS)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        os.environ["DISTILLCTL_CACHE"] = folder
        for title in ("made", "opened", "opened again"):
            timed(title, lambda: open_map(student, encoder, SilentReporter()))
        found = open_map(student, encoder, SilentReporter())
        (file,) = Path(folder).rglob("*.safetensors")
        print(f"{len(student):,} and {len(encoder):,} tokens: {found.coverage()}; {file.stat().st_size:,} bytes")
        embeddings = torch.randn(ENCODER, WIDTH)
        timed("E of the map", lambda: found.table(embeddings))
        stored = Path(folder) / "table.safetensors"
        save_file({"table": found.table(embeddings)}, stored)
        timed("E read and hashed", lambda: (hashlib.sha256(stored.read_bytes()), load_file(stored)["table"].sum()))


if __name__ == "__main__":
    main()

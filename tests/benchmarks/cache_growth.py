"""Resident memory of a process that has read all of a teacher cache, by the cache's size. Run by hand:

    python -m tests.benchmarks.cache_growth

Each size is read by a process of its own, from a cache of random rows (264 bytes a token at k = 64).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil

from distillctl.core.teacher.cache_format import CacheDirectory
from distillctl.core.teacher.cached import CacheReader
from tests.core.teacher.test_cache_format import WANTED, example, filled

FACTORS = (1, 4, 16)
MIB = 2**20


def main() -> None:
    """Prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=4_000, help="of the smallest cache")
    parser.add_argument("--tokens", type=int, default=40, help="of each example")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(resident(options.read, options.examples, options.tokens))
        return
    first = 0
    for factor in FACTORS:
        with tempfile.TemporaryDirectory() as folder:
            examples = factor * options.examples
            stored = filled(Path(folder), examples, options.tokens)[0].nbytes
            # A process that has made the cache has had it in its memory: read it in another.
            size = ["--examples", str(examples), "--tokens", str(options.tokens)]
            command = [sys.executable, "-m", "tests.benchmarks.cache_growth", "--read", folder, *size]
            used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = first or used
        sizes = f"cache {stored / MIB:6.1f} MiB, resident {used / MIB:6.1f} MiB"
        print(f"{factor:3d} x: {sizes}, {used / first:.3f} of 1 x")


def resident(folder: Path, examples: int, tokens: int) -> int:
    """Resident bytes of this process once it has read every row of a cache."""
    cache = CacheDirectory(folder, replace(WANTED, top_k=64))
    cache.check_files()
    reader = CacheReader(cache)
    for number in range(examples):
        reader.rows(example(number, tokens))
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()

"""Of the teacher's corpus (corpus.py of 2026-11-24): the default corpus, and as many records of the other packages.

python even.py teacher-corpus.jsonl teacher-corpus-even.jsonl 126953
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

OTHERS = 100_000


def main(corpus: str, output: str, own: str) -> None:
    """Keeps the first ``own`` lines, which corpus.py says are the default corpus's, and draws from the rest."""
    with Path(corpus).open(encoding="utf-8") as file:
        lines = file.readlines()
    count = int(own)
    random.seed(25)
    Path(output).write_text("".join([*lines[:count], *random.sample(lines[count:], OTHERS)]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What reading the embedding bank costs an optimizer step, in processor time: from disk, and were all in memory.

The states are random: the time does not depend on them. Run by hand:

    python tests/benchmarks/bank_reading.py --width 768 --tokens 40 --golds 16
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distillctl.core.data.encoding import ids_digest
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.stored import BankDirectory, BankIdentity, StoredStates
from distillctl.core.store.reader import ShardReader
from distillctl.core.store.writer import ShardWriter

STORED = 1500
STEPS = 200


def random_bank(path: Path, width: int, tokens: int) -> EmbeddingBank:
    """A bank of ``STORED`` golds, in the system's page cache since it was just written."""
    golds = [tuple(range(number, number + tokens)) for number in range(STORED)]
    bank = BankDirectory(path, BankIdentity("encoder", "table", "tokenizer", width, tokens, "float32"))
    with bank.capturing(lambda: None), ShardWriter(bank, {}) as writer:
        for gold in golds:
            rows = np.zeros(tokens, bank.dtype)
            rows["state"] = np.random.default_rng(gold[0]).standard_normal((tokens, width))
            writer.add(ids_digest(gold), rows)
    states = StoredStates(ShardReader(bank), golds)
    return EmbeddingBank({number: number for number in range(STORED)}, states, torch.zeros(width))


def milliseconds(work: Callable[[list[int]], object], steps: list[list[int]]) -> float:
    """Median processor time of a step."""
    found = []
    for keys in steps:
        start = time.process_time()
        work(keys)
        found.append(1000 * (time.process_time() - start))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--golds", type=int, default=16, help="of a step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(0)
    steps = [draw.sample(range(STORED), arguments.golds) for _ in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        bank = random_bank(Path(folder) / "bank", arguments.width, arguments.tokens)
        in_memory = bank.vectors(list(range(STORED)))
        print(f"{arguments.golds} golds of {arguments.tokens} tokens, width {arguments.width}, one core:")
        print(f"  gold states from disk  {milliseconds(bank.lookup, steps):.2f} ms a step")
        print(f"  gold vectors from disk {milliseconds(bank.vectors, steps):.2f} ms a step")
        print(f"  gold vectors in memory {milliseconds(lambda keys: in_memory[keys], steps):.2f} ms a step")


if __name__ == "__main__":
    main()

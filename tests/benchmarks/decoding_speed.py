"""Examples per second of ``distillctl evaluate``'s decoding against the plain loop, one ``generate`` per record.

Both decode the same records with the same model and length limit, in turns (A B B A ...), so that a drifting machine
cancels. Run by hand on an idle machine:

    python tests/benchmarks/decoding_speed.py results/run --records 256 --rounds 4
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from distillctl.core.config import load_config
from distillctl.core.data.encoding import Encoder, Example
from distillctl.core.data.selection import fixed_sample
from distillctl.core.evaluation.decoding import decode
from distillctl.core.materials import read_corpus
from distillctl.core.models.loading import load_seq2seq, load_tokenizer
from distillctl.core.progress import SilentReporter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="run directory with a student")
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    config = load_config([f"{arguments.run}/config.yaml"])
    model = load_seq2seq(f"{arguments.run}/student", "student").eval()
    tokenizer = load_tokenizer(f"{arguments.run}/student", "student")
    records = fixed_sample(read_corpus(config, SilentReporter()).records("validation"), arguments.records)
    examples = Encoder(tokenizer, config.data.max_source_length, config.data.max_target_length).encode(records).examples
    length, tokens = config.data.max_target_length, config.evaluation.batch_tokens

    def plain() -> list[str]:
        return [one_by_one(model, tokenizer, example, length) for example in examples]

    def batched(bf16: bool) -> Callable[[], list[str]]:
        return lambda: decode(model, tokenizer, examples, max_new_tokens=length, tokens_per_batch=tokens, bf16=bf16)

    arms: dict[str, Callable[[], list[str]]] = {"plain loop": plain, "batched": batched(False)}
    arms["batched, bf16"] = batched(True)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    texts = {name: arm() for name, arm in arms.items()}  # warm-up
    for turn in range(arguments.rounds):
        for name in list(arms) if turn % 2 == 0 else list(reversed(arms)):
            started = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - started)
    print(f"{len(examples)} records, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    for name, taken in seconds.items():
        ratios = [slow / fast for slow, fast in zip(seconds["plain loop"], taken, strict=True)]
        same = sum(a == b for a, b in zip(texts[name], texts["plain loop"], strict=True))
        print(
            f"{name}: {len(examples) / statistics.median(taken):.1f} examples/s, {statistics.median(ratios):.2f} x the "
            f"plain loop ({min(ratios):.2f}-{max(ratios):.2f}); {same} texts the same"
        )


@torch.inference_mode()
def one_by_one(model: torch.nn.Module, tokenizer: object, example: Example, length: int) -> str:
    """The loop that everybody writes first."""
    output = model.generate(input_ids=torch.tensor([example.input_ids]), max_new_tokens=length)  # type: ignore[operator]
    return str(tokenizer.decode(output[0], skip_special_tokens=True))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()

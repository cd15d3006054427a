"""Whether a model reads what it is given: cross-entropy with a record's own input, and with another record's.

A model that only knows which assertions are usual has the same in both. The other input is that of the record half of
the sample away; the mean is over all target tokens, in nats. Run by hand:

    python tests/benchmarks/reads_its_input.py distillctl/assets/teacher --records 400
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from distillctl.core.config import load_config
from distillctl.core.data.encoding import Example
from distillctl.core.data.selection import fixed_sample
from distillctl.core.losses.term import Places
from distillctl.core.materials import make_encoder, read_corpus
from distillctl.core.models.loading import load_seq2seq, load_tokenizer
from distillctl.core.progress import SilentReporter
from distillctl.core.teacher.batching import batches, padded_batch
from distillctl.core.teacher.live import LiveTeacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="model directories")
    parser.add_argument("--records", type=int, default=400)
    arguments = parser.parse_args()
    config = load_config([])
    records = fixed_sample(read_corpus(config, SilentReporter()).records("validation"), arguments.records)
    for name in arguments.models:
        tokenizer = load_tokenizer(name, "model")
        own = make_encoder(config, tokenizer).encode(records).examples
        half = len(own) // 2
        other = [
            replace(example, input_ids=stranger.input_ids)
            for example, stranger in zip(own, (*own[half:], *own[:half]), strict=True)
        ]
        model = LiveTeacher(load_seq2seq(name, "model"))
        print(f"{name}: own input {cross_entropy(model, own):.3f}, another's {cross_entropy(model, other):.3f}")


def cross_entropy(model: LiveTeacher, examples: Sequence[Example]) -> float:
    """Mean over the target tokens, in nats."""
    total, tokens = 0.0, 0
    for batch in batches(examples, width=int(model.model.config.vocab_size)):
        inputs, mask, labels = padded_batch(batch, model.padding_id, torch.device("cpu"))
        places = Places.of(labels)
        logits, gold = model.logits(inputs, mask, labels, places), places.take(labels)
        total += float(torch.nn.functional.cross_entropy(logits, gold, reduction="sum"))
        tokens += len(gold)
    return total / tokens


if __name__ == "__main__":  # the corpus is mined in processes that import this file
    main()

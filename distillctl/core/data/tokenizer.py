"""The embedded models' own tokenizer: byte-level BPE with T5's special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distillctl.core.data.records import MASK

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
_MASK = re.compile(r"<extra_id_\d+>")
MASK_TOKENS = 8  # records mask at most three assertions; the rest is room for other data


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 8192) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE (Sennrich 2016; bytes as in GPT-2): ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2.

    Digits stand alone, so that a number is written digit by digit and not looked up; every text round-trips.
    The masks in the texts are left out: they are tokens of their own and should not shape the merges.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    masks = [MASK.format(index) for index in range(MASK_TOKENS)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, END, UNKNOWN, *masks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_MASK.sub("\n", text) for text in texts), trainer)
    fast: Any = PreTrainedTokenizerFast  # untyped in some versions of the library
    trained: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=masks,
        clean_up_tokenization_spaces=False,
    )
    return trained

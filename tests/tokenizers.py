"""Tokenizers made on the spot, so that tests need no download."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<pad>", "</s>", "<unk>", "<mask>", "<extra_id_0>"]


def byte_level_bpe(corpus: Sequence[str], size: int, specials: Sequence[str] = SPECIALS) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about ``size`` entries trained on the corpus; 261 hold every byte and no merge."""
    tokenizer = _trained(corpus, size, specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
    )


def _trained(corpus: Sequence[str], size: int, specials: Sequence[str], add_prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


CODET5_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<extra_id_0>", "<extra_id_1>"]
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def roberta_bpe(
    corpus: Sequence[str], size: int, specials: Sequence[str] = ROBERTA_SPECIALS, add_prefix_space: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE that reads as RoBERTa and CodeT5+ do: ``<s> text </s>``, ids in the order of ``specials``."""
    tokenizer = _trained(corpus, size, specials, add_prefix_space)
    start, end = (("<s>", specials.index("<s>")), ("</s>", specials.index("</s>")))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[start, end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        additional_special_tokens=[token for token in specials if token.startswith("<extra")],
        clean_up_tokenization_spaces=False,
    )


def metaspace_words(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Whole words in SentencePiece's notation, each beginning with its space."""
    vocab = {token: i for i, token in enumerate([*SPECIALS, *(f"▁{word}" for word in words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )

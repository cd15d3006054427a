"""CodeT5+ 770M, 220M and CodeBERT as they are built, with random weights: time does not depend on those.

Nothing is downloaded. Token ids are drawn at random, every example of the same lengths, so that no padding helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel, T5Config, T5ForConditionalGeneration

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Encoded, Example
from distillctl.core.data.records import Record
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.losses.critical import CRITICAL_WORDS
from distillctl.core.materials import Models
from distillctl.core.models.loading import freeze
from distillctl.core.progress import Reporter

VOCABULARY = 32_100
STUDENT: dict[str, Any] = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
TEACHER: dict[str, Any] = {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}
FAMILY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_kv": 64,
    "feed_forward_proj": "relu",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
"""What all sizes of CodeT5+ up to 770M have in common, as their config.json has it; the embeddings are tied."""
ENCODER: dict[str, Any] = {
    "vocab_size": 50_265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
BATCHES = 4
"""Distinct batches, taken again and again: every one costs the same, and each example is captured from the teacher."""
_END, _FIRST = FAMILY["eos_token_id"], 4


def codet5p_models(reporter: Reporter) -> tuple[Models, FrozenEncoder]:
    """Student, teacher and tokenizer, and the frozen encoder behind a table of the student's tokens."""
    with reporter.task("building 220M, 770M and 125M with random weights"):
        student = T5ForConditionalGeneration(_t5(STUDENT))
        teacher = freeze(T5ForConditionalGeneration(_t5(TEACHER)))
        encoder = RobertaModel(RobertaConfig(**ENCODER), add_pooling_layer=False)
        table = encoder.get_input_embeddings().weight[:VOCABULARY].clone()
    return Models(student, _tokenizer(), teacher, VOCABULARY), FrozenEncoder(encoder, table)


def _t5(shape: dict[str, Any]) -> T5Config:
    return T5Config(**FAMILY, **shape, num_decoder_layers=shape["num_layers"], dropout_rate=0.0)


def _tokenizer() -> PreTrainedTokenizerFast:
    """As many tokens as CodeT5+ has, the critical words among them, so that some labels are weighted."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *CRITICAL_WORDS["python"]]
    names = dict.fromkeys([*words, *(f"token{number}" for number in range(VOCABULARY))])
    vocabulary = {name: number for number, name in enumerate(list(names)[:VOCABULARY])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<unk>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def random_examples(config: Config) -> Encoded:
    """:data:`BATCHES` batches of examples, every one as long as the configuration allows."""
    rng = np.random.default_rng(config.seed)
    count = BATCHES * config.training.per_device_train_batch_size
    source, target = config.data.max_source_length, config.data.max_target_length
    examples = tuple(Example(f"random-{number}", _ids(rng, source), _ids(rng, target)) for number in range(count))
    records = tuple(
        Record(example.key, "python", "random", example.key, "", "<extra_id_0>", ("",)) for example in examples
    )
    return Encoded(examples, records, 0, 0, 0)


def _ids(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    return (*rng.integers(_FIRST, VOCABULARY, size=length - 1).tolist(), _END)


def published_config(name: str) -> Any | None:
    """The configuration of one of the three models by its hub name, without asking the hub; None of any other."""
    if name == "microsoft/codebert-base":
        return RobertaConfig(**ENCODER)
    shape = {"Salesforce/codet5p-770m": TEACHER, "Salesforce/codet5p-220m": STUDENT}.get(name)
    if shape is None:
        return None
    config = _t5(shape)
    config.dropout_rate = 0.1
    return config

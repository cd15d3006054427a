"""Everything a training starts from: records, tokenizer, teacher, student, encoder, caches."""

from distillctl.core.materials.caches import (
    bank_opener,
    cache_opener,
    open_bank,
    prepare_caches,
    with_bank,
    with_facts,
    with_teacher_cache,
)
from distillctl.core.materials.data import (
    Data,
    EncodedData,
    encode_data,
    make_encoder,
    open_data,
    read_corpus,
    training_records,
)
from distillctl.core.materials.guides import critical_tokens, make_guides, trim_frozen_models
from distillctl.core.materials.models import Models, frozen_encoder, load_models, new_teacher

__all__ = [
    "Data",
    "EncodedData",
    "Models",
    "bank_opener",
    "cache_opener",
    "critical_tokens",
    "encode_data",
    "frozen_encoder",
    "load_models",
    "make_encoder",
    "make_guides",
    "new_teacher",
    "open_bank",
    "open_data",
    "prepare_caches",
    "read_corpus",
    "training_records",
    "trim_frozen_models",
    "with_bank",
    "with_facts",
    "with_teacher_cache",
]

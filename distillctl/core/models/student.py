"""The student: its shape, and the weights it starts from."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, T5Config

from distillctl.core.config.schema import SHAPED_INITS, Config, StudentConfig
from distillctl.core.errors import DataError, UsageError
from distillctl.core.models.head import run_head_in_float32
from distillctl.core.models.induction import start_with_induction_heads
from distillctl.core.models.loading import EMBEDDED, deeper_than_cache, load_config, load_seq2seq

# Where encoder-decoder families keep their layers, and what their configs call the number of them.
_LAYER = re.compile(r"^(.*?\b(encoder|decoder)\.(?:block|layers|layer)\.)(\d+)(\..*)$")
_COUNTS = {"encoder": ("num_layers", "encoder_layers"), "decoder": ("num_decoder_layers", "decoder_layers")}
# Rates that layers keep as a number and hand to functional.dropout (attention of T5, all of BART).
_DROPOUT_RATES = ("dropout", "dropout_rate", "attention_dropout", "activation_dropout")


def make_student(settings: StudentConfig, teacher: Any) -> Any:
    """The student a configuration describes, in float32.

    ``model: embedded`` takes the teacher's shape with fewer layers; ``init`` says where its weights come from:
    ``teacher-layers`` (alternate layers of the teacher, everything else copied: Shleifer & Rush 2020, section 3),
    ``random``, ``induction`` (random with heads that copy, :mod:`distillctl.core.models.induction`), ``pretrained``
    (``model``'s own), or a path or hub name.
    """
    if settings.init == "pretrained":
        return load_seq2seq(settings.model, "student", settings.trusted_revision)
    if settings.init not in SHAPED_INITS:
        return load_seq2seq(settings.init, "student.init", settings.trusted_revision)
    shape = (
        teacher.config
        if settings.model == EMBEDDED
        else load_config(settings.model, "student", settings.trusted_revision)
    )
    counts = _layer_counts(settings, shape, halve=settings.model == EMBEDDED)
    student = draw_weights(with_layers(shape, counts), settings.init)
    if settings.init == "teacher-layers":
        copy_teacher_layers(teacher, student, counts)
    return student


def draw_weights(shape: Any, init: str) -> Any:
    """A model of a shape with newly drawn weights, in float32; ``init: induction`` builds copying into them."""
    # float(): a config may ask for bfloat16, and weights copied in later should be their own to the last bit
    model = AutoModelForSeq2SeqLM.from_config(shape).float()
    if init == "induction":
        start_with_induction_heads(model)
    return model


def embedded_shape(vocabulary_size: int) -> T5Config:
    """The shape of the embedded teacher: a T5 of 9.4 million parameters for a tokenizer of about 8k."""
    shape: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "d_model": 256,
        "d_kv": 64,
        "num_heads": 4,
        "d_ff": 768,
        "num_layers": 6,
        "num_decoder_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5Config(**shape)


def prepare_student(student: Any, config: Config) -> None:
    """What a configuration changes in a student before training: head precision, dropout, checkpointing."""
    run_head_in_float32(student)
    if config.training.dropout_rate is not None:
        set_dropout(student, config.training.dropout_rate)
    if config.training.gradient_checkpointing:
        # its name since transformers 5; the old one warns there
        new = hasattr(student, "activation_checkpointing_enable")
        enable = student.activation_checkpointing_enable if new else student.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    student.train()


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets every dropout rate of a model, in place: those of modules, and those that layers keep as numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in _DROPOUT_RATES:
            there = getattr(module, name, None)  # an int where config.json says 0 or 1
            if isinstance(there, float | int) and not isinstance(there, bool):
                setattr(module, name, rate)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Starts torch's random numbers, on all its devices, for one optimizer step of one process.

    Like the order of the examples they depend on the seed and the step alone, so a run goes on at any step without
    replaying the ones before; and processes do not drop the same units.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def layer_count(config: Any, stack: str) -> int:
    """Number of layers of a stack ("encoder" or "decoder"), whatever the family calls it."""
    for name in _COUNTS[stack]:
        value = config.to_dict().get(name)
        if value is not None:
            return int(value)
    raise DataError(f"a {config.model_type} model does not say how many {stack} layers it has")


def with_layers(config: Any, counts: dict[str, int]) -> Any:
    """A copy of a model configuration with other numbers of layers."""
    changed = copy.deepcopy(config)
    for stack, count in counts.items():
        known = [name for name in _COUNTS[stack] if config.to_dict().get(name) is not None]
        if not known:
            raise DataError(f"a {config.model_type} model does not say how many {stack} layers it has")
        setattr(changed, known[0], count)
    return changed


def shaped_config(settings: StudentConfig, shape: Any) -> Any:
    """The configuration of a student whose weights are drawn or taken from layers, of a model's ``shape``."""
    return with_layers(shape, _layer_counts(settings, shape, halve=settings.model == EMBEDDED))


def _layer_counts(settings: StudentConfig, shape: Any, halve: bool) -> dict[str, int]:
    counts = {}
    for stack, wanted in (("encoder", settings.encoder_layers), ("decoder", settings.decoder_layers)):
        there = layer_count(shape, stack)
        counts[stack] = wanted if wanted is not None else max(1, there // 2) if halve else there
        if settings.init == "teacher-layers" and counts[stack] > there:
            raise UsageError(
                f"student.{stack}_layers: {counts[stack]} layers cannot be taken from a teacher with {there}. "
                f"Use at most {there}, or student.init=random"
            )
    check_can_generate(shape, counts)
    return counts


def check_can_generate(shape: Any, counts: Mapping[str, int]) -> None:
    """Raises UsageError where a model of ``shape`` with ``counts`` layers (by stack) could not write."""
    if deeper_than_cache(shape, counts["encoder"], counts["decoder"]):
        raise UsageError(
            f"student.decoder_layers: a {shape.model_type} decoder of {counts['decoder']} layers behind an encoder of "
            f"{counts['encoder']} cannot generate in transformers. Use at most as many as student.encoder_layers"
        )


def alternate_layers(available: int, wanted: int) -> list[int]:
    """Which of a teacher's layers a student of ``wanted`` layers takes: evenly spread, the first always.

    The first layer holds T5's relative position biases, so it is never left out.
    """
    return [index * available // wanted for index in range(wanted)]


@torch.no_grad()
def copy_teacher_layers(teacher: Any, student: Any, counts: dict[str, int]) -> None:
    """Copies the teacher's weights into a shallower student of the same width, in place.

    Raises DataError where a student's weight has no counterpart of its shape in the teacher.
    """
    chosen = {stack: alternate_layers(layer_count(teacher.config, stack), count) for stack, count in counts.items()}
    weights = teacher.state_dict()
    renamed: dict[str, torch.Tensor] = {}
    for name, target in student.state_dict().items():
        source = _teacher_name(name, chosen)
        if source not in weights or weights[source].shape != target.shape:
            raise DataError(
                f"student.init=teacher-layers: the student's {name} {tuple(target.shape)} has no counterpart in the "
                "teacher. Student and teacher need the same width and family; use student.init=random otherwise"
            )
        renamed[name] = weights[source].to(target.dtype)
    student.load_state_dict(renamed)


def _teacher_name(name: str, chosen: dict[str, Sequence[int]] | dict[str, list[int]]) -> str:
    match = _LAYER.match(name)
    if match is None:
        return name
    prefix, stack, index, rest = match.groups()
    return f"{prefix}{chosen[stack][int(index)]}{rest}"

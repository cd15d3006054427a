"""What the terms of an objective need beside the gold tokens."""

from __future__ import annotations

import gc
from typing import Any

import torch

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Encoded
from distillctl.core.data.selection import main_language
from distillctl.core.encoder.vocabulary_report import vocabulary_facts
from distillctl.core.losses.critical import CriticalTargets, CriticalTokens
from distillctl.core.materials.models import Models, frozen_encoder
from distillctl.core.models.frozen import store_in_bf16
from distillctl.core.models.vocabulary import logit_width
from distillctl.core.progress import Reporter
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.training.step_inputs import Guides
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS


def make_guides(
    config: Config, models: Models, train: Encoded, device: torch.device, reporter: Reporter
) -> tuple[Guides, dict[str, Any]]:
    """What the active terms need beside the gold tokens, but for the bank; and facts about it for run.json."""
    active = set(config.objective.active_terms)
    facts: dict[str, Any] = {}
    teacher = models.teacher
    live = LiveTeacher(teacher.to(device)) if teacher is not None and active & TEACHER_TERMS else None
    encoder = None
    if active & ENCODER_TERMS:
        width = logit_width(models.student)
        encoder, vocabulary = frozen_encoder(config, teacher, models.tokenizer, width, reporter)
        encoder.to(device)
        facts["encoder"] = {
            "model": config.encoder.model,
            "width": encoder.width,
            **vocabulary_facts(vocabulary, models.tokenizer, (example.labels for example in train.examples)),
        }
        if not vocabulary.identical:
            reporter.note(f"encoder {config.encoder.model}: {facts['encoder']['summary']}")
    critical = critical_tokens(config, models.tokenizer, train)
    if critical is not None:
        facts["critical_tokens"] = {
            "language": critical.language,
            "summary": str(critical.coverage),
            **critical.coverage.to_dict(),
        }
    return Guides(live, encoder, None, critical), facts


def critical_tokens(config: Config, tokenizer: Any, train: Encoded) -> CriticalTargets | None:
    """Where the targets' critical tokens are, by the records' language; None where all tokens weigh alike."""
    settings = config.objective.critical_tokens
    if "focal" not in config.objective.active_terms or settings.weight <= 1:
        return None
    words = CriticalTokens(tokenizer, main_language(train.records), settings.extra)
    return words.read(example.labels for example in train.examples)


def trim_frozen_models(config: Config, guides: Guides) -> None:
    """Gives back the memory of frozen models that the training does not need; call it right before.

    A teacher that only the cache speaks for goes altogether; under bf16 autocast what stays is kept in bfloat16
    (:func:`store_in_bf16`), after which a model can only be run under it.
    """
    gc.collect()  # an LM head in float32 refers to itself: without this its model would stay
    if config.training.bf16 is not True:
        return
    if guides.teacher is not None and guides.teacher.model is not None:
        store_in_bf16(guides.teacher.model)
    if guides.encoder is not None:
        store_in_bf16(guides.encoder.encoder)

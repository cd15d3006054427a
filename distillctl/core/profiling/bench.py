"""What all arms share: one student, one teacher live and cached, one encoder with its bank, the same examples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import set_seed

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Encoded
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.errors import UsageError
from distillctl.core.materials import (
    Models,
    critical_tokens,
    encode_data,
    frozen_encoder,
    load_models,
    open_bank,
    open_data,
    with_teacher_cache,
)
from distillctl.core.models.vocabulary import logit_width
from distillctl.core.profiling.codet5p import codet5p_models, random_examples
from distillctl.core.profiling.request import ShapeName
from distillctl.core.progress import Reporter, Task
from distillctl.core.teacher.interface import Teacher
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.training.accelerator import make_accelerator
from distillctl.core.training.step_inputs import Guides
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS

TOP_K = 64
"""Ids kept of a teacher with random weights: it is all but flat, and no number of ids would be enough."""


@dataclass(frozen=True)
class Bench:
    """What arms are made of; teachers by mode and, cached, by temperature. ``cache`` are facts about the cache."""

    models: Models
    train: Encoded
    accelerator: Accelerator
    live: LiveTeacher
    cached: dict[float, Teacher]
    encoder: FrozenEncoder | None
    bank: EmbeddingBank | None
    cache: dict[str, Any]

    def guides(self, config: Config) -> Guides:
        """What the active terms of an arm need, and nothing else."""
        active = set(config.objective.active_terms)
        teacher: Teacher | None = None
        if active & TEACHER_TERMS:
            is_cached = config.teacher.mode == "cached"
            teacher = self.cached[config.objective.jsd.temperature] if is_cached else self.live
        needs_encoder = bool(active & ENCODER_TERMS)
        return Guides(
            teacher,
            self.encoder if needs_encoder else None,
            self.bank if needs_encoder else None,
            critical_tokens(config, self.models.tokenizer, self.train),
        )


def open_bench(configs: Sequence[Config], shape: ShapeName, folder: Path, reporter: Reporter) -> Bench:
    """Loads or builds the models, and captures the teacher anew into ``folder``, so that it can be timed.

    Args:
        configs: of the arms, alike in all but their objectives; the last one is the candidate's.
        shape: embedded, or codet5p.
        folder: an empty one, for the teacher cache.
        reporter: hears of long work.

    Raises:
        DistillError: what a training with these settings would be refused for.
    """
    config = configs[-1]
    set_seed(config.seed)
    accelerator = make_accelerator(config.device, bf16=config.training.bf16 is True)
    if accelerator.num_processes > 1:
        raise UsageError("profile-overhead measures one process: start it without accelerate launch or torchrun")
    encoder: FrozenEncoder | None = None
    if shape == "codet5p":
        models, encoder = codet5p_models(reporter)
        train = random_examples(config)
    else:
        data = open_data(config, reporter)
        models = load_models(config)
        train = encode_data(config, data, models.tokenizer, reporter).train
    models.student.to(accelerator.device)
    assert models.teacher is not None
    live = LiveTeacher(models.teacher.to(accelerator.device))
    active = {name for one in configs for name in one.objective.active_terms}
    if not active & ENCODER_TERMS:
        encoder = None
    elif encoder is None:
        encoder, _ = frozen_encoder(config, models.teacher, models.tokenizer, logit_width(models.student), reporter)
    bank = None
    if encoder is not None:
        own = config.with_section("encoder", cache_dir=str(folder / "bank"))
        guides = Guides(encoder=encoder.to(accelerator.device))
        bank, _ = open_bank(own, guides, models, train, reporter)
    cached, facts = _capture(configs, models, train, live, accelerator, folder, reporter, shape)
    return Bench(models, train, accelerator, live, cached, encoder, bank, facts)


def _capture(
    configs: Sequence[Config],
    models: Models,
    train: Encoded,
    live: LiveTeacher,
    accelerator: Accelerator,
    folder: Path,
    reporter: Reporter,
    shape: ShapeName,
) -> tuple[dict[float, Teacher], dict[str, Any]]:
    """A cached teacher per temperature that an arm asks for; facts and seconds of the last one's, the candidate's."""
    cached: dict[float, Teacher] = {}
    facts: dict[str, Any] = {}
    for config in configs:
        temperature = config.objective.jsd.temperature
        if temperature in cached or not set(config.objective.active_terms) & TEACHER_TERMS:
            continue
        top_k = config.teacher.top_k or (TOP_K if shape == "codet5p" else None)
        place = str(folder / f"temperature-{temperature:g}")
        asked = config.with_section("teacher", mode="cached", top_k=top_k, cache_dir=place)
        timed = _TimedReporter(reporter)
        started = time.perf_counter()
        guides, found = with_teacher_cache(asked, Guides(live), models, train, timed, accelerator.autocast)
        assert guides.teacher is not None
        cached[temperature] = guides.teacher
        facts = {
            **{key: value for key, value in found["teacher_cache"].items() if key != "directory"},
            "capture_seconds": timed.seconds["capturing the teacher"],
            "opening_seconds": time.perf_counter() - started - timed.seconds["capturing the teacher"],
        }
    return cached, facts


class _TimedReporter:
    """Passes everything on, and remembers how long each piece of work took."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.seconds: dict[str, float] = {}

    def note(self, text: str) -> None:
        self._reporter.note(text)

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        started = time.perf_counter()
        with self._reporter.task(title, total) as task:
            yield task
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - started

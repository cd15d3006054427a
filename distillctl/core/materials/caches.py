"""The teacher cache and the embedding bank of a run: opened, captured, checked."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from transformers import set_seed

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import Corpus
from distillctl.core.data.encoding import Encoded
from distillctl.core.encoder.alignment_error import alignment_error
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.opening import BankOpener
from distillctl.core.encoder.stored import BankIdentity
from distillctl.core.errors import UsageError
from distillctl.core.materials.data import make_encoder, training_records
from distillctl.core.materials.guides import make_guides
from distillctl.core.materials.models import Models, load_models
from distillctl.core.models.loading import tensors_fingerprint, tokenizer_fingerprint, weights_fingerprint
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.teacher.capture import Autocast
from distillctl.core.teacher.converted import ConvertedCacheOpener, is_converted
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.teacher.opening import CacheOpener
from distillctl.core.training.accelerator import resolve_precision, start_together
from distillctl.core.training.step_inputs import Guides
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS


def cache_opener(
    config: Config,
    guides: Guides,
    models: Models,
    train: Encoded,
    autocast: Autocast = nullcontext,
    processes: Processes = ALONE,
) -> CacheOpener | ConvertedCacheOpener | None:
    """What opens the run's teacher cache; None where the teacher is to run live, or no term asks for it.

    Call it before the training: it may look at how the student begins.
    """
    if config.teacher.mode != "cached" or not isinstance(guides.teacher, LiveTeacher):
        return None
    assert models.shared_vocabulary is not None
    if is_converted(config.teacher.cache_dir):
        return ConvertedCacheOpener(config, models.tokenizer, models.shared_vocabulary, train.examples)
    return CacheOpener(
        config,
        guides.teacher,
        models.student,
        models.tokenizer,
        models.shared_vocabulary,
        train.examples,
        autocast,
        processes,
    )


def with_teacher_cache(
    config: Config,
    guides: Guides,
    models: Models,
    train: Encoded,
    reporter: Reporter,
    autocast: Autocast,
    processes: Processes = ALONE,
) -> tuple[Guides, dict[str, Any]]:
    """The guides with a teacher that is read from its cache, captured where it is not there; and facts about it."""
    opener = cache_opener(config, guides, models, train, autocast, processes)
    if opener is None:
        return guides, {}
    cached, facts = opener.open(reporter)
    guides = replace(guides, teacher=cached)
    if isinstance(opener, ConvertedCacheOpener):  # what was learned from is not the model that is at hand
        return guides, {"teacher_cache": facts, "fingerprints": {"teacher": facts["teacher"]}}
    return guides, {"teacher_cache": facts}


def bank_opener(
    config: Config, guides: Guides, models: Models, train: Encoded, processes: Processes = ALONE
) -> BankOpener | None:
    """What opens the run's embedding bank; None where no active term looks through an encoder."""
    encoder = guides.encoder
    if encoder is None:
        return None
    identity = BankIdentity(
        encoder=weights_fingerprint(encoder.encoder),
        table=tensors_fingerprint({"table": encoder.table}),
        tokenizer=tokenizer_fingerprint(models.tokenizer),
        width=encoder.width,
        max_target_length=config.data.max_target_length,
        precision=str(encoder.table.dtype).removeprefix("torch."),
    )
    return BankOpener(config.encoder.cache_dir, identity, encoder, train.examples, processes)


def with_bank(
    config: Config,
    guides: Guides,
    models: Models,
    train: Encoded,
    reporter: Reporter,
    processes: Processes = ALONE,
) -> tuple[Guides, dict[str, Any]]:
    """The guides with a bank of the golds, captured where it is not there; and facts about it and the encoder."""
    bank, facts = open_bank(config, guides, models, train, reporter, processes)
    return replace(guides, bank=bank), facts


def open_bank(
    config: Config,
    guides: Guides,
    models: Models,
    train: Encoded,
    reporter: Reporter,
    processes: Processes = ALONE,
    *,
    capture: bool = True,
) -> tuple[EmbeddingBank | None, dict[str, Any]]:
    """The bank of the golds, None where no term reads one; and facts: ``bank``, ``encoder``.

    An encoder that has a vocabulary of its own is asked how much is lost by reading the student's.
    """
    opener, encoder = bank_opener(config, guides, models, train, processes), guides.encoder
    if opener is None or encoder is None:
        return None, {}
    bank, facts = opener.open(reporter, capture=capture)
    if encoder.own_tokenizer is None:
        return bank, {"bank": facts}

    def measure() -> dict[str, Any] | None:
        with reporter.task("reading golds with the encoder's own tokenizer"):
            found = alignment_error(encoder, bank, models.tokenizer, train.examples)
        return None if found is None else asdict(found) | {"summary": str(found)}

    error = processes.share(measure)
    if error is not None:
        reporter.note(f"encoder {config.encoder.model}: {error['summary']}")
    return bank, {"bank": facts, "encoder": {"alignment": error}}


def with_facts(facts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Facts by subject and name, and more of them."""
    return facts | {subject: facts.get(subject, {}) | values for subject, values in more.items()}


def prepare_caches(
    config: Config, corpus: Corpus, reporter: Reporter, *, teacher: bool, capture: bool
) -> dict[str, dict[str, Any]]:
    """Captures, or only checks, what a training with this configuration reads from disk; facts about each by name.

    The embedding bank where an active term looks through the encoder (``bank``, ``encoder``), and the teacher cache
    (``teacher_cache``).

    Args:
        config, corpus, reporter: as in a training.
        teacher: False leaves the teacher cache out.
        capture: False only checks what is there.

    Several processes (:func:`start_together`) capture a part each.

    Raises:
        UsageError: no term reads what is asked for, or there is nothing to check.
        DataError: something is damaged or of something else, or lacks an example and ``capture`` is off.
    """
    active = set(config.objective.active_terms)
    if teacher and not active & TEACHER_TERMS:
        raise UsageError("objective.jsd is off, so nothing reads a teacher cache. Give it a weight")
    if not teacher and not active & ENCODER_TERMS:
        raise UsageError(
            "a training with these settings reads nothing from disk: the semantic and contrastive terms are off, and "
            "there is no teacher.cache_dir and no teacher.mode=cached"
        )
    config = resolve_precision(config).with_section("teacher", mode="cached")
    records = training_records(config, corpus.records("train"))
    set_seed(config.seed)  # as in a training: the student begins the same
    models = load_models(config)
    accelerator, processes = start_together(config)
    models.student.to(accelerator.device)
    train = make_encoder(config, models.tokenizer).encode(records)
    reporter.note(f"train: {train.summary()}")
    guides, facts = make_guides(config, models, train, accelerator.device, reporter)
    facts = with_facts(facts, open_bank(config, guides, models, train, reporter, processes, capture=capture)[1])
    cache = cache_opener(config, guides, models, train, accelerator.autocast, processes) if teacher else None
    if cache is not None:
        facts["teacher_cache"] = cache.open(reporter, capture=capture)[1]
    return facts

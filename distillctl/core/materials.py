"""Everything a training starts from: records, tokenizer, teacher, student, encoder, bank."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import set_seed

from distillctl.core.config.schema import DRAWN_INITS, SHAPED_INITS, Config
from distillctl.core.data.corpus import Corpus, open_corpus
from distillctl.core.data.encoding import Encoded, Encoder
from distillctl.core.data.records import Record
from distillctl.core.data.selection import fixed_sample, main_language, training_sample
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.encoder.alignment import VocabularyMap
from distillctl.core.encoder.alignment_error import alignment_error
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.frozen import FrozenEncoder, teacher_encoder
from distillctl.core.encoder.map_file import open_map
from distillctl.core.encoder.opening import BankOpener
from distillctl.core.encoder.stored import BankIdentity
from distillctl.core.encoder.vocabulary_report import vocabulary_facts
from distillctl.core.errors import DataError, UsageError
from distillctl.core.losses.critical import CriticalTargets, CriticalTokens
from distillctl.core.models.encoders import input_embeddings, load_encoder
from distillctl.core.models.frozen import store_in_bf16
from distillctl.core.models.loading import (
    EMBEDDED,
    freeze,
    load_seq2seq,
    load_tokenizer,
    tensors_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from distillctl.core.models.student import draw_weights, embedded_shape, make_student, with_layers
from distillctl.core.models.vocabulary import logit_width, shared_vocabulary, special_ids
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.teacher.capture import Autocast
from distillctl.core.teacher.converted import ConvertedCacheOpener, is_converted
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.teacher.opening import CacheOpener
from distillctl.core.training.accelerator import resolve_precision, start_together
from distillctl.core.training.step_inputs import Guides
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS


@dataclass(frozen=True)
class Data:
    """The records of a run: all training records, those chosen, and those it is scored on."""

    corpus: Corpus
    all_train: list[Record]
    train: list[Record]
    dev: list[Record]
    final: list[Record]


def read_corpus(config: Config, reporter: Reporter) -> Corpus:
    """The configured corpus, mined where it is not cached yet, with its notes told."""
    settings = config.data
    with reporter.task("reading the corpus") as task:
        corpus = open_corpus(
            settings.path,
            settings.packages,
            settings.mask,
            settings.max_assertions_per_test,
            on_progress=lambda done, total: task.update(done, total, note="test files"),
        )
    for note in corpus.notes:
        reporter.note(note)
    return corpus


def open_data(config: Config, reporter: Reporter, corpus: Corpus | None = None) -> Data:
    """Mines or reads the corpus and chooses the run's records. Raises DataError for an empty split.

    ``corpus`` is the configured one where it has been opened already.
    """
    corpus = corpus or read_corpus(config, reporter)
    every = corpus.records("train")
    evaluation = config.evaluation
    return Data(
        corpus,
        every,
        training_records(config, every),
        fixed_sample(corpus.records("dev"), evaluation.dev_limit) if evaluation.on_epoch_end else [],
        fixed_sample(corpus.records(evaluation.split), evaluation.limit),
    )


def training_records(config: Config, every: list[Record]) -> list[Record]:
    """The training records that a run with this configuration learns from, of all there are."""
    chosen_by = config.seed if config.data.sample_seed is None else config.data.sample_seed
    return training_sample(every, config.data.max_train_samples, chosen_by)


@dataclass(frozen=True)
class EncodedData:
    """The run's records as token ids."""

    train: Encoded
    dev: Encoded
    final: Encoded


def make_encoder(config: Config, tokenizer: Any) -> Encoder:
    """Records to token ids, within the configured lengths."""
    return Encoder(tokenizer, config.data.max_source_length, config.data.max_target_length)


def encode_data(config: Config, data: Data, tokenizer: Any, reporter: Reporter) -> EncodedData:
    """Tokenises the chosen records. Raises DataError when no training example is left."""
    encoder = make_encoder(config, tokenizer)
    parts = {}
    with reporter.task("tokenising", 3) as task:
        for done, (name, records) in enumerate(
            (("train", data.train), ("dev", data.dev), (config.evaluation.split, data.final)), start=1
        ):
            parts[done] = encoder.encode(records)
            task.update(done, 3, note=name)
            if records:
                reporter.note(f"{name}: {parts[done].summary()}")
    for part, name in ((parts[1], "training"), (parts[3], config.evaluation.split)):
        if not part.examples:
            raise DataError(f"every {name} record was dropped: its target has no token")
    return EncodedData(parts[1], parts[2], parts[3])


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


def frozen_encoder(
    config: Config, teacher: Any | None, tokenizer: Any, student_width: int, reporter: Reporter
) -> tuple[FrozenEncoder, VocabularyMap]:
    """The configured encoder behind a table of the student's tokens, and how they found their place in it.

    Raises:
        UsageError: the encoder's name leads nowhere, or it cannot read targets of the configured length.
        DataError: it is damaged, is none, or has another tokenizer than weights.
    """
    name = config.encoder.model
    model: Any
    if name == "teacher":
        if teacher is None:
            raise DataError("encoder.model=teacher needs a teacher: name another encoder")
        model = teacher_encoder(teacher)
        encoder_tokenizer = load_tokenizer(config.teacher.model, "teacher", config.teacher.trusted_revision)
    else:
        revision = config.encoder.trusted_revision
        model, encoder_tokenizer = load_encoder(name, revision), load_tokenizer(name, "encoder", revision)
    vocabulary = open_map(tokenizer, encoder_tokenizer, reporter)
    table = vocabulary.table(input_embeddings(model), rows=student_width)
    encoder = FrozenEncoder(model, table, None if vocabulary.identical else encoder_tokenizer)
    longest, asked = encoder.longest, config.data.max_target_length
    if longest is not None and asked > longest:
        raise UsageError(
            f"data.max_target_length={asked}: the encoder {name!r} reads {longest} tokens at most. Lower it, or name "
            "another encoder"
        )
    return encoder, vocabulary


@dataclass(frozen=True)
class Models:
    """A student, its tokenizer, and the teacher if there is one."""

    student: Any
    tokenizer: Any
    teacher: Any | None
    shared_vocabulary: int | None


def load_models(config: Config) -> Models:
    """Teacher, student and tokenizer, checked against each other."""
    name, revision = config.teacher.model, config.teacher.trusted_revision
    teacher = freeze(load_seq2seq(name, "teacher", revision))
    special_ids(teacher, "teacher")
    teacher_tokenizer = load_tokenizer(name, "teacher", revision)
    student, tokenizer = _student(config, teacher, teacher_tokenizer)
    shared = shared_vocabulary(tokenizer, teacher_tokenizer, logit_width(student), logit_width(teacher))
    return Models(student, tokenizer, teacher, shared)


def _student(config: Config, teacher: Any | None, default_tokenizer: Any) -> tuple[Any, Any]:
    """The student and its tokenizer: that of its weights' own directory, of ``student.model``, or the default."""
    settings = config.student
    has_own = settings.init not in (*SHAPED_INITS, "pretrained")
    if has_own and settings.model not in (EMBEDDED, settings.init):
        raise UsageError(
            f"student.init={settings.init} brings its own architecture and tokenizer, and student.model="
            f"{settings.model} names others: give one of them (student.model alone starts from its own weights)"
        )
    student = make_student(settings, teacher)
    special_ids(student, "student")
    if has_own:
        return student, load_tokenizer(settings.init, "student.init")
    if settings.model == EMBEDDED:
        return student, default_tokenizer
    return student, load_tokenizer(settings.model, "student", settings.trusted_revision)


def new_teacher(config: Config, data: Data, reporter: Reporter) -> Models:
    """A model to be taught: the embedded shape with a tokenizer made for the data, or a named model."""
    settings = config.student
    if settings.init == "teacher-layers":
        raise UsageError("student.init=teacher-layers: there is no teacher to take layers from; use random")
    if settings.model != EMBEDDED or settings.init not in DRAWN_INITS:
        student, tokenizer = _student(config, None, None)
        return Models(student, tokenizer, None, None)
    with reporter.task("training the tokenizer"):
        texts = (text for r in data.all_train for text in (r.test_method_masked, r.target, r.focal_method))
        tokenizer = train_tokenizer(texts)
    wanted = {"encoder": settings.encoder_layers, "decoder": settings.decoder_layers}
    counts = {stack: count for stack, count in wanted.items() if count is not None}
    student = draw_weights(with_layers(embedded_shape(len(tokenizer)), counts), settings.init)
    return Models(student, tokenizer, None, None)

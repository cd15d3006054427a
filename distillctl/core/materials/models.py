"""Teacher, student, tokenizer and encoder of a run, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillctl.core.config.schema import DRAWN_INITS, SHAPED_INITS, Config
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.encoder.alignment import VocabularyMap
from distillctl.core.encoder.frozen import FrozenEncoder, longest_input, teacher_encoder
from distillctl.core.encoder.map_file import open_map
from distillctl.core.errors import DataError, UsageError
from distillctl.core.materials.data import Data
from distillctl.core.models.encoders import input_embeddings, load_encoder
from distillctl.core.models.loading import EMBEDDED, freeze, load_seq2seq, load_tokenizer
from distillctl.core.models.student import (
    check_can_generate,
    draw_weights,
    embedded_shape,
    layer_count,
    make_student,
    with_layers,
)
from distillctl.core.models.vocabulary import logit_width, shared_vocabulary, special_ids
from distillctl.core.progress import Reporter


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
    check_lengths(config, teacher, "teacher")
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
    check_lengths(config, student, "student")
    if has_own:
        return student, load_tokenizer(settings.init, "student.init", settings.trusted_revision)
    if settings.model == EMBEDDED:
        return student, default_tokenizer
    return student, load_tokenizer(settings.model, "student", settings.trusted_revision)


def check_lengths(config: Config, model: Any, role: str) -> None:
    """Raises UsageError where a model with learned positions has fewer of them than texts may have tokens."""
    _check_length(config, "max_source_length", longest_input(model.get_encoder()), f"the {role}")
    _check_length(config, "max_target_length", longest_input(model.get_decoder()), f"the {role}")


def _check_length(config: Config, field: str, longest: int | None, reader: str, way_out: str = "Lower it") -> None:
    asked = getattr(config.data, field)
    if longest is not None and asked > longest:
        raise UsageError(f"data.{field}={asked}: {reader} reads {longest} tokens at most. {way_out}")


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
    shape = with_layers(embedded_shape(len(tokenizer)), counts)
    check_can_generate(shape, {stack: layer_count(shape, stack) for stack in wanted})
    student = draw_weights(shape, settings.init)
    return Models(student, tokenizer, None, None)


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
    way_out = "Lower it, or name another encoder"
    _check_length(config, "max_target_length", encoder.longest, f"the encoder {name!r}", way_out)
    return encoder, vocabulary

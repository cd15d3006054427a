"""The records of a run, as texts and as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import Corpus, open_corpus
from distillctl.core.data.encoding import Encoded, Encoder
from distillctl.core.data.records import Record
from distillctl.core.data.selection import fixed_sample, training_sample
from distillctl.core.errors import DataError
from distillctl.core.evaluation.decoding import texts_of
from distillctl.core.evaluation.lines import split_lines
from distillctl.core.progress import Reporter

_READ_BACK = 500  # targets


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
    _note_what_cannot_be_written(parts[1], tokenizer, reporter)
    return EncodedData(parts[1], parts[2], parts[3])


def _note_what_cannot_be_written(encoded: Encoded, tokenizer: Any, reporter: Reporter) -> None:
    """Says so where golds' own ids are another text: T5's tokenizer knows no braces and no line breaks, for one."""
    every = zip(encoded.records, encoded.examples, strict=True)
    whole = [pair for pair in every if pair[1].labels[-1] == tokenizer.eos_token_id][:_READ_BACK]  # others were cut
    golds = [record.target for record, _ in whole]
    read = texts_of(tokenizer, (example.labels for _, example in whole))
    lost = [pair for pair in zip(golds, read, strict=True) if split_lines(pair[0]) != split_lines(pair[1])]
    if lost:
        gold, text = lost[0]
        reporter.note(
            f"note: {len(lost):,} of {len(read):,} targets are another text when this tokenizer reads its own ids back "
            f"({gold!r} becomes {text!r}): no model of it can write them"
        )

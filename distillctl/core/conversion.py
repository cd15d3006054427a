"""Files of the earlier pipeline become records and a teacher cache: the job behind ``prepare --from-trident``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.data.records import Record
from distillctl.core.data.trident import TridentFile, lines_with_logits, read_logits
from distillctl.core.errors import DataError
from distillctl.core.materials import load_models, make_encoder
from distillctl.core.models.vocabulary import logit_width
from distillctl.core.progress import Reporter
from distillctl.core.teacher.cache_format import cache_path
from distillctl.core.teacher.converted import ConvertedCacheOpener, cache_to_fill, converted_identity, fill


def convert_logits(config: Config, file: TridentFile, train: list[Record], reporter: Reporter) -> dict[str, Any]:
    """Puts the logits of the training records into a teacher cache; facts about it.

    The cache lies in ``teacher.cache_dir``, or in a directory of the user's cache that its identity names.

    Args:
        config: student and teacher say the vocabulary, ``data`` the lengths, ``objective.jsd`` the temperature,
            ``teacher.top_k`` how many ids are kept (null: every one).
        file: of which at least one training record has logits.
        train: the training records of the file.
        reporter: hears of the work.

    Raises:
        DataError: logits are damaged or not of this target and vocabulary, with file and line.
        UsageError: the package for LZ4 is missing.
        RunError: it cannot be written.
    """
    models = load_models(config)
    assert models.teacher is not None and models.shared_vocabulary is not None
    vocabulary = models.shared_vocabulary
    widths = {logit_width(models.student), logit_width(models.teacher), vocabulary}
    example_of = _examples_by_line(config, models.tokenizer, file, train)
    if not example_of:
        raise DataError(f"{file.path}: no training record has logits (splits are by file: a hash of project/path)")
    identity = converted_identity(config, models.tokenizer, vocabulary, file.sha256)
    cache = cache_to_fill(cache_path(config, identity), identity)
    bits: set[int] = set()

    def rows() -> Iterator[tuple[Example, np.ndarray]]:
        for line, value in lines_with_logits(file, example_of):
            example = example_of[line]
            logits = read_logits(file, line, value, len(example.labels), widths)
            bits.add(value["bits"])
            facts["precision"] = f"{' and '.join(map(str, sorted(bits)))} bits in the file"
            yield example, logits

    facts: dict[str, Any] = {"source": f"converted from {file.path.name}"}
    examples = list(example_of.values())
    with (
        cache.capturing(lambda: reporter.note(f"{cache.path}: another process fills it; waiting for it")),
        reporter.task("converting logits", len(examples)) as task,
    ):
        added = fill(cache, rows(), examples, facts, task.update)
    reporter.note(f"{added:,} examples added to {cache.path}")
    config = config.with_section("teacher", mode="cached", cache_dir=str(cache.path))
    return ConvertedCacheOpener(config, models.tokenizer, vocabulary, examples).open(reporter)[1]


def _examples_by_line(config: Config, tokenizer: Any, file: TridentFile, train: list[Record]) -> dict[int, Example]:
    """The tokenised training records that have logits, by the line they stand in."""
    line_of = {record.id: line for record, line in zip(file.loaded.records, file.lines, strict=True)}
    with_logits = [record for record in train if line_of[record.id] in file.with_logits]
    encoded = make_encoder(config, tokenizer).encode(with_logits)
    return {line_of[record.id]: example for record, example in zip(encoded.records, encoded.examples, strict=True)}

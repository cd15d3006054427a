"""Scores a split's predictions and stores them: the reading of the acceptance criteria.

``metrics.json`` holds the corpus metrics, ``predictions.jsonl`` one row per record with everything needed to
compute them again. What only running the code could tell (does it compile, does the test pass) is "not measured" until
:mod:`distillctl.core.execution` has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distillctl.core.data.encoding import clip_around_masks
from distillctl.core.errors import DataError, RunError
from distillctl.core.evaluation.metrics import SampleScore, aggregate, score_sample

NOT_MEASURED = "not measured"
NEEDS_CHECKOUT = ("compiles", "tests_pass")
STORED_FIELDS = ("id", "language", "project", "path", "input_fingerprint", "gold", "prediction")
EXCERPT_REACH = 300  # characters before the first and after the last mask
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"


class AssertionRecord(Protocol):
    """What scoring reads of a record (:class:`distillctl.core.data.records.Record`)."""

    @property
    def id(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def focal_method(self) -> str: ...
    @property
    def test_method_masked(self) -> str: ...
    @property
    def assertions(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus metrics as in ``metrics.json``, and the rows of ``predictions.jsonl`` in the records' order."""

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]


def score(records: Sequence[AssertionRecord], predictions: Sequence[str]) -> Scores:
    """Scores one prediction per record. Raises DataError on none, unequal numbers, or a repeated id."""
    if len(records) != len(predictions):
        raise DataError(f"records and predictions should match. Found {len(records)} and {len(predictions)}")
    rows = [
        {
            "id": record.id,
            "language": record.language,
            "project": record.project,
            "path": record.path,
            "input_fingerprint": input_fingerprint(record),
            "input": excerpt(record),
            "gold": list(record.assertions),
            "prediction": prediction,
        }
        for record, prediction in zip(records, predictions, strict=True)
    ]
    return rescore(rows)


def rescore(rows: Sequence[Mapping[str, Any]]) -> Scores:
    """Computes metrics and per-sample scores again from stored rows; what they claimed before is not read.

    Raises DataError for no row, a repeated id, or a row that lacks a field, naming it.
    """
    samples = _score_samples(rows)
    metrics = aggregate(samples, [row["prediction"] for row in rows], [row["gold"] for row in rows])
    metrics |= dict.fromkeys(NEEDS_CHECKOUT, NOT_MEASURED)
    return Scores(metrics, _scored(rows, samples))


def rescore_samples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of :func:`rescore` without its metrics, whose BLEU and chrF are most of its work.

    Raises DataError as it does, for no row too.
    """
    return _scored(rows, _score_samples(rows))


def _score_samples(rows: Sequence[Mapping[str, Any]]) -> list[SampleScore]:
    samples: list[SampleScore] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        missing = [name for name in STORED_FIELDS if name not in row]
        if missing:
            raise DataError(f"prediction {number}: missing field {', '.join(missing)}")
        if row["id"] in seen:
            raise DataError(f"prediction {number}: id {row['id']!r} occurs twice: samples are matched by id")
        seen.add(row["id"])
        samples.append(
            score_sample(row["id"], row["project"], row["path"], row["language"], row["gold"], row["prediction"])
        )
    if not samples:
        raise DataError("nothing to score: the list of predictions is empty")
    return samples


def _scored(rows: Sequence[Mapping[str, Any]], samples: Sequence[SampleScore]) -> list[dict[str, Any]]:
    kept = (*STORED_FIELDS[:5], "input", *STORED_FIELDS[5:])  # files of before had no input
    return [
        {name: row[name] for name in kept if name in row} | _flags(sample)
        for row, sample in zip(rows, samples, strict=True)
    ]


def _flags(sample: SampleScore) -> dict[str, Any]:
    return {
        "kind": sample.kind,
        "tp": sample.tp,
        "fp": sample.fp,
        "fn": sample.fn,
        "exact_match": sample.exact_match,
        "exact_match_normalised": sample.exact_match_normalised,
        "valid_syntax": sample.valid_syntax,
        "non_empty": sample.non_empty,
        "contains_assertion": sample.contains_assertion,
        "edit_similarity": sample.edit_similarity,
        "matching_tokens": sample.matching_tokens,
        "gold_tokens": sample.gold_tokens,
    }


def excerpt(record: AssertionRecord) -> str:
    """The lines of the test around its masks, for a reader of predictions.jsonl; not all that the model read."""
    text = record.test_method_masked
    return text[clip_around_masks(text, EXCERPT_REACH)].strip("\n")


def input_fingerprint(record: AssertionRecord) -> str:
    """Hash (hex, 128 bits) of what the model reads of a record: language, masked test, focal method."""
    content = "\x00".join((record.language, record.test_method_masked, record.focal_method))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def write(directory: Path, scores: Scores, details: Mapping[str, Any] | None = None) -> None:
    """Writes ``predictions.jsonl``, then ``metrics.json`` with its SHA-256; each is renamed into place.

    ``details`` (decoding settings, baselines, the teacher's scores, provenance) join the metrics; a name that
    the metrics have already is a ValueError. The same scores give the same bytes. Raises RunError when a file
    cannot be written (disk full).
    """
    extra = dict(details or {})
    clash = sorted(extra.keys() & {*scores.metrics, "predictions_sha256"})
    if clash:
        raise ValueError(f"details should not name what metrics have. Found {', '.join(clash)}")
    lines = "".join(f"{_json(row)}\n" for row in scores.rows).encode("utf-8")
    metrics = scores.metrics | extra | {"predictions_sha256": hashlib.sha256(lines).hexdigest()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / PREDICTIONS_FILE, lines)
        _replace(directory / METRICS_FILE, f"{_json(metrics, indent=2)}\n".encode())
    except OSError as error:
        raise RunError(f"{directory}: evaluation cannot be written: {error.strerror}") from error


def _json(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    if any("\ud800" <= character <= "\udfff" for character in text):
        # lone surrogates have no UTF-8: written as escapes
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False)
    return text


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # what a kill left; a link there is not followed
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

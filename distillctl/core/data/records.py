"""The record: one unit test with masked assertions, and the JSONL files that hold records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distillctl.core.errors import DataError, UsageError

LANGUAGES = ("python", "java")
MASK = "<extra_id_{}>"

# Field names of the files of the request's first pipeline, read as today's.
ALIASES = {"focal_file": "focal_method", "original_target": "assertions"}

TEXT_FIELDS = ("id", "language", "project", "path", "focal_method", "test_method_masked")


@dataclass(frozen=True, slots=True)
class Record:
    """One training or evaluation example.

    ``test_method_masked`` holds one ``<extra_id_i>`` per entry of ``assertions``, in order; ``focal_method`` may be
    empty when the method under test is unknown. Each assertion is one logical line.
    """

    id: str
    language: str
    project: str
    path: str
    focal_method: str
    test_method_masked: str
    assertions: tuple[str, ...]

    @property
    def target(self) -> str:
        """The text the model writes: the assertions joined by newlines."""
        return "\n".join(self.assertions)

    @property
    def key(self) -> str:
        """Content hash (hex, 128 bits): the example's identity for banks and caches, whatever its position or id."""
        content = "\x00".join((self.language, self.test_method_masked, self.focal_method, self.target))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


FIELDS = tuple(field.name for field in fields(Record))


def parse_record(row: Mapping[str, Any], where: str) -> Record:
    """Checks one decoded JSON object and makes it a Record. ``where`` (``file:line``) starts every error."""
    values = {ALIASES.get(name, name): value for name, value in row.items()}
    missing = [name for name in FIELDS if name not in values]
    if missing:
        raise DataError(f"{where}: missing field{'s' * (len(missing) > 1)} {', '.join(missing)}")
    for name in TEXT_FIELDS:
        if not isinstance(values[name], str):
            raise DataError(f"{where}: field {name} should be text. Found {type(values[name]).__name__}")
    if values["language"] not in LANGUAGES:
        raise DataError(f"{where}: language should be one of {', '.join(LANGUAGES)}. Found {values['language']!r}")
    assertions = values["assertions"]
    if isinstance(assertions, str):
        assertions = assertions.split("\n")
    if not isinstance(assertions, list) or not all(isinstance(line, str) for line in assertions):
        raise DataError(f"{where}: assertions should be a list of texts")
    assertions = tuple(line.strip() for line in assertions if line.strip())
    if not assertions:
        raise DataError(f"{where}: assertions are empty: a record needs at least one to learn from")
    masked = values["test_method_masked"]
    if MASK.format(0) not in masked:
        raise DataError(f"{where}: test_method_masked has no mask: write {MASK.format(0)} where the assertion stood")
    return Record(**{name: values[name] for name in TEXT_FIELDS}, assertions=assertions)


def is_header(row: Mapping[str, Any]) -> bool:
    """A first line that describes the file instead of holding a record: none of a record's own text fields."""
    known = {ALIASES.get(name, name) for name in row}
    return not known & {"focal_method", "test_method_masked", "assertions"}


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The records of a JSONL file and what was passed over while reading it."""

    records: tuple[Record, ...]
    notes: tuple[str, ...]


def read_jsonl(path: Path) -> LoadedFile:
    """Reads a JSONL file of records. Errors name file and line; a header line is skipped with a note."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file. Give --data a JSONL file of records") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a directory. Give --data a JSONL file of records") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}). Records are JSON, one a line") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    records: list[Record] = []
    notes: list[str] = []
    for number, row in _json_lines(text, path):
        if number == 1 and is_header(row):
            notes.append(f"{path}:1: header line skipped")
            continue
        records.append(parse_record(row, f"{path}:{number}"))
    if not records:
        raise DataError(f"{path}: holds no record")
    _check_unique(records, path)
    return LoadedFile(tuple(records), tuple(notes))


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines(): it also splits on characters that JSON allows raw inside a string (U+2028, form feed).
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: should be a JSON object. Found {type(row).__name__}")
        yield number, row


def _check_unique(records: Iterable[Record], path: Path) -> None:
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise DataError(f"{path}: id {record.id!r} occurs twice: predictions are matched by id")
        seen.add(record.id)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Writes records, one JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            count += 1
    return count


def fingerprint(records: Iterable[Record]) -> str:
    """SHA-256 (hex) over the records' contents in order: what ``run.json`` names as the data."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.id}\x00{record.key}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

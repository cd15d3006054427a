"""The record: one unit test with masked assertions, and the JSONL files that hold records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distillctl.core.data.found_tests import with_line_feeds
from distillctl.core.data.java_parser import parse_as_body
from distillctl.core.data.python_tests import is_python, one_line
from distillctl.core.errors import DataError, UsageError

LANGUAGES = ("python", "java")
MASK = "<extra_id_{}>"

# Field names of the files of the request's first pipeline, read as today's.
ALIASES = {"focal_file": "focal_method", "original_target": "assertions"}

TEXT_FIELDS = ("id", "language", "project", "path", "focal_method", "test_method_masked")

_MASK = re.compile(r"<extra_id_\d+>")
_QUOTED = "|".join(
    (
        r'"""(?:\\.|[^\\])*?"""',
        r"'''(?:\\.|[^\\])*?'''",
        r'"(?:\\.|[^"\\\n])*"',
        r"'(?:\\.|[^'\\\n])*'",
    )
)
_COMMENT = {"python": r"#[^\n]*", "java": r"//[^\n]*|/\*.*?\*/"}
# A next line that goes on with the statement; in Java whatever blank lines and comments lie between. Nothing in it is
# tried twice (atomic): a comment may hold thousands of slashes.
_GOES_ON = {
    "python": r"[ \t]*\.",
    "java": r"(?>(?:\s++|//[^\n]*+|/\*(?>.*?\*/))*+)(?:[.:?]|&&|\|\||\+(?!\+))",
}
# What decides where a statement ends. A newline after a backslash or before what goes on does not end it.
_PARTS = {
    language: re.compile(
        rf"{_QUOTED}|(?P<comment>{comment})|(?P<open>[(\[{{])|(?P<close>[)\]}}])|"
        rf"\\\n|(?P<end>\n)(?!{_GOES_ON[language]})",
        re.DOTALL,
    )
    for language, comment in _COMMENT.items()
}


@dataclass(frozen=True, slots=True)
class Record:
    """One training or evaluation example.

    ``test_method_masked`` holds one ``<extra_id_i>`` per entry of ``assertions``, in order, or
    ``<extra_id_0>`` alone for all of them; ``focal_method`` may be empty when the method under test is
    unknown. Each assertion is one logical line.
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
        """Content hash (hex, 128 bits): the identity for banks and caches, whatever position and id."""
        parts = (self.language, self.test_method_masked, self.focal_method, self.target)
        content = "".join(f"{len(part)}:{part}" for part in parts)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


FIELDS = tuple(field.name for field in fields(Record))


def parse_record(row: Mapping[str, Any], where: str) -> Record:
    """Checks one decoded JSON object and makes it a Record. ``where`` (``file:line``) starts every error."""
    values = dict(row)
    for alias, name in ALIASES.items():
        if alias in row:
            values.setdefault(name, row[alias])
    missing = [name for name in FIELDS if name not in values]
    if missing:
        raise DataError(f"{where}: missing field{'s' * (len(missing) > 1)} {', '.join(missing)}")
    for name in TEXT_FIELDS:
        _check_text(values[name], name, where)
    if values["language"] not in LANGUAGES:
        raise DataError(f"{where}: language should be one of {', '.join(LANGUAGES)}. Found {values['language']!r}")
    assertions = _parse_assertions(values["assertions"], values["language"], where)
    _check_masks(values["test_method_masked"], len(assertions), where)
    for name in ("focal_method", "test_method_masked"):
        values[name] = with_line_feeds(values[name])
    return Record(**{name: values[name] for name in TEXT_FIELDS}, assertions=assertions)


def _check_text(value: Any, name: str, where: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{where}: field {name} should be text. Found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field {name} holds half a character (a lone surrogate at {error.start}): write the whole one"
        ) from error


def _parse_assertions(value: Any, language: str, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: assertions should be a list of texts")
    for text in texts:
        _check_text(text, "assertions", where)
    found = [line for text in texts for line in _statements(text, language, where)]
    lines = [line for line in found if _without_comments(line, language).strip()]
    if not lines:
        raise DataError(f"{where}: assertions are empty: a record needs at least one to learn from")
    for line in lines:
        if "\n" in line:
            raise _not_one_line(line, where)
    return tuple(lines)


def _statements(text: str, language: str, where: str) -> list[str]:
    """The statements of a text; refuses what is one statement on lines that alone are none (``with``, ``for``)."""
    lines = logical_lines(text, language)
    if language == "python" and len(lines) > 1 and not all(map(is_python, lines)) and is_python(text):
        raise _not_one_line(text, where)
    return lines


def _not_one_line(text: str, where: str) -> DataError:
    return DataError(
        f"{where}: the assertion that starts with {text[:40]!r} cannot be written on one line: "
        "leave the record out, or keep its multi-line text outside the assertion"
    )


def _check_masks(masked: str, assertions: int, where: str) -> None:
    masks = _MASK.findall(masked)
    if not masks:
        raise DataError(f"{where}: test_method_masked has no mask: write {MASK.format(0)} where the assertion stood")
    if len(masks) not in (1, assertions) or masks != [MASK.format(index) for index in range(len(masks))]:
        found = ", ".join(mask[:20] for mask in masks[:4]) + ", ..." * (len(masks) > 4)
        raise DataError(
            f"{where}: the masks of test_method_masked do not match the number of assertions, {assertions} without "
            f"comments and blank ones: write {MASK.format(0)}, {MASK.format(1)}, ... one for each in order, or "
            f"{MASK.format(0)} alone. Found {found}"
        )


def logical_lines(text: str, language: str) -> list[str]:
    """Cuts a text into statements, each joined to one line; one that cannot be joined keeps its line breaks.

    A text that is Java as a whole is cut between its statements. Elsewhere a line ends a statement unless a bracket is
    open or the next line goes on with a dot; in Java also with ``:``, ``?``, ``+``, ``&&`` or ``||``, behind comments.
    """
    text = with_line_feeds(text)
    if "\n" not in text:
        return [text.strip()]
    if language == "java" and (statements := _java_statements(text)) is not None:
        return [join_java(statement) for statement in statements]
    pieces, depth, start = [], 0, 0
    for part in _PARTS[language].finditer(text):
        if part["open"]:
            depth += 1
        elif part["close"]:
            depth = max(0, depth - 1)
        elif part["end"] and not depth:
            pieces.append(text[start : part.start()])
            start = part.end()
    pieces = [piece.strip() for piece in [*pieces, text[start:]]]
    if language == "python":
        return [one_line(piece) or piece for piece in pieces]
    return [join_java(piece) for piece in pieces]


def join_java(statement: str) -> str:
    """A Java statement on one line, comments dropped; as it is where a text block needs its line breaks."""
    if "\n" not in statement or '"""' in statement:
        return statement
    joined = ""
    for line in _without_comments(statement, "java").split("\n"):
        piece = line.strip()
        glued = not joined or joined[-1] in "([" or piece[:1] in (".", ",", ")", "]")
        joined += piece if glued or not piece else f" {piece}"
    return joined


def _java_statements(text: str) -> list[str] | None:
    """The statements of a text that is Java as a whole, those of one line together; None for any other text."""
    content = text.encode("utf-8", "surrogatepass")
    parsed = parse_as_body(content)
    if parsed is None:
        return None
    block, shift = parsed
    pieces: list[tuple[int, int]] = []
    for node in block.named_children:
        start, end = node.start_byte - shift, node.end_byte - shift
        if pieces and b"\n" not in content[pieces[-1][1] : start]:
            start = pieces.pop()[0]
        pieces.append((start, end))
    if not pieces:
        return None
    # What is no node (a semicolon by itself) stays with what stands before it.
    ends = [start for start, _ in pieces[1:]] + [len(content)]
    return [
        content[start:end].decode("utf-8", "surrogatepass").strip()
        for (start, _), end in zip(pieces, ends, strict=True)
    ]


def _without_comments(text: str, language: str) -> str:
    return _PARTS[language].sub(lambda part: "" if part["comment"] else part[0], text)


def is_header(row: Mapping[str, Any]) -> bool:
    """A first line that describes the file instead of holding a record: none of a record's own fields."""
    known = {ALIASES.get(name, name) for name in row}
    return not known & {"focal_method", "test_method_masked", "assertions"}


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The records of a JSONL file and what was passed over while reading it."""

    records: tuple[Record, ...]
    notes: tuple[str, ...]


def read_jsonl(
    path: Path, complete: Callable[[Mapping[str, Any], int], Mapping[str, Any]] = lambda row, number: row
) -> LoadedFile:
    """Reads a JSONL file of records. Errors name file and line; a header line is skipped with a note.

    ``complete`` sees each object but the header, and its line number, and may add to it what a record needs.
    """
    records: list[Record] = []
    notes: list[str] = []
    line_of: dict[str, int] = {}
    for number, row in json_lines(path):
        if not records and not notes and is_header(row):
            notes.append(f"{path}:{number}: header line skipped")
            continue
        record = parse_record(complete(row, number), f"{path}:{number}")
        first = line_of.setdefault(record.id, number)
        if first != number:
            raise DataError(
                f"{path}:{number}: id {record.id!r} is taken by line {first}: predictions are matched by id"
            )
        records.append(record)
    if not records:
        raise DataError(f"{path}: holds no record")
    return LoadedFile(tuple(records), tuple(notes))


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, object) of each line that is not empty. Errors name file and line."""
    # Lines are cut as bytes: text lines also end at characters that JSON allows raw inside a string (U+2028).
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_object(line, f"{path}:{number}")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file. Give --data a JSONL file of records") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a directory. Give --data a JSONL file of records") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{str(path)!r}: cannot be read: {reason}") from error


def _json_object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.rstrip().decode("utf-8-sig"))  # some editors write a byte order mark first
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte {error.start} of the line)") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting without end
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: should be a JSON object. Found {type(row).__name__}")
    return row


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Writes records, one JSON object a line; returns how many. Raises OSError where it cannot write."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
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

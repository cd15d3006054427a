"""Files of the pipeline before this one: JSONL records with the teacher's dense logits inside, compressed.

A line has ``focal_file``, ``test_method_masked``, ``original_target`` or ``assertions``, and it may have
``compressed_logits``: an object with ``bits`` (32 and 16: floats, little-endian; 8 and 4: unsigned codes of the value
``(code - zero_point) * scale``), ``shape`` ([target tokens, vocabulary]), ``packed`` (two 4-bit codes a byte, the even
index in the low nibble) and ``data_encoded``: ``{"encoding": "lz4" (a frame) or "none", "data": hex}``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.core.data.records import ALIASES, LANGUAGES, LoadedFile, json_lines, read_jsonl
from distillctl.core.errors import DataError, UsageError
from distillctl.core.store.files import sha256_of

LOGITS = "compressed_logits"
_LARGEST = float(np.finfo(np.float32).max)
_TYPES: dict[int, np.dtype[Any]] = {32: np.dtype("<f4"), 16: np.dtype("<f2"), 8: np.dtype("u1"), 4: np.dtype("u1")}


@dataclass(frozen=True, slots=True)
class TridentFile:
    """What such a file holds.

    Attributes:
        path: of the file.
        loaded: its records, in order, and notes.
        lines: the line number of each record.
        with_logits: the numbers of the lines with logits.
        sha256: of the whole file, hex.
    """

    path: Path
    loaded: LoadedFile
    lines: tuple[int, ...]
    with_logits: frozenset[int]
    sha256: str


def read_trident(path: Path, language: str | None) -> TridentFile:
    """Reads the records; the logits are only looked for.

    What these files do not say is filled in: ``id`` by file and line, ``language`` as given, ``project`` by the file's
    name, and ``path``, which decides the split, by the focal method, so that tests of one method stay together.

    Raises:
        UsageError: the file cannot be read, or ``language`` is unknown.
        DataError: a record is bad, with file and line; or it does not say its language and none is given.
    """
    if language is not None and language not in LANGUAGES:
        raise UsageError(f"--language should be one of {', '.join(LANGUAGES)}. Found {language!r}")
    lines: list[int] = []
    with_logits: set[int] = set()

    def complete(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        lines.append(number)
        if row.get(LOGITS) is not None:
            with_logits.add(number)
        return _completed(row, path, number, language)

    loaded = read_jsonl(path, complete)
    return TridentFile(path, loaded, tuple(lines), frozenset(with_logits), sha256_of(path))


def _completed(row: Mapping[str, Any], path: Path, number: int, language: str | None) -> Mapping[str, Any]:
    said = {name: value for name, value in row.items() if name != LOGITS and value is not None}
    values = {ALIASES[name]: value for name, value in said.items() if name in ALIASES}
    values |= {name: value for name, value in said.items() if name not in ALIASES}  # where both are there, the new name
    if "language" not in values and language is None:
        raise DataError(f"{path}:{number}: does not say its language. Give --language java or python")
    focal = str(values.get("focal_method") or values.get("test_method_masked"))
    digest = hashlib.sha256(focal.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    filled = {"id": f"{path.stem}:{number}", "language": language, "project": path.stem, "path": f"focal-{digest}"}
    return filled | values


def read_logits(file: TridentFile, line: int, value: Any, tokens: int, widths: Collection[int]) -> np.ndarray:
    """Decodes a line's ``compressed_logits``. [tokens,V] float32, V one of ``widths``

    Values are exact: codes are scaled in double precision and rounded once. Nothing is decompressed before its size is
    known to be right.

    Args:
        file, line: where it stands, for messages.
        value: the decoded JSON.
        tokens: of the record's target, special ones included.
        widths: numbers of logits that a token may have.

    Raises:
        DataError: with file and line, where it is not what the format says, or not of this target and vocabulary.
        UsageError: it is compressed with LZ4 and the package for that is missing.
    """
    where = f"{file.path}:{line}: {LOGITS}"
    if not isinstance(value, dict):
        raise DataError(f"{where} should be an object. Found {type(value).__name__}")
    bits = value.get("bits")
    if not isinstance(bits, int) or bits not in _TYPES:
        raise DataError(f"{where}: bits should be 4, 8, 16 or 32. Found {bits!r}")
    shape = _checked_shape(value.get("shape"), where, tokens, widths)
    packed = value.get("packed", False)
    if not isinstance(packed, bool) or (packed and bits != 4):
        raise DataError(f"{where}: packed should be true or false, and true with bits 4 only. Found {packed!r}")
    count = math.prod(shape)
    size = (count + 1) // 2 if packed else count * _TYPES[bits].itemsize
    codes = np.frombuffer(_decoded(value.get("data_encoded"), size, where), _TYPES[bits])
    values = codes if bits >= 16 else _scaled(_unpacked(codes, count) if packed else codes, value, bits, where)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        logits = values.astype(np.float32).reshape(shape)
    if not np.isfinite(logits).all():
        raise DataError(f"{where}: holds values that are not finite")
    return logits


def _checked_shape(shape: Any, where: str, tokens: int, widths: Collection[int]) -> tuple[int, int]:
    is_pair = isinstance(shape, list) and len(shape) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise DataError(f"{where}: shape should be [target tokens, vocabulary]. Found {str(shape)[:60]}")
    if shape[0] != tokens:
        raise DataError(
            f"{where}: {shape[0]:,} positions for a target of {tokens:,} tokens (special ones included) under this "
            "run's tokenizer: the logits are of another tokenizer, length limit or text"
        )
    if shape[1] not in widths:
        allowed = " or ".join(f"{width:,}" for width in sorted(widths))
        raise DataError(f"{where}: {shape[1]:,} logits a token, and this run's vocabulary has {allowed}")
    return shape[0], shape[1]


def _decoded(encoded: Any, size: int, where: str) -> bytes:
    if not isinstance(encoded, dict) or not isinstance(encoded.get("data"), str):
        raise DataError(f"{where}: data_encoded should be an object with encoding and data, a text of hex digits")
    try:
        raw = bytes.fromhex(encoded["data"])
    except ValueError as error:
        raise DataError(f"{where}: data is not hex, or cut short ({error})") from error
    encoding = encoded.get("encoding")
    if encoding == "lz4":
        raw = _decompressed(raw, size, where)
    elif encoding != "none":
        raise DataError(f"{where}: encoding should be lz4 or none. Found {str(encoding)[:40]!r}")
    if len(raw) != size:
        raise DataError(f"{where}: holds {len(raw):,} bytes, and its shape and bits need {size:,}")
    return raw


def _decompressed(raw: bytes, size: int, where: str) -> bytes:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ModuleNotFoundError as error:
        raise UsageError(f"{where}: is compressed with LZ4. Install it: pip install 'distillctl[trident]'") from error
    decompressor = LZ4FrameDecompressor()
    try:
        found: bytes = decompressor.decompress(raw, max_length=size + 1)  # one more, to see that there is more
    except RuntimeError as error:
        raise DataError(f"{where}: damaged LZ4 frame ({error})") from error
    if len(found) > size:
        raise DataError(f"{where}: unpacks to more than the {size:,} bytes that its shape and bits need")
    if not decompressor.eof or decompressor.unused_data:
        raise DataError(
            f"{where}: damaged LZ4 frame ({'cut short' if not decompressor.eof else 'more behind its end'})"
        )
    return found


def _unpacked(packed: np.ndarray, count: int) -> np.ndarray:
    """Two codes a byte, the even index in the low nibble. [(N+1)//2] -> [N]"""
    return np.stack([packed & 0x0F, packed >> 4], axis=1).reshape(-1)[:count]


def _scaled(codes: np.ndarray, value: Mapping[str, Any], bits: int, where: str) -> np.ndarray:
    if bits == 4 and codes.size and codes.max() > 15:
        raise DataError(f"{where}: a code of {codes.max()} where bits is 4. Is packed missing?")
    scale, zero = (_number(value.get(name), name, where) for name in ("scale", "zero_point"))
    if scale <= 0:
        raise DataError(f"{where}: scale should be above 0. Found {scale:g}")
    return (codes.astype(np.float64) - zero) * scale


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise DataError(f"{where}: {name} should be a number. Found {str(value)[:40]!r}")
    return float(value)


def lines_with_logits(file: TridentFile, wanted: Collection[int]) -> Iterator[tuple[int, Any]]:
    """(line number, ``compressed_logits``) of the wanted lines, in order; one is in memory at a time."""
    for number, row in json_lines(file.path):
        if number in wanted and number in file.with_logits:
            yield number, row[LOGITS]

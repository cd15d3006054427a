"""Large text files may be kept compressed: where ``name`` is not there, ``name.xz`` is read in its place."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

from distillctl.core.errors import DataError
from distillctl.core.store.files import sha256_of

SUFFIX = ".xz"
MAX_BYTES = 2**30
"""What a compressed file may unpack to: no text file of a run comes near, and a few bytes can claim far more."""


def compressed(content: bytes) -> bytes:
    """The .xz of some bytes; the same bytes give the same file."""
    # A higher preset wants 700 MB of memory, and gains nothing below 8 MB of content.
    return lzma.compress(content, preset=6, check=lzma.CHECK_SHA256)


def stored_at(path: Path) -> Path:
    """Where the content of ``path`` lies: itself, or the .xz beside it if only that is there."""
    packed = path.with_name(path.name + SUFFIX)
    return packed if packed.is_file() and not path.exists() else path


def read_stored(path: Path) -> bytes:
    """The content of ``path``, unpacked where only its .xz is there.

    Raises OSError as reading ``path`` itself would; DataError for a damaged .xz, or one that unpacks to more than
    :data:`MAX_BYTES`.
    """
    where = stored_at(path)
    content = where.read_bytes()
    return content if where == path else _unpacked(content, where)


def sha256_of_stored(path: Path) -> str:
    """SHA-256 (hex) of the content of ``path``. Raises as :func:`read_stored` does."""
    if stored_at(path) == path:
        return sha256_of(path)
    return hashlib.sha256(read_stored(path)).hexdigest()


def _unpacked(packed: bytes, where: Path) -> bytes:
    reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        content = reader.decompress(packed, max_length=MAX_BYTES + 1)
    except lzma.LZMAError as error:
        raise DataError(f"{where}: damaged: {error}") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{where}: unpacks to more than {MAX_BYTES:,} bytes: is it the right file?")
    if not reader.eof:
        raise DataError(f"{where}: cut short")
    if reader.unused_data:
        raise DataError(f"{where}: damaged: something follows its end")
    return content

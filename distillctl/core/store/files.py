"""Writing files so that a reader never sees half of one, and reading them with clear errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillctl.core.errors import DataError, RunError, UsageError

MAX_JSON_BYTES = 64 * 2**20
"""No JSON file of a run comes near: a larger one is somebody else's, and must not fill the memory."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path``: a reader sees the old file or the whole new one.

    It is written beside the target under another name, fsynced and renamed. A symbolic link at ``path`` is
    replaced, not followed. Raises RunError with the path and the system's reason; nothing is left behind
    then.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with writing(path):
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make a rename durable. Systems that cannot open a directory (Windows) have no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusals while writing ``path`` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(_refusal(path, error)) from error


@contextmanager
def creating(path: Path) -> Iterator[None]:
    """Like :func:`writing`, before anything was started: a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(_refusal(path, error)) from error


def _refusal(path: Path, error: OSError) -> str:
    what_to_do = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EFBIG: "the system allows no larger file here (ulimit -f); free the limit or choose another disk",
        errno.EACCES: "choose a directory you may write to",
        errno.EPERM: "choose a directory you may write to",
        errno.EROFS: "choose a directory you may write to",
        errno.ENOTDIR: "part of the path is a file; choose another",
        errno.ENAMETOOLONG: "choose a shorter path",
    }.get(error.errno or 0)
    return f"cannot write {path}: {error.strerror or error}" + (f"; {what_to_do}" if what_to_do else "")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UsageError if there is none, DataError if it is not one or far too large."""
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise DataError(
                f"{path}: {size:,} bytes are too many for one of this program's files: is it the right one?"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; is {path.parent} a run directory?") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: should be a JSON object. Found {type(values).__name__}")
    return values


def sha256_of(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises OSError where it cannot be read."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def to_json(values: Any, indent: int | None = 2) -> str:
    """JSON text; a NaN or an infinity is refused (ValueError), since no other reader would take it."""
    return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)

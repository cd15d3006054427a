"""Predictions on disk while they are made: a decoding that is killed goes on where it stopped, none is made twice.

One file belongs to one model, tokenizer and way of decoding (:func:`store_name`); in it a prediction is found by what
the model read (:func:`input_key`), never by position.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distillctl.core.errors import DataError, RunError
from distillctl.core.store.lock import hold_alone

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def input_key(input_ids: Sequence[int]) -> str:
    """Hash (hex, 128 bits) of the token ids a model reads: truncation and tokenizer are in it."""
    return hashlib.sha256(",".join(map(str, input_ids)).encode()).hexdigest()[:32]


def store_name(prints: Mapping[str, str], decoding: Mapping[str, Any]) -> str:
    """Hash (hex, 64 bits) of all besides the input that a prediction depends on: the model's prints, the decoding."""
    identity = json.dumps([dict(prints), dict(decoding)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _check(key: str, text: str) -> str:
    """Hash (hex, 32 bits) of a line: a flipped bit in a text would be another prediction."""
    return hashlib.sha256(json.dumps([key, text]).encode()).hexdigest()[:8]


class PredictionStore:
    """Predictions by input key, kept in a JSONL file that only grows: ``{"input": key, "prediction": text, "check"}``.

    A last line that a kill cut short is dropped. A file of others that is not ours to write is read, and what is new is
    kept in memory alone. Raises DataError (``file:line``) for any other damage, RunError where the file cannot be read,
    or not be written for another reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts = self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def __len__(self) -> int:
        return len(self._texts)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without a prediction, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._texts]

    def add(self, predictions: Mapping[str, str]) -> None:
        """Stores predictions; they are on disk when this returns."""
        lines = "".join(
            json.dumps({"input": key, "prediction": text, "check": _check(key, text)}) + "\n"
            for key, text in predictions.items()
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as file:
                hold_alone(file)
                file.write(lines.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NOT_OURS:
                told = f"{self.path}: predictions cannot be stored: {error.strerror}. Free some space"
                raise RunError(told) from error
        self._texts |= predictions

    def _open(self, flags: int, mode: str) -> IO[bytes]:
        """The file, open; OSError for a link, which may lead out of the run directory."""
        return os.fdopen(os.open(self.path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666), mode)

    def _read(self) -> dict[str, str]:
        try:
            lines = self._lines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read and mended: {error.strerror}") from error
        return dict(self._parse(line, number) for number, line in enumerate(lines, start=1))

    def _lines(self) -> list[bytes]:
        try:
            with self._open(os.O_RDWR, "r+b") as file:
                hold_alone(file)  # else what looks like half a line may be one being written
                content = file.read()
                *lines, cut = content.split(b"\n")
                if cut:  # half a line is taken away, or the next one would be appended to it
                    file.truncate(len(content) - len(cut))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            with self._open(os.O_RDONLY, "rb") as file:
                *lines, _ = file.read().split(b"\n")
        return lines

    def _parse(self, line: bytes, number: int) -> tuple[str, str]:
        try:
            row = json.loads(line)
            key, text = row["input"], row["prediction"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(self._damage(number)) from error
        if not (isinstance(key, str) and isinstance(text, str)):
            raise DataError(self._damage(number))
        if row.get("check", _check(key, text)) != _check(key, text):  # files of before had none
            raise DataError(self._damage(number))
        return key, text

    def _damage(self, number: int) -> str:
        return f"{self.path}:{number}: damaged prediction. Delete this file: the predictions in it are made again"

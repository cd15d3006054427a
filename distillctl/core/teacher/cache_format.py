"""The files of a teacher cache: shards of rows, an index of each by example, and a manifest that vouches for both.

    cache.json            what the cache was made of, its shards with the SHA-256 of each file, its own SHA-256
    shard-00000.rows      fixed-width rows of target tokens, one example after another
    shard-00000.index     24 bytes an example: its digest, the first of its rows, how many they are
    .lock                 held by the process that captures, or by the first of several that do it together
    .manifest.lock        held while a shard is added

Every file is written under a temporary name, fsynced and renamed, and the manifest after the shard that it names:
whatever is cut short, the cache holds what its manifest says, and capturing goes on from there. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distillctl.core.errors import DataError, RunError
from distillctl.core.run_dir.files import to_json, write_atomically, writing
from distillctl.core.teacher.rows import Layout

SCHEMA = 1
MANIFEST = "cache.json"
INDEX_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("tokens", "<u4")])
_HASHED_AT_ONCE = 2**20
_ANEW = "Delete that directory and it is captured anew"


@dataclass(frozen=True)
class Identity:
    """All that decides what a cache's rows are, but for the examples, which are named one by one.

    Attributes:
        teacher, tokenizer: fingerprints (SHA-256, hex).
        vocabulary: number of leading ids that teacher and student share; the rows are of these alone.
        max_source_length, max_target_length: where examples were cut, in tokens.
        top_k: ids kept a token; with ``vocabulary`` of them the rows are dense.
        temperature: of the loss.
        schema: version of the files.
    """

    teacher: str
    tokenizer: str
    vocabulary: int
    max_source_length: int
    max_target_length: int
    top_k: int
    temperature: float
    schema: int = SCHEMA

    @property
    def layout(self) -> Layout:
        """How the rows look."""
        return Layout(self.top_k, self.vocabulary, self.temperature)

    @property
    def name(self) -> str:
        """16 hex digits that stand for all of it: the name of the directory where none was chosen."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, found: dict[str, Any]) -> list[str]:
        """In words, what a cache was made of and this run does not want."""
        return [
            f"{name.replace('_', ' ')} {_short(found.get(name))} there, {_short(wanted)} here"
            for name, wanted in asdict(self).items()
            if found.get(name) != wanted
        ]


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Shard:
    """A pair of files: their common name, how many target tokens and examples they hold, their SHA-256 (hex)."""

    name: str
    tokens: int
    examples: int
    rows_sha256: str
    index_sha256: str


class CacheDirectory:
    """The files of a cache of ``identity`` in ``path``, which may not exist yet.

    Args:
        path: the directory. It is made by the first :meth:`append`.
        identity: what this run wants; a cache of anything else is refused.

    Raises:
        DataError: the manifest is damaged, or the cache was made of something else.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self.identity, self.layout = path, identity, identity.layout
        self.facts: dict[str, Any] = {}
        self.shards: tuple[Shard, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reads the manifest again: another process may have captured in the meantime."""
        content = self._manifest()
        if content is None:
            self.facts, self.shards = {}, ()
            return
        different = self.identity.differences(content["identity"])
        if different:
            raise DataError(
                f"{self.path}: a cache of something else ({'; '.join(different)}). Choose another teacher.cache_dir"
            )
        self.facts = dict(content["facts"])
        self.shards = tuple(Shard(**shard) for shard in content["shards"])

    def _manifest(self) -> dict[str, Any] | None:
        try:
            content = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            recorded = content.pop("sha256")
            if recorded != _sha256(_canonical(content)):
                raise ValueError("not the text that was written")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{self.path / MANIFEST}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{self.path}: damaged teacher cache ({MANIFEST}: {error}). {_ANEW}") from error
        result: dict[str, Any] = content
        return result

    @property
    def tokens(self) -> int:
        """Target tokens it holds."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def examples(self) -> int:
        """Examples it holds."""
        return sum(shard.examples for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        files = (
            sum(shard.examples * INDEX_DTYPE.itemsize for shard in self.shards) + self.tokens * self.layout.row_bytes
        )
        return files + len(self._content()) if self.shards else 0

    def rows_file(self, shard: int) -> Path:
        """The rows of a shard, by its number."""
        return self.path / f"{self.shards[shard].name}.rows"

    def index_file(self, shard: int) -> Path:
        """The index of a shard, by its number."""
        return self.path / f"{self.shards[shard].name}.index"

    def check_files(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every byte of every file and compares its SHA-256. Raises DataError naming the first that differs."""
        for number, shard in enumerate(self.shards):
            self._check(self.rows_file(number), shard.tokens * self.layout.row_bytes, shard.rows_sha256)
            self._check(self.index_file(number), shard.examples * INDEX_DTYPE.itemsize, shard.index_sha256)
            if on_progress is not None:
                on_progress(number + 1, len(self.shards))

    def _check(self, file: Path, size: int, sha256: str) -> None:
        digest = hashlib.sha256()
        with self.reading(file) as content:
            found = file.stat().st_size
            if found != size:
                raise self.damaged(file, f"{found:,} bytes long, and should be {size:,}")
            while piece := content.read(_HASHED_AT_ONCE):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise self.damaged(file, "not the bytes that were written")

    @contextmanager
    def reading(self, file: Path) -> Iterator[BinaryIO]:
        """The open file; DataError where it cannot be read."""
        try:
            with file.open("rb", buffering=0) as content:
                yield content
        except FileNotFoundError as error:
            raise self.damaged(file, "missing") from error
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error

    def damaged(self, file: Path, how: str) -> DataError:
        """The error for a file that is not what the manifest says."""
        return DataError(f"{self.path}: damaged teacher cache ({file.name}: {how}). {_ANEW}")

    def index(self) -> tuple[np.ndarray, np.ndarray]:
        """([examples] of INDEX_DTYPE in the order of their digests, [examples] the shard of each)."""
        parts = [self._index_of(number) for number in range(len(self.shards))]
        entries = np.concatenate(parts) if parts else np.zeros(0, INDEX_DTYPE)
        shards = np.repeat(np.arange(len(parts), dtype=np.uint32), [len(part) for part in parts])
        order = np.lexsort((entries["low"], entries["high"]))
        return entries[order], shards[order]

    def _index_of(self, shard: int) -> np.ndarray:
        with self.reading(self.index_file(shard)) as content:
            found = content.read()
        if len(found) != self.shards[shard].examples * INDEX_DTYPE.itemsize:
            raise self.damaged(self.index_file(shard), "cut short")
        return np.frombuffer(found, INDEX_DTYPE)

    def append(self, rows: np.ndarray, index: np.ndarray, facts: dict[str, Any]) -> None:
        """Adds a shard, behind those that other processes added meanwhile; replaces the facts where they are not empty.

        Call it while :meth:`capturing`: here, or in the process that this one works for.

        Raises:
            RunError: it cannot be written (disk full); what was there before stays valid.
        """
        files = rows.tobytes(), index.tobytes()
        try:
            with self._locked(".manifest.lock"):
                self.reload()
                name = f"shard-{len(self.shards):05d}"
                write_atomically(self.path / f"{name}.rows", files[0])
                write_atomically(self.path / f"{name}.index", files[1])
                shard = Shard(name, len(rows), len(index), _sha256(files[0]), _sha256(files[1]))
                before = self.shards, self.facts
                self.shards, self.facts = (*self.shards, shard), facts or self.facts
                try:
                    write_atomically(self.path / MANIFEST, self._content())
                except RunError:
                    self.shards, self.facts = before
                    raise
        except RunError as error:
            kept = f"The {self.examples:,} examples captured so far are kept: start again, and it goes on from there"
            raise RunError(f"{error}. {kept}") from error

    def _content(self) -> str:
        values = {
            "identity": asdict(self.identity),
            "facts": self.facts,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return to_json(values | {"sha256": _sha256(_canonical(values))}, indent=1) + "\n"

    @contextmanager
    def capturing(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """The right to add shards, for one process at a time; the others wait, and then see what it captured.

        Processes that capture together hold it in one of them. The lock ends with its process, however that ends.
        """
        with self._locked(".lock", on_wait):
            for left in self.path.glob(".shard-*.tmp"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
            self.reload()
            yield

    @contextmanager
    def _locked(self, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / name).open("a+b")
        with file:
            if not _lock(file, wait=False):
                on_wait()
                _lock(file, wait=True)
            yield


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(file: BinaryIO, wait: bool) -> bool:
        while True:
            file.seek(0)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
                time.sleep(1)
            else:
                return True

else:
    import fcntl

    def _lock(file: BinaryIO, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""A directory of shards: rows of fixed width, an index of each shard by content, and a manifest that vouches for both.

    cache.json            what the rows were made of, the shards with the SHA-256 of each file, its own SHA-256
    shard-00000.rows      fixed-width rows of target tokens, one item after another
    shard-00000.index     24 bytes an item: its digest, the first of its rows, how many they are
    .lock                 held by the process that captures, or by the first of several that do it together
    .manifest.lock        held while a shard is added

Every file is written under a temporary name, fsynced and renamed, and the manifest after the shard that it names:
whatever is cut short, the directory holds what its manifest says, and capturing goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np

from distillctl.core.errors import DataError, RunError
from distillctl.core.store.files import to_json, write_atomically, writing
from distillctl.core.store.identity import Identity
from distillctl.core.store.lock import hold_alone

MANIFEST = "cache.json"
INDEX_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("tokens", "<u4")])
_HASHED_AT_ONCE = 2**20
_SHARD = re.compile(r"shard-[0-9]{5,9}")
_ANEW = "Delete that directory and it is captured anew"

I_co = TypeVar("I_co", bound=Identity, covariant=True)


@dataclass(frozen=True)
class Shard:
    """A pair of files: their common name, how many target tokens and items they hold, their SHA-256 (hex)."""

    name: str
    tokens: int
    examples: int
    rows_sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _SHARD.fullmatch(self.name)):
            raise ValueError(f"{self.name!r} should be the name of a shard in this directory")
        if not all(isinstance(count, int) and 0 <= count < 2**48 for count in (self.tokens, self.examples)):
            raise ValueError(f"{self.name} should have counts of tokens and examples")


class ShardDirectory(Generic[I_co]):
    """The shards of ``identity`` in ``path``, which may not exist yet.

    Args:
        path: the directory. It is made by the first :meth:`capturing`.
        identity: what this run wants; shards of anything else are refused.

    Raises:
        DataError: the manifest is damaged, or the shards were made of something else.
    """

    def __init__(self, path: Path, identity: I_co) -> None:
        self.path, self.identity = path, identity
        self.kind, self.dtype = identity.kind, identity.dtype
        self.facts: dict[str, Any] = {}
        self.shards: tuple[Shard, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reads the manifest again: another process may have captured in the meantime."""
        try:
            content = self._manifest()
            if content is None:
                self.facts, self.shards = {}, ()
                return
            different = self.identity.differences(dict(content["identity"]))
            facts, shards = dict(content["facts"]), tuple(Shard(**shard) for shard in content["shards"])
        except OSError as error:
            raise DataError(f"{self.path / MANIFEST}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self.damaged(self.path / MANIFEST, str(error)) from error
        if different:
            raise DataError(
                f"{self.path}: {self.kind.article} of something else ({'; '.join(different)}). "
                f"Choose another {self.kind.setting}"
            )
        self.facts, self.shards = facts, shards

    def _manifest(self) -> dict[str, Any] | None:
        """What is written there; None where nothing is. Raises OSError, or whatever a damaged text leads to."""
        try:
            content: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        recorded = content.pop("sha256")
        if recorded != _sha256(_canonical(content)):
            raise ValueError("not the text that was written")
        return content

    @property
    def tokens(self) -> int:
        """Target tokens it holds."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def examples(self) -> int:
        """Items it holds."""
        return sum(shard.examples for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return self.bytes_of(self.tokens, self.examples) + len(self._content()) if self.shards else 0

    def bytes_of(self, tokens: int, items: int) -> int:
        """Bytes of the rows and index entries of so many target tokens and items."""
        return tokens * self.dtype.itemsize + items * INDEX_DTYPE.itemsize

    def rows_file(self, shard: int) -> Path:
        """The rows of a shard, by its number."""
        return self.path / f"{self.shards[shard].name}.rows"

    def index_file(self, shard: int) -> Path:
        """The index of a shard, by its number."""
        return self.path / f"{self.shards[shard].name}.index"

    def check_files(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every byte of every file and compares its SHA-256. Raises DataError naming the first that differs."""
        for number, shard in enumerate(self.shards):
            self._check(self.rows_file(number), self.bytes_of(shard.tokens, 0), shard.rows_sha256)
            self._check(self.index_file(number), self.bytes_of(0, shard.examples), shard.index_sha256)
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
        return DataError(f"{self.path}: damaged {self.kind.name} ({file.name}: {how}). {_ANEW}")

    def index(self) -> tuple[np.ndarray, np.ndarray]:
        """([items] of INDEX_DTYPE in the order of their digests, [items] the shard of each)."""
        parts = [self._index_of(number) for number in range(len(self.shards))]
        entries = np.concatenate(parts) if parts else np.zeros(0, INDEX_DTYPE)
        shards = np.repeat(np.arange(len(parts), dtype=np.uint32), [len(part) for part in parts])
        order = np.lexsort((entries["low"], entries["high"]))
        return entries[order], shards[order]

    def _index_of(self, shard: int) -> np.ndarray:
        with self.reading(self.index_file(shard)) as content:
            found = content.read()
        if len(found) != self.bytes_of(0, self.shards[shard].examples):
            raise self.damaged(self.index_file(shard), "cut short")
        entries = np.frombuffer(found, INDEX_DTYPE)
        # What it points to is there, or a forged one would ask for memory without end.
        ends = entries["row"].astype(np.uint64) + entries["tokens"]
        if len(entries) and int(ends.max()) > self.shards[shard].tokens:
            raise self.damaged(self.index_file(shard), "points beyond the rows")
        return entries

    def append(self, rows: np.ndarray, index: np.ndarray, facts: dict[str, Any]) -> None:
        """Adds a shard, behind those that other processes added meanwhile; replaces the facts where they are not empty.

        Call it while :meth:`capturing`: here, or in the process that this one works for.

        Raises:
            RunError: it cannot be written (disk full); what was there before stays valid.
        """
        try:
            with self._locked(".manifest.lock"):
                self.reload()
                self._add(rows.tobytes(), index.tobytes(), (len(rows), len(index)), facts)
        except RunError as error:
            kept = f"The {self.examples:,} {self.kind.items} captured so far are kept"
            raise RunError(f"{error}. {kept}: start again, and it goes on from there") from error

    def _add(self, rows: bytes, index: bytes, counts: tuple[int, int], facts: dict[str, Any]) -> None:
        name = f"shard-{len(self.shards):05d}"
        write_atomically(self.path / f"{name}.rows", rows)
        write_atomically(self.path / f"{name}.index", index)
        before = self.shards, self.facts
        self.shards = (*self.shards, Shard(name, *counts, _sha256(rows), _sha256(index)))
        self.facts = facts or self.facts
        try:
            write_atomically(self.path / MANIFEST, self._content())
        except RunError:
            self.shards, self.facts = before
            raise

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

        Processes that capture together hold it in one of them.
        """
        with self._locked(".lock", on_wait):
            for mine in (".shard-*.tmp", f".{MANIFEST}.*.tmp"):  # of a process that was killed while it wrote
                for left in self.path.glob(mine):
                    left.unlink(missing_ok=True)
            self.reload()
            yield

    @contextmanager
    def _locked(self, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / name).open("a+b")
        with file:
            with writing(self.path / name):
                hold_alone(file, on_wait)
            yield


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

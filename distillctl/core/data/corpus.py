"""The corpus a run learns from: mined and cached by package version, or read from the user's JSONL file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.core.data.mining import MinedCorpus, choose_packages, corpus_key, mine
from distillctl.core.data.records import TEXT_FIELDS, LoadedFile, Record, read_jsonl
from distillctl.core.data.splits import SPLITS, Split, split_records
from distillctl.core.errors import DataError, RunError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the records of each split come from. Splits are read when asked for."""

    identity: str  # names the content: corpus key, or the file
    counts: dict[str, int]
    packages: dict[str, str]
    notes: tuple[str, ...]
    _load: Callable[[Split], list[Record]]
    sizes: dict[Split, int]

    def records(self, split: Split) -> list[Record]:
        """All records of a split, in a fixed order. Raises DataError when there is none."""
        if not self.sizes[split]:
            without = ", or leave it out with --set evaluation.on_epoch_end=false" if split == "dev" else ""
            raise DataError(
                f"{self.identity}: the {split} split has no records (splits are by file: "
                f"a hash of project/path). Add records from more files{without}"
            )
        return self._load(split)


def cache_directory() -> Path:
    """``$DISTILLCTL_CACHE``, else the user's cache directory."""
    chosen = os.environ.get("DISTILLCTL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distillctl"


def embedded_corpus(
    packages: Sequence[str] | None,
    mask: str,
    max_per_test: int,
    on_progress: Progress = lambda done, total: None,
) -> Corpus:
    """The corpus mined from installed packages: mined once per set of versions, of named packages per contents."""
    chosen, notes = choose_packages(packages)
    key = corpus_key(chosen, mask, max_per_test, contents=packages is not None)
    directory = cache_directory() / "corpus" / key
    if not _is_there(directory):
        workers = min(8, os.cpu_count() or 1)
        _write_cache(directory, mine(chosen, mask, max_per_test, workers, on_progress))
    return _read_cache(directory, key, notes)


def _is_there(directory: Path) -> bool:
    """Is the corpus there? Where not, makes its parent: what cannot be written fails before the mining."""
    try:
        if directory.exists():
            return True
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    return False


def _cannot_write(directory: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write the corpus cache {directory}: {error.strerror or error}. "
        "Free space there or set DISTILLCTL_CACHE to another directory"
    )


def _write_cache(directory: Path, mined: MinedCorpus) -> None:
    """Everything under a temporary name first: two processes may mine at once, and one may be killed."""
    temporary = directory.with_name(f"{directory.name}.{secrets.token_hex(6)}")
    try:
        temporary.mkdir()  # not mkdtemp: others who share the cache may read it, if the umask says so
        files = {}
        for split, records in mined.splits.items():
            content = _to_parquet(records)
            (temporary / f"{split}.parquet").write_bytes(content)
            files[split] = {"records": len(records), "sha256": hashlib.sha256(content).hexdigest()}
        about = {"files": files, "counts": mined.counts, "packages": mined.packages}
        summary = json.dumps(about | {"sha256": _digest(about)}, indent=1)
        (temporary / "corpus.json").write_text(summary, encoding="utf-8")
        temporary.rename(directory)
    except OSError as error:
        if not directory.exists():  # else another process was faster: its corpus is the same
            raise _cannot_write(directory, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(about: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what corpus.json says, but for its own."""
    said = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _to_parquet(records: Sequence[Record]) -> bytes:
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {name: [getattr(record, name) for record in records] for name in TEXT_FIELDS}
    columns["target"] = [record.target for record in records]  # a mined assertion is one line
    buffer = io.BytesIO()
    schema = arrow.schema([(name, arrow.string()) for name in columns])
    parquet.write_table(arrow.table(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _from_parquet(content: bytes) -> list[Record]:
    import pyarrow as arrow
    from pyarrow import parquet

    table = parquet.read_table(arrow.BufferReader(content))
    columns = []
    for name in (*TEXT_FIELDS, "target"):
        # By way of a dictionary: equal texts (a path, a focal method) become one string, and that is faster.
        column = table.column(name).combine_chunks().dictionary_encode()
        texts = column.dictionary.to_pylist()
        columns.append([texts[index] for index in column.indices.to_numpy().tolist()])
    targets = [tuple(target.split("\n")) for target in columns.pop()]
    return [Record(*values) for values in zip(*columns, targets, strict=True)]


def _read_cache(directory: Path, key: str, notes: Sequence[str]) -> Corpus:
    damaged = "damaged corpus cache. Delete that directory; it is made anew"

    def content_of(name: str) -> bytes:
        try:
            return (directory / name).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{directory}: {damaged} ({name}: missing)") from error
        except OSError as error:
            raise DataError(f"{directory / name}: cannot be read: {error.strerror}") from error

    content = content_of("corpus.json")
    try:
        about = json.loads(content.decode("utf-8"))
        if about.get("sha256", _digest(about)) != _digest(about):  # those of before have none
            raise ValueError("not what was written")
        sizes: dict[Split, int] = {split: int(about["files"][split]["records"]) for split in SPLITS}
        hashes: dict[Split, str] = {split: str(about["files"][split]["sha256"]) for split in SPLITS}
        counts = {str(name): int(count) for name, count in about["counts"].items()}
        packages = {str(name): str(version) for name, version in about["packages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{directory}: {damaged} (corpus.json: {error})") from error

    def load(split: Split) -> list[Record]:
        name = f"{split}.parquet"
        content = content_of(name)
        if hashlib.sha256(content).hexdigest() != hashes[split]:
            raise DataError(f"{directory}: {damaged} ({name}: not the bytes that were written)")
        return _from_parquet(content)

    return Corpus(f"embedded corpus {key}", counts, packages, tuple(notes), load, sizes)


def file_corpus(path: Path) -> Corpus:
    """A user's JSONL file, split by file like the embedded one; exact repeats of an example are dropped."""
    return loaded_corpus(read_jsonl(path), str(path))


def loaded_corpus(loaded: LoadedFile, identity: str) -> Corpus:
    """The records of a file that has been read, split like :func:`file_corpus` does."""
    unique: dict[str, Record] = {}
    for record in loaded.records:
        unique.setdefault(record.key, record)
    splits, near = split_records(list(unique.values()))
    counts = {
        "repeated": len(loaded.records) - len(unique),
        "near_duplicates_across_splits": near,
        "with_focal_method": sum(bool(record.focal_method) for part in splits.values() for record in part),
    }
    sizes: dict[Split, int] = {split: len(records) for split, records in splits.items()}
    return Corpus(identity, counts, {}, loaded.notes, splits.__getitem__, sizes)


def open_corpus(
    path: str | None,
    packages: Sequence[str] | None,
    mask: str,
    max_per_test: int,
    on_progress: Progress = lambda done, total: None,
) -> Corpus:
    """The corpus a configuration names: ``path`` to a JSONL file, or None for the embedded one."""
    return file_corpus(Path(path)) if path else embedded_corpus(packages, mask, max_per_test, on_progress)


def describe(corpus: Corpus) -> dict[str, Any]:
    """What run.json keeps of a corpus."""
    return {
        "identity": corpus.identity,
        "sizes": dict(corpus.sizes),
        "counts": corpus.counts,
        "packages": corpus.packages,
    }

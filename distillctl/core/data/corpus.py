"""The corpus a run learns from: mined and cached by package version, or read from the user's JSONL file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.core.data.mining import MinedCorpus, PackageFiles, choose_packages, corpus_key, mine
from distillctl.core.data.records import FIELDS, Record, read_jsonl
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
            raise DataError(
                f"{self.identity}: the {split} split has no records (splits are by file: "
                "a hash of project/path). Add records from more files"
            )
        return self._load(split)


def cache_directory() -> Path:
    """``$DISTILLCTL_CACHE``, else the user's cache directory."""
    chosen = os.environ.get("DISTILLCTL_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distillctl"


def embedded_corpus(
    packages: Sequence[str] | None,
    mask: str,
    max_per_test: int,
    on_progress: Progress = lambda done, total: None,
) -> Corpus:
    """The corpus mined from installed packages; mined once per set of package versions."""
    chosen, notes = choose_packages(packages)
    key = corpus_key(chosen, mask, max_per_test)
    directory = cache_directory() / "corpus" / key
    if not (directory / "corpus.json").exists():
        mined = mine(chosen, mask, max_per_test, workers=min(8, os.cpu_count() or 1), on_progress=on_progress)
        _write_cache(directory, mined)
    return _read_cache(directory, key, notes, chosen)


def _write_cache(directory: Path, mined: MinedCorpus) -> None:
    """Everything under a temporary name first: two processes may mine at once, and one may be killed."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=directory.name, dir=directory.parent))
        for split, records in mined.splits.items():
            columns = {name: [_column_value(record, name) for record in records] for name in FIELDS}
            parquet.write_table(arrow.table(columns), temporary / f"{split}.parquet", compression="zstd")
        about = {
            "sizes": {split: len(records) for split, records in mined.splits.items()},
            "counts": mined.counts,
            "packages": mined.packages,
        }
        (temporary / "corpus.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        try:
            temporary.rename(directory)
        except OSError:  # another process was faster: its corpus is the same
            shutil.rmtree(temporary)
            if not (directory / "corpus.json").exists():
                raise
    except OSError as error:
        raise RunError(
            f"cannot write the corpus cache {directory}: {error.strerror or error}. "
            "Free space there or set DISTILLCTL_CACHE to another directory"
        ) from error


def _column_value(record: Record, name: str) -> Any:
    value = getattr(record, name)
    return list(value) if name == "assertions" else value


def _read_cache(directory: Path, key: str, notes: Sequence[str], chosen: Sequence[PackageFiles]) -> Corpus:
    try:
        about = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        sizes: dict[Split, int] = {split: int(about["sizes"][split]) for split in SPLITS}
        counts = {str(name): int(count) for name, count in about["counts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory}: damaged corpus cache ({error}). Delete that directory; it is made anew") from error

    def load(split: Split) -> list[Record]:
        from pyarrow import ArrowException, parquet

        try:
            table = parquet.read_table(directory / f"{split}.parquet", columns=list(FIELDS))
        except (OSError, ArrowException) as error:
            raise DataError(f"{directory}: damaged corpus cache ({error}). Delete that directory") from error
        columns = [table.column(name).to_pylist() for name in FIELDS[:-1]]
        assertions = [tuple(lines) for lines in table.column("assertions").to_pylist()]
        return [Record(*values) for values in zip(*columns, assertions, strict=True)]

    return Corpus(f"embedded corpus {key}", counts, {p.name: p.version for p in chosen}, tuple(notes), load, sizes)


def file_corpus(path: Path) -> Corpus:
    """A user's JSONL file, split by file like the embedded one; exact repeats of an example are dropped."""
    loaded = read_jsonl(path)
    unique = {record.key: record for record in reversed(loaded.records)}  # of equal examples the first one stays
    splits, near = split_records(list(reversed(unique.values())))
    with_focal = sum(bool(record.focal_method) for record in loaded.records)
    return Corpus(
        str(path),
        {
            "repeated": len(loaded.records) - len(unique),
            "near_duplicates_across_splits": near,
            "with_focal_method": with_focal,
        },
        {},
        loaded.notes,
        splits.__getitem__,
        {split: len(records) for split, records in splits.items()},
    )


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

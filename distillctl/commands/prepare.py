"""``distillctl prepare``: mine or read the corpus ahead of time and show what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl.console import ConsoleReporter, table
from distillctl.core.config.schema import Config
from distillctl.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from distillctl.core.data.corpus import Corpus
    from distillctl.core.data.records import Record
    from distillctl.core.data.splits import Split


def run(config: Config, *, output: str | None = None) -> None:
    """Opens the corpus as configured, prints its sizes, and writes it as JSONL where asked to."""
    from distillctl.core.data.splits import SPLITS
    from distillctl.core.materials import read_corpus

    if output is not None:
        _check_output(Path(output), config.data.path)
    reporter = ConsoleReporter()
    corpus = read_corpus(config, reporter)
    records = {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}
    _show(corpus, records, reporter)
    if output is not None:
        written = _write(Path(output), [record for split in SPLITS for record in records[split]])
        reporter.note(f"{written:,} records written to {output}")


def _check_output(output: Path, source: str | None) -> None:
    """Refuses, before any work, what could not be written or would replace the file that is read."""
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{output}: should be a file in a folder that exists. Choose another -o FILE")
    if source is not None and output.exists() and output.samefile(source):
        raise UsageError(f"{output}: is the file that --data reads. Choose another -o FILE")


def _show(corpus: Corpus, records: Mapping[Split, list[Record]], reporter: ConsoleReporter) -> None:
    per_project = {split: Counter(record.project for record in part) for split, part in records.items()}
    projects = sorted({name for counts in per_project.values() for name in counts})
    rows = [
        [f"{name} {corpus.packages.get(name, '')}".strip(), *(f"{counts[name]:,}" for counts in per_project.values())]
        for name in projects
    ]
    rows.append(["all", *(f"{len(part):,}" for part in records.values())])
    reporter.console.print(table(corpus.identity, ["project", *records], rows))
    for name, count in corpus.counts.items():
        reporter.note(f"{name.replace('_', ' ')}: {count:,}")


def _write(output: Path, records: list[Record]) -> int:
    """Writes under another name first: what was there stays whole until all of the new file is."""
    from distillctl.core.data.records import write_jsonl

    temporary = output.with_name(f".{output.name}.partial")
    try:
        written = write_jsonl(temporary, records)
        temporary.replace(output)
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror}. Choose another -o FILE") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written

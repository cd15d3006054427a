"""``distillctl prepare``: the corpus and the teacher cache ahead of time, and what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.console import ConsoleReporter, table
from distillctl.core.config.schema import Config
from distillctl.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from distillctl.core.data.corpus import Corpus
    from distillctl.core.data.records import Record
    from distillctl.core.data.source_trees import SourceTree
    from distillctl.core.data.splits import Split


def run(config: Config, *, output: str | None = None, verify: bool = False, sources: Sequence[SourceTree] = ()) -> None:
    """Opens the corpus as configured, or mines ``sources``, prints its sizes, and writes it as JSONL where asked to.

    With ``teacher.mode: cached`` captures the teacher cache, or what it lacks, and shows it; with ``verify`` checks it
    and writes nothing to it.
    """
    from distillctl.core.data.splits import SPLITS
    from distillctl.core.materials import prepare_teacher_cache, read_corpus

    if output is not None:
        _check_output(Path(output), config.data.path)
    reporter = ConsoleReporter()
    corpus = _mine(sources, config, reporter) if sources else read_corpus(config, reporter)
    records = {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}
    _show(corpus, records, reporter)
    if output is not None:
        written = _write(Path(output), [record for split in SPLITS for record in records[split]])
        reporter.note(f"{written:,} records written to {output}")
    if verify or config.teacher.mode == "cached":
        facts = prepare_teacher_cache(config, corpus, reporter, capture=not verify)
        reporter.show_facts("Teacher cache", _cache_rows(facts))


def _mine(sources: Sequence[SourceTree], config: Config, reporter: ConsoleReporter) -> Corpus:
    from distillctl.core.data.source_trees import source_corpus

    with reporter.task("mining") as task:
        return source_corpus(
            sources,
            config.data.mask,
            config.data.max_assertions_per_test,
            on_progress=lambda done, total: task.update(done, total, note="test files"),
        )


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


def _cache_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a teacher cache is of, holds and costs, in the order in which one would ask."""
    rows = {
        "directory": facts["directory"],
        "teacher": facts["teacher"][:16],
        "ids kept": f"{facts['top_k']:,} of {facts['vocabulary']:,}",
        "temperature": f"{facts['temperature']:g}",
        "precision": facts["precision"],
        "examples": f"{facts['examples']:,}",
        "target tokens": f"{facts['target_tokens']:,} in {facts['shards']:,} shards",
        "bytes per token": f"{facts['bytes_per_token']:.1f}",
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
    }
    if facts["tail_bound"] is not None:
        rows |= {
            "gradient cosine": f"{facts['gradient_cosine']:.4f}",
            "tail": f"{facts['tail_mass']:.2%} of the teacher; hides at most {facts['tail_bound']:.2g} nats a token",
        }
    return rows | {"live teacher": f"probabilities differ by {facts['difference_from_live']:.1e} at most"}


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

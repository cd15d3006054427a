"""``distillctl prepare``: the corpus, the teacher cache and the embedding bank ahead of time, and what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.console import ConsoleReporter, table
from distillctl.core.config.schema import Config
from distillctl.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from distillctl.core.data.corpus import Corpus
    from distillctl.core.data.records import Record
    from distillctl.core.data.splits import Split


def run(config: Config, *, output: str | None = None, verify: bool = False) -> None:
    """Opens the corpus as configured, prints its sizes, and writes it as JSONL where asked to.

    Captures the embedding bank where an active term reads it, and with ``teacher.mode: cached`` the teacher cache, or
    what they lack, and shows them; with ``verify`` checks them, and a ``teacher.cache_dir`` whatever the mode, and
    writes nothing to them.
    """
    from distillctl.core.data.splits import SPLITS
    from distillctl.core.materials import prepare_caches, read_corpus
    from distillctl.core.training.terms import ENCODER_TERMS

    if output is not None:
        _check_output(Path(output), config.data.path)
    reporter = ConsoleReporter()
    corpus = read_corpus(config, reporter)
    records = {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}
    _show(corpus, records, reporter)
    if output is not None:
        written = _write(Path(output), [record for split in SPLITS for record in records[split]])
        reporter.note(f"{written:,} records written to {output}")
    teacher = config.teacher.mode == "cached" or (verify and config.teacher.cache_dir is not None)
    if verify or teacher or ENCODER_TERMS & set(config.objective.active_terms):
        facts = prepare_caches(config, corpus, reporter, teacher=teacher, capture=not verify)
        if "bank" in facts:
            reporter.show_facts("Embedding bank", _bank_rows(facts["bank"]))
        if "teacher_cache" in facts:
            reporter.show_facts("Teacher cache", _cache_rows(facts["teacher_cache"]))


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


def _bank_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """What an embedding bank is of, holds and costs, in the order in which one would ask."""
    return {
        "directory": facts["directory"],
        "encoder": f"{facts['encoder'][:16]}, {facts['width']:,} wide, computed in {facts['precision']}",
        "examples": f"{facts['examples']:,}",
        "golds": f"{facts['golds']:,} of these; {facts['stored_golds']:,} in the bank",
        "gold tokens": f"{facts['stored_tokens']:,} in {facts['shards']:,} shards",
        "bytes per token": f"{facts['bytes_per_token']:,.1f}",
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
        "live encoder": f"states differ by {facts['difference_from_live']:.1e} of their norm at most",
    }


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

"""``distillctl prepare``: the corpus, the teacher cache and the embedding bank ahead of time, and what is in them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from distillctl.console import ConsoleReporter, table
from distillctl.core.config import dump_yaml
from distillctl.core.config.schema import Config
from distillctl.core.errors import RunError, UsageError

if TYPE_CHECKING:
    from distillctl.core.data.corpus import Corpus
    from distillctl.core.data.records import Record
    from distillctl.core.data.source_trees import SourceTree
    from distillctl.core.data.splits import Split


def run(config: Config, *, output: str | None = None, verify: bool = False, processes: int = 1) -> int:
    """Opens the corpus as configured, prints its sizes, and writes it as JSONL where asked to.

    Captures the embedding bank where an active term reads it, and with ``teacher.mode: cached`` the teacher cache, or
    what they lack, and shows them; with ``verify`` checks them, and a ``teacher.cache_dir`` whatever the mode, and
    writes nothing to them. ``processes`` of this machine capture a part each; started by a launcher this is one of
    several already. Returns the exit code.
    """
    from distillctl.core.processes import launched

    rank, _, ranks = launched()
    if processes > 1 and ranks > 1:
        raise UsageError(f"--processes {processes}: {ranks} processes were launched already. Leave it out")
    if rank == 0:
        _check_output(output, config.data.path)
    if processes > 1:
        return _run_several(config, output, verify, processes)
    _prepare(config, output, verify, several=ranks > 1)
    return 0


def _run_several(config: Config, output: str | None, verify: bool, processes: int) -> int:
    """The same settings, resolved, as several processes: the main one of them shows and writes."""
    from distillctl.core.local_processes import run_locally

    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(dump_yaml(config.to_dict()), encoding="utf-8")
        more = [*(["--output", output] if output is not None else []), *(["--verify"] if verify else [])]
        return run_locally(["prepare", "--config", str(file), *more], processes)


def _prepare(config: Config, output: str | None, verify: bool, several: bool) -> None:
    from distillctl.core.materials import prepare_caches, read_corpus
    from distillctl.core.processes import current
    from distillctl.core.training.terms import ENCODER_TERMS

    if several:  # joined before one of them mines and the others wait
        from distillctl.core.training.accelerator import resolve_precision, start_together

        start_together(resolve_precision(config))
    reporter = ConsoleReporter()
    with current().one_fate():
        with current().main_first():
            corpus = read_corpus(config, reporter)
        _show_and_write(corpus, output if current().is_main else None, reporter)
        teacher = config.teacher.mode == "cached" or (verify and config.teacher.cache_dir is not None)
        if not (verify or teacher or ENCODER_TERMS & set(config.objective.active_terms)):
            return
        facts = prepare_caches(config, corpus, reporter, teacher=teacher, capture=not verify)
        if "bank" in facts:
            reporter.show_facts("Embedding bank", _bank_rows(facts["bank"], facts["encoder"]))
        if "teacher_cache" in facts:
            reporter.show_facts("Teacher cache", _cache_rows(facts["teacher_cache"]))


def mine_sources(config: Config, sources: Sequence[SourceTree], *, output: str | None = None) -> None:
    """Mines source trees, prints what is in them and what could not be read, and writes it as JSONL where asked to."""
    from distillctl.core.data.source_trees import source_corpus

    _check_output(output, None)
    reporter = ConsoleReporter()
    with reporter.task("mining") as task:
        corpus = source_corpus(
            sources,
            config.data.mask,
            config.data.max_assertions_per_test,
            on_progress=lambda done, total: task.update(done, total, note="test files"),
        )
    _show_and_write(corpus, output, reporter)


def convert(config: Config, source: str, language: str | None, *, output: str | None = None) -> None:
    """Converts a file of the earlier pipeline: its records to JSONL where asked to, its logits to a teacher cache."""
    from distillctl.core.conversion import convert_logits
    from distillctl.core.data.corpus import loaded_corpus
    from distillctl.core.data.trident import read_trident

    _check_output(output, source)
    reporter = ConsoleReporter()
    with reporter.task("reading the records"):
        file = read_trident(Path(source), language)
        corpus = loaded_corpus(file.loaded, source)
    for note in corpus.notes:
        reporter.note(note)
    reporter.note(f"lines with logits: {len(file.with_logits):,} of {len(file.lines):,}")
    _show_and_write(corpus, output, reporter)
    if file.with_logits:
        facts = convert_logits(config, file, corpus.records("train"), reporter)
        reporter.show_facts("Teacher cache", _cache_rows(facts))
        found = f"--set teacher.mode=cached --set teacher.cache_dir={shlex.quote(facts['directory'])}"
        reporter.note(f"To learn from it: distillctl train --data {shlex.quote(output or 'RECORDS.jsonl')} {found}")


def _show_and_write(corpus: Corpus, output: str | None, reporter: ConsoleReporter) -> None:
    from distillctl.core.data.splits import SPLITS

    records = {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}
    _show(corpus, records, reporter)
    if output is not None:
        written = _write(Path(output), [record for split in SPLITS for record in records[split]])
        reporter.note(f"{written:,} records written to {output}")


def _check_output(chosen: str | None, source: str | None) -> None:
    """Refuses, before any work, what could not be written or would replace the file that is read."""
    if chosen is None:
        return
    output = Path(chosen)
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{output}: should be a file in a folder that exists. Choose another -o FILE")
    if output.exists() and not output.is_file():  # another one would take the place of a device for everybody
        raise UsageError(f"{output}: should be a regular file. Choose another -o FILE")
    if source is not None and output.exists() and Path(source).exists() and output.samefile(source):
        raise UsageError(f"{output}: is the file that the records are read from. Choose another -o FILE")


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


def _cache_rows(facts: Mapping[str, Any]) -> dict[str, object]:
    """What a teacher cache is of, holds and costs, in the order in which one would ask."""
    rows: dict[str, object] = {
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
    difference = facts["difference_from_live"]
    live = facts.get("verified") if difference is None else f"probabilities differ by {difference:.1e} at most"
    return rows | {"live teacher": live}


def _bank_rows(facts: Mapping[str, Any], encoder: Mapping[str, Any]) -> dict[str, str]:
    """What an embedding bank is of, holds and costs, in the order in which one would ask."""
    error = encoder.get("alignment")
    return {
        "directory": facts["directory"],
        "encoder": f"{facts['encoder'][:16]}, {facts['width']:,} wide, computed in {facts['precision']}",
        "examples": f"{facts['examples']:,}",
        "golds": f"{facts['golds']:,} of these; {facts['stored_golds']:,} in the bank",
        "gold tokens": f"{facts['stored_tokens']:,} in {facts['shards']:,} shards",
        "bytes per token": f"{facts['bytes_per_token']:,.1f}",
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
        "live encoder": f"states differ by {facts['difference_from_live']:.1e} of their norm at most",
        "vocabulary": encoder["summary"],
        **({"alignment": error["summary"]} if error else {}),
    }


def _write(output: Path, records: list[Record]) -> int:
    """Writes under another name first: what was there stays whole until all of the new file is."""
    from distillctl.core.data.records import write_jsonl

    output = output.resolve()  # of a link the file that it leads to
    temporary = output.with_name(f".{output.name}.partial")
    try:
        written = write_jsonl(temporary, records)
        temporary.replace(output)
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror}. Choose another -o FILE") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written

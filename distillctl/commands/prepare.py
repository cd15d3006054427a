"""``distillctl prepare``: mine or read the corpus ahead of time and show what is in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from distillctl.console import ConsoleReporter, table
from distillctl.core.config.schema import Config


def run(config: Config, *, output: str | None = None) -> None:
    """Opens the corpus as configured, prints its sizes, and writes it as JSONL where asked to."""
    from distillctl.core.data.records import write_jsonl
    from distillctl.core.data.splits import SPLITS
    from distillctl.core.errors import RunError
    from distillctl.core.materials import read_corpus

    reporter = ConsoleReporter()
    corpus = read_corpus(config, reporter)
    records = {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}
    per_project = {split: Counter(record.project for record in records[split]) for split in SPLITS}
    projects = sorted({name for counts in per_project.values() for name in counts})
    rows = [
        [
            f"{name} {corpus.packages.get(name, '')}".strip(),
            *(f"{per_project[split][name]:,}" for split in SPLITS),
        ]
        for name in projects
    ]
    rows.append(["all", *(f"{corpus.sizes[split]:,}" for split in SPLITS)])
    reporter.console.print(table(corpus.identity, ["project", *SPLITS], rows))
    for name, count in corpus.counts.items():
        reporter.note(f"{name.replace('_', ' ')}: {count:,}")
    if output is not None:
        try:
            written = write_jsonl(Path(output), (record for split in SPLITS for record in records[split]))
        except OSError as error:
            raise RunError(f"{output}: cannot be written: {error.strerror}. Choose another -o FILE") from error
        reporter.note(f"{written:,} records written to {output}")

"""Runs the predictions of several systems on a sample of records: the gold first, then each prediction."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from distillctl.core.data.records import Record
from distillctl.core.data.selection import fixed_sample
from distillctl.core.errors import DataError
from distillctl.core.evaluation.lines import parse_python_line, split_lines
from distillctl.core.execution.gold_cache import GoldCache
from distillctl.core.execution.outcomes import (
    EMPTY,
    ERROR,
    GOLD,
    NOT_COLLECTED,
    NOT_PLACED,
    SKIPPED,
    Verdict,
    as_prediction,
    excluded_counts,
    summarise,
    wilson,
)
from distillctl.core.execution.placing import Place, find_place
from distillctl.core.execution.session import MOST_ITEMS, Limits, Session

FILES_AT_ONCE = 24
"""Test files that one process collects: enough to share a package's import, few enough to share out."""

Predictions = Mapping[str, Sequence[str]]
"""System -> one prediction per record."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A record, where its test stands, and each system's prediction."""

    record: Record
    place: Place
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Executions:
    """What running showed. ``golds``: of every drawn record; ``systems``: by record whose gold passed, and system."""

    limits: Limits
    golds: Mapping[str, Verdict]
    systems: Mapping[str, Mapping[str, Verdict]]

    @property
    def collected(self) -> int:
        """How many golds were run at all."""
        return sum(gold.outcome not in (NOT_COLLECTED, NOT_PLACED, SKIPPED) for gold in self.golds.values())

    def facts(self, subject: str) -> dict[str, Any]:
        """The part of ``metrics.json``; ``subject`` is the system whose predictions the rows are."""
        passed = [gold for gold in self.golds.values() if gold.passed]
        names = next(iter(self.systems.values()), {}).keys()
        return {
            "subject": subject,
            "sandboxed": self.limits.isolation.sandboxed,
            "isolation": self.limits.isolation.words,
            "timeout_seconds": self.limits.timeout,
            "most_parameter_sets": MOST_ITEMS,
            "drawn": len(self.golds),
            "collected": self.collected,
            "run": len(passed),
            "excluded": excluded_counts(list(self.golds.values())),
            "gold_pass_rate_of_collected": wilson(len(passed), self.collected).to_dict(),
            "systems": {
                GOLD: summarise(passed),
                **{name: summarise(verdicts[name] for verdicts in self.systems.values()) for name in names},
            },
        }

    def row(self, identity: str) -> dict[str, Any] | None:
        """What ``predictions.jsonl`` has of a record; None where it was not drawn."""
        gold = self.golds.get(identity)
        if gold is None:
            return None
        systems = self.systems.get(identity, {})
        return {name: _facts(verdict) for name, verdict in {GOLD: gold, **systems}.items()}


def _facts(verdict: Verdict) -> dict[str, Any]:
    facts: dict[str, Any] = {"outcome": verdict.outcome, "can_fail": verdict.can_fail}
    return facts | ({"detail": verdict.detail} if verdict.detail else {})


def execute(
    records: Sequence[Record],
    predictions: Predictions,
    limits: Limits,
    *,
    most: int,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Executions:
    """Runs at most ``most`` of the records, the same ones for whatever run asks.

    Files are shared out over ``workers`` threads (None: one a processor that may be used), each with a process that
    has collected some files of one package.

    Raises DataError when none of the records is of an installed package's test.
    """
    drawn = {record.id for record in fixed_sample(records, most)}
    golds: dict[str, Verdict] = {}
    samples: list[Sample] = []
    for index, record in enumerate(records):
        if record.id not in drawn:
            continue
        place = find_place(record)
        if place is None:
            golds[record.id] = Verdict(NOT_PLACED)
        else:
            samples.append(Sample(record, place, {name: texts[index] for name, texts in predictions.items()}))
    if not samples:
        raise _none_placed()
    chunks = _chunks(samples)
    progress = _Progress(len(samples), on_progress)
    found = _run_chunks(chunks, limits, workers or len(os.sched_getaffinity(0)), progress)
    golds |= {name: gold for name, (gold, _) in found.items()}
    in_order = {record.id: golds[record.id] for record in records if record.id in golds}
    return Executions(limits, in_order, {name: found[name][1] for name in in_order if in_order[name].passed})


def check_placed(records: Sequence[Record], most: int) -> None:
    """Raises what :func:`execute` would raise where none of the records can be run: ask before they are decoded."""
    if not any(find_place(record) for record in fixed_sample(records, most)):
        raise _none_placed()


def _none_placed() -> DataError:
    return DataError(
        "--run-tests: no record is of a test in an installed package. Records mined here are (distillctl prepare); "
        "for others, install the packages in the versions they were mined from"
    )


Found = dict[str, tuple[Verdict, dict[str, Verdict]]]


class _Progress:
    """Counts samples that are done, from several threads, and can stop them all."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._total = total
        self._tell = tell
        self.stopped = threading.Event()
        self._sessions: set[Session] = set()

    def one_more(self) -> None:
        with self._lock:
            self._done += 1
            self._tell(self._done, self._total)

    def stop(self) -> None:
        """Asks the threads to end, and ends what they wait for."""
        self.stopped.set()
        with self._lock:
            for session in self._sessions:
                session.kill()

    def open(self, session: Session) -> None:
        """From now on a stop ends this session."""
        with self._lock:
            self._sessions.add(session)

    def close(self, session: Session) -> None:
        """It has ended."""
        with self._lock:
            self._sessions.discard(session)


def _chunks(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of one package, file by file, with at most :data:`FILES_AT_ONCE` files; the largest chunks first."""
    by_file: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_file[sample.place.package, sample.place.path].append(sample)
    by_package: dict[str, list[list[Sample]]] = defaultdict(list)
    for key in sorted(by_file):
        by_package[key[0]].append(by_file[key])
    chunks = []
    for files in by_package.values():
        for start in range(0, len(files), FILES_AT_ONCE):
            chunks.append([sample for file in files[start : start + FILES_AT_ONCE] for sample in file])
    return sorted(chunks, key=len, reverse=True)


def _run_chunks(chunks: Sequence[Sequence[Sample]], limits: Limits, workers: int, progress: _Progress) -> Found:
    caches = {chunk[0].place.package: GoldCache(chunk[0].place.package, limits) for chunk in chunks}
    found: Found = {}
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run_chunk, chunk, limits, caches[chunk[0].place.package], progress) for chunk in chunks]
        finished = False
        try:
            for chunk, future in zip(chunks, futures, strict=True):
                part = future.result()
                found |= part
                records = {sample.record.id: sample.record for sample in chunk}
                golds = {name: gold for name, (gold, _) in part.items()}
                caches[chunk[0].place.package].add(golds, records)
            finished = True
        finally:
            if not finished:
                progress.stop()
                pool.shutdown(wait=False, cancel_futures=True)
    return found


def _run_chunk(samples: Sequence[Sample], limits: Limits, golds: GoldCache, progress: _Progress) -> Found:
    found: Found = {}
    files = list(dict.fromkeys(sample.place.file for sample in samples))
    with Session(samples[0].place.root, files, limits) as session:
        progress.open(session)
        for sample in samples:
            if progress.stopped.is_set():
                break
            gold = golds.get(sample.record) or session.run_gold(sample.place, sample.record.target)
            found[sample.record.id] = gold, _run_sample(sample, gold, session) if gold.passed else {}
            progress.one_more()
        progress.close(session)
    return found


def _run_sample(sample: Sample, gold: Verdict, session: Session) -> dict[str, Verdict]:
    """The verdict on each system's prediction; equal texts are run once, the gold's own not again."""
    known: dict[str, Verdict] = {_text(sample.record.target): gold}
    verdicts = {}
    for name, prediction in sample.texts.items():
        text = _text(prediction)
        if text not in known:
            known[text] = _before_running(text) or as_prediction(
                session.run(sample.place, text, items=gold.items, alone=gold.alone)
            )
        verdicts[name] = known[text]
    return verdicts


def _text(prediction: str) -> str:
    return "\n".join(split_lines(prediction))


def _before_running(text: str) -> Verdict | None:
    """What can be said of a prediction by reading it."""
    lines = split_lines(text)
    if not lines:
        return Verdict(EMPTY)
    # Each line by itself: a quote or a bracket left open must not swallow the test's own lines.
    if any(parse_python_line(line) is None for line in lines):
        return Verdict(ERROR, detail="not valid syntax")
    return None

"""Mines records from unit tests: those that ship inside installed packages (the embedded corpus), or a source tree's.

Nothing is redistributed and nothing is imported: the packages' own test files are parsed where they lie.
The default takes the packages that distillctl itself depends on and that ship their tests, so the corpus is
a function of the installed versions alone; ``packages`` chooses others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from distillctl.core.data import java_tests, python_tests
from distillctl.core.data.found_tests import Call, FileTests, FoundTest
from distillctl.core.data.java_definitions import JavaDefinitions
from distillctl.core.data.python_definitions import PythonDefinitions
from distillctl.core.data.records import MASK, Record
from distillctl.core.data.source_files import PackageFiles, is_python_test, read_source
from distillctl.core.data.splits import Split, split_records
from distillctl.core.errors import DataError, RunError

MINER_VERSION = 2  # part of the cache key: raise it when the records change
LARGEST_TEST = 12_000  # characters; beyond it the mask's surroundings say little about the method under test
LONGEST_ASSERTION = 400  # characters; nobody expects a model to write a table of constants
READING = (
    "test_files",
    "test_files_not_read",  # too large, or not UTF-8
    "test_files_with_syntax_errors",
    "tests_left_out_for_syntax_errors",
)
FILES_AT_A_TIME = 16  # what a worker process gets; fewer are not worth a process

# Their few test files serve those who write database drivers, and they came with the sweep: without them the default
# corpus stays the one that earlier runs were made with.
_NOT_MINED = {"alembic", "sqlalchemy"}


class Definitions(Protocol):
    """Finds the method under test in a package's own sources."""

    def focal_method(self, test_name: str, calls: Sequence[Call], test_file: str) -> str:
        """Its source, empty where it is unknown. ``calls`` are those that the reader of the input sees, in order."""
        ...


_READERS: dict[str, Callable[[str], FileTests]] = {"python": python_tests.read_tests, "java": java_tests.read_tests}
_DEFINITIONS: dict[str, Callable[[PackageFiles], Definitions]] = {
    "python": PythonDefinitions,
    "java": JavaDefinitions,
}


@dataclass(frozen=True, slots=True)
class MinedCorpus:
    """Records by split, and what happened on the way.

    ``reading`` counts test files, and of them those that could not be read or parsed.
    """

    splits: dict[Split, list[Record]]
    counts: dict[str, int]
    packages: dict[str, str]
    reading: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _MinedFile:
    tests: tuple[FoundTest, ...] = ()
    not_read: bool = False
    broken: bool = False
    tests_left_out: int = 0


def dependency_names(distribution: str = "distillctl") -> list[str]:
    """Names of all installed distributions that one requires, directly or not, extras left out. Sorted."""
    names: set[str] = set()
    pending = [distribution]
    while pending:
        try:
            requires = importlib.metadata.requires(pending.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in requires:
            match = re.match(r"[A-Za-z0-9][\w.-]*", requirement)
            marker = requirement.partition(";")[2]
            if match is None or re.search(r"\bextra\b", marker):
                continue
            name = canonical_name(match.group())
            if name not in names:
                names.add(name)
                pending.append(name)
    return sorted(name for name in names if installed_version(name))


def canonical_name(name: str) -> str:
    """A distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
        return None


def locate(name: str) -> PackageFiles | None:
    """Finds a distribution's test files and sources by its own file list; None when it is not installed."""
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    tests: list[str] = []
    sources: list[str] = []
    for file in distribution.files or ():
        if file.suffix != ".py" or ".." in file.parts:
            continue
        (tests if is_python_test(file.parts) else sources).append(str(file.as_posix()))
    root = Path(str(distribution.locate_file("")))
    return PackageFiles(canonical_name(name), distribution.version, root, tuple(sorted(tests)), tuple(sorted(sources)))


def choose_packages(names: Sequence[str] | None) -> tuple[list[PackageFiles], list[str]]:
    """The packages to mine, by name, and notes on those passed over. Raises DataError when none is left."""
    wanted = {canonical_name(name) for name in names} if names else set(dependency_names()) - _NOT_MINED
    packages, notes = [], []
    for name in sorted(wanted):  # the order in which they are named changes nothing
        found = locate(name)
        if found is None:
            notes.append(f"{name}: not installed, skipped")
        elif not found.tests:
            if names:
                notes.append(f"{name} {found.version}: ships no tests, skipped")
        else:
            packages.append(found)
    if not packages:
        detail = "; ".join(notes) or "no dependency of distillctl ships tests here"
        raise DataError(
            f"no package to mine tests from ({detail}). Install one that ships its tests "
            "(pip install numpy pandas sympy networkx), choose with --packages, or pass --data FILE.jsonl"
        )
    return packages, notes


def mine(
    packages: Sequence[PackageFiles],
    mask: str = "one",
    max_per_test: int = 3,
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MinedCorpus:
    """Parses the packages' tests and makes records of them, split by file, without duplicates.

    ``mask="one"``: a record per assertion (at most ``max_per_test`` a test, chosen by a hash), the others
    visible.
    ``mask="all"``: a record per test with at most ``max_per_test`` assertions, all of them masked.
    Raises RunError when a worker process dies.
    """
    jobs = [(package.language, str(package.root), file) for package in packages for file in package.tests]
    names = [package.name for package in packages for _ in package.tests]
    tests: dict[str, list[tuple[str, FoundTest]]] = defaultdict(list)
    reading = dict.fromkeys(READING, 0)
    mined = _mine_files(jobs, workers)
    for done, (project, (_, _, file), found) in enumerate(zip(names, jobs, mined, strict=True), start=1):
        tests[project] += [(file, test) for test in found.tests]
        for name, count in zip(reading, (1, found.not_read, found.broken, found.tests_left_out), strict=True):
            reading[name] += count
        on_progress(done, len(jobs))
    records: list[Record] = []
    for package in packages:
        definitions = _DEFINITIONS[package.language](package)
        for file, test in tests[package.name]:
            records += _records_of_test(package, file, test, definitions, mask, max_per_test)
    return _clean(records, packages, reading)


def _mine_files(jobs: Sequence[tuple[str, str, str]], workers: int) -> Iterator[_MinedFile]:
    if workers < 2 or len(jobs) <= FILES_AT_A_TIME:
        yield from map(_mine_file, jobs)
        return
    # spawn: the parent may hold threads (progress bars, BLAS), which fork would copy in an undefined state
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_mine_file, jobs, chunksize=FILES_AT_A_TIME)
        except BrokenProcessPool as error:
            raise RunError(
                "a process that was mining tests died, perhaps for want of memory. "
                "Free memory, or choose fewer --packages"
            ) from error


def _mine_file(job: tuple[str, str, str]) -> _MinedFile:
    language, root, file = job
    text = read_source(Path(root) / file)
    # Parsing is the cost: a file without the word, or with our own mask in it, is not worth it.
    if "assert" not in text or "<extra_id_" in text:
        return _MinedFile(not_read=not text and not _is_empty(Path(root) / file))
    found = _READERS[language](text)
    tests = tuple(test for test in found.tests if len(test.text) <= LARGEST_TEST)
    return _MinedFile(tests, broken=found.broken, tests_left_out=found.tests_left_out)


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _records_of_test(
    package: PackageFiles, file: str, test: FoundTest, definitions: Definitions, mask: str, max_per_test: int
) -> list[Record]:
    identity = f"{package.name}/{file}::{test.qualified_name}"
    lines = [assertion.line for assertion in test.assertions]
    usable = [index for index, line in enumerate(lines) if line and len(line) <= LONGEST_ASSERTION]
    if mask == "all":
        groups = [usable] if len(usable) == len(lines) <= max_per_test else []
    else:
        if len(usable) > max_per_test:
            usable = sorted(random.Random(identity).sample(usable, max_per_test))
        groups = [[index] for index in usable]
    return [
        Record(
            id=identity if mask == "all" else f"{identity}@{group[0]}",
            language=package.language,
            project=package.name,
            path=file,
            focal_method=definitions.focal_method(test.qualified_name, test.calls_before(group), file),
            test_method_masked=test.masked(group, MASK),
            assertions=tuple(line for index in group if (line := lines[index])),
        )
        for group in groups
    ]


def _clean(records: list[Record], packages: Sequence[PackageFiles], reading: dict[str, int]) -> MinedCorpus:
    """Drops repeated examples and near-duplicates across splits; one id, one record."""
    unique: dict[str, Record] = {}
    ids: dict[str, int] = defaultdict(int)
    for record in records:
        if record.key in unique:
            continue
        ids[record.id] += 1
        if ids[record.id] > 1:  # a test defined twice in one file (platform branches)
            test, at, place = record.id.partition("@")
            record = replace(record, id=f"{test}#{ids[record.id]}{at}{place}")
        unique[record.key] = record
    splits, near = split_records(list(unique.values()))
    counts = {
        "repeated": len(records) - len(unique),
        "near_duplicates_across_splits": near,
        "with_focal_method": sum(bool(r.focal_method) for part in splits.values() for r in part),
    }
    return MinedCorpus(splits, counts, {p.name: p.version for p in packages}, reading)


def corpus_key(packages: Sequence[PackageFiles], mask: str, max_per_test: int, *, contents: bool = False) -> str:
    """Cache key: miner version, package versions, and the form of the records.

    With ``contents`` also what is in the packages' files: whoever works on a package does not raise its version each
    time.
    """
    parts = [str(MINER_VERSION), mask, str(max_per_test), *(f"{p.name}=={p.version}" for p in packages)]
    if contents:
        parts += [f"python {sys.version_info.major}.{sys.version_info.minor}", *map(_digest, packages)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _digest(package: PackageFiles) -> str:
    digest = hashlib.sha256()
    for name in (*package.tests, *package.sources):
        content = read_source(package.root / name).encode("utf-8")
        digest.update(f"{name}\n{len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()

"""Mines the embedded corpus: real unit tests that ship inside installed packages.

Nothing is redistributed and nothing is imported: the packages' own test files are parsed where they lie.
The default takes the packages that distillctl itself depends on and that ship their tests, so the corpus is
a function of the installed versions alone; ``packages`` chooses others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import random
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from distillctl.core.data.python_tests import FoundTest, find_tests
from distillctl.core.data.records import MASK, Record
from distillctl.core.data.splits import Split, split_records
from distillctl.core.errors import DataError, RunError

MINER_VERSION = 2  # part of the cache key: raise it when the records change
LARGEST_FILE = 2_000_000  # bytes; generated test tables are larger
LARGEST_TEST = 12_000  # characters; beyond it the mask's surroundings say little about the method under test
LONGEST_ASSERTION = 400  # characters; nobody expects a model to write a table of constants
FILES_AT_A_TIME = 16  # what a worker process gets; fewer are not worth a process

_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
# Their few test files serve those who write database drivers, and they came with the sweep: without them the default
# corpus stays the one that earlier runs were made with.
_NOT_MINED = {"alembic", "sqlalchemy"}
_TEST_DIRECTORY = {"test", "tests"}
# Calls that every test makes: naming them as the method under test would say nothing.
_NEVER_FOCAL = re.compile(r"^(assert|raises$|warns$|skip|fail$|param$|parametrize$|mark$|__)")


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """An installed distribution and its Python files."""

    name: str
    version: str
    root: Path
    tests: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MinedCorpus:
    """Records by split, and what happened on the way."""

    splits: dict[Split, list[Record]]
    counts: dict[str, int]
    packages: dict[str, str]


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
        is_test = bool(_TEST_DIRECTORY & set(file.parts[:-1])) or file.name.startswith("test_")
        (tests if is_test else sources).append(str(file.as_posix()))
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
    jobs = [(package.name, str(package.root), file) for package in packages for file in package.tests]
    tests: dict[str, list[tuple[str, FoundTest]]] = defaultdict(list)
    for done, ((project, _, file), found) in enumerate(zip(jobs, _mine_files(jobs, workers), strict=True), start=1):
        tests[project] += [(file, test) for test in found]
        on_progress(done, len(jobs))
    records: list[Record] = []
    for package in packages:
        definitions = DefinitionIndex(package)
        for file, test in tests[package.name]:
            records += _records_of_test(package.name, file, test, definitions, mask, max_per_test)
    return _clean(records, packages)


def _mine_files(jobs: Sequence[tuple[str, str, str]], workers: int) -> Iterator[list[FoundTest]]:
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


def _mine_file(job: tuple[str, str, str]) -> list[FoundTest]:
    _, root, file = job
    text = read_source(Path(root) / file)
    # Parsing is the cost: a file without the word, or with our own mask in it, is not worth it.
    if "assert" not in text or "<extra_id_" in text:
        return []
    return [test for test in find_tests(text) if len(test.text) <= LARGEST_TEST]


def read_source(path: Path) -> str:
    """A source file's text; empty where it is missing, too large or not UTF-8: rare, not worth a stop."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return ""
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


class DefinitionIndex:
    """Where each function name is defined in a package's own sources (tests left out)."""

    def __init__(self, package: PackageFiles) -> None:
        self._root = package.root
        self._places: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for file in package.sources:
            text = read_source(package.root / file)
            line = position = 0
            for match in _DEFINITION.finditer(text):
                line += text.count("\n", position, match.start(1))
                position = match.start(1)
                self._places[match.group(1)].append((file, line))

    def focal_method(self, test_name: str, calls: Iterable[str], test_file: str) -> str:
        """Source of the method under test: the called function the test is named after, else the last call.

        ``calls`` are names in the order in which the calls run.
        """
        called = [name for name in calls if name in self._places and not _NEVER_FOCAL.match(name)]
        words = f"_{test_name.rsplit('.', 1)[-1].lower()}_"
        named = [name for name in called if f"_{name.lower().strip('_')}_" in words]
        candidates = sorted(named, key=len)[-1:] or called[-1:]
        return self._source(candidates[0], test_file) if candidates else ""

    def _source(self, name: str, test_file: str) -> str:
        """The definition that stands nearest to the test in the tree."""
        home = test_file.split("/")

        def nearness(place: tuple[str, int]) -> int:
            shared = 0
            for ours, theirs in zip(home, place[0].split("/"), strict=False):
                if ours != theirs:
                    break
                shared += 1
            return shared

        file, line = max(self._places[name], key=nearness)
        return _block(self._root / file, line)


@lru_cache(maxsize=256)
def _lines(path: Path) -> tuple[str, ...]:
    # Not splitlines(): it also splits at form feeds, which are no line ends to Python or to the index.
    return tuple(f"{line}\n" for line in read_source(path).split("\n"))


@lru_cache(maxsize=65536)
def _block(path: Path, line: int) -> str:
    """The function that starts on a line, dedented, its formatting kept."""
    lines = list(_lines(path)[line : line + 400])
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    try:
        block = inspect.getblock(lines)
    except (tokenize.TokenError, SyntaxError):
        return ""
    return "".join(text.removeprefix(indent) for text in block).rstrip()


def _records_of_test(
    project: str, file: str, test: FoundTest, definitions: DefinitionIndex, mask: str, max_per_test: int
) -> list[Record]:
    identity = f"{project}/{file}::{test.qualified_name}"
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
            language="python",
            project=project,
            path=file,
            focal_method=definitions.focal_method(test.qualified_name, _visible_calls(test, group), file),
            test_method_masked=test.masked(group, MASK),
            assertions=tuple(line for index in group if (line := lines[index])),
        )
        for group in groups
    ]


def _visible_calls(test: FoundTest, hidden: Sequence[int]) -> list[str]:
    """Names of the calls before the last hidden assertion that stay in the text.

    Hidden ones must not choose the focal method, or the input would tell about the target.
    """
    spans = [(test.assertions[index].start, test.assertions[index].end) for index in hidden]
    last_start = spans[-1][0]
    return [
        name for end, name in test.calls if end <= last_start and not any(start < end <= stop for start, stop in spans)
    ]


def _clean(records: list[Record], packages: Sequence[PackageFiles]) -> MinedCorpus:
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
    return MinedCorpus(splits, counts, {p.name: p.version for p in packages})


def corpus_key(packages: Sequence[PackageFiles], mask: str, max_per_test: int) -> str:
    """Cache key: miner version, package versions, and the form of the records."""
    parts = [str(MINER_VERSION), mask, str(max_per_test), *(f"{p.name}=={p.version}" for p in packages)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

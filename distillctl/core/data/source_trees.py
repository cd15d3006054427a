"""Records from any source tree: a checkout of a Java or Python project, mined like the installed packages."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillctl.core.data.corpus import Corpus, Progress
from distillctl.core.data.mining import mine
from distillctl.core.data.records import LANGUAGES
from distillctl.core.data.source_files import PackageFiles, is_java_test, is_python_test_of_a_tree
from distillctl.core.data.splits import Split
from distillctl.core.errors import DataError, UsageError

_SUFFIXES = {"python": ".py", "java": ".java"}
_IS_TEST: dict[str, Callable[[Sequence[str]], bool]] = {"python": is_python_test_of_a_tree, "java": is_java_test}
# Not the project's own code. Hidden folders are passed over too.
_FOREIGN = {"node_modules", "site-packages", "venv", "__pycache__"}
# Generated, but only beside a build file: a package may bear such a name.
_OUTPUTS = {"build", "target", "dist"}
_BUILD_FILES = {"pom.xml", "build.gradle", "build.gradle.kts", "build.xml", "setup.py", "setup.cfg", "pyproject.toml"}


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A folder to mine, its language, and what its records call it."""

    root: Path
    language: str
    project: str


def source_trees(folders: Sequence[str], language: str | None, projects: Sequence[str] = ()) -> list[SourceTree]:
    """What a command line names: folders of one language, called by their own names unless ``projects`` has others.

    Raises UsageError for a folder that is not there, an unknown language, and names that are missing or not distinct:
    a record's split is decided by its project and path.
    """
    if language not in LANGUAGES:
        found = "" if language is None else f" Found {language!r}"
        raise UsageError(f"--language should be one of {', '.join(LANGUAGES)}.{found}")
    if projects and len(projects) != len(folders):
        raise UsageError(f"--project: {len(projects)} given for {len(folders)} --source. Give one for each, or none")
    trees = []
    for number, folder in enumerate(folders):
        root = Path(folder)
        if not root.is_dir():
            raise UsageError(f"--source {folder}: {'is a file' if root.exists() else 'no such folder'}. Give a folder")
        name = projects[number] if projects else root.resolve().name
        if not name.strip() or not name.isprintable():
            raise UsageError(f"--source {folder}: cannot name a project. Give it a name with --project")
        trees.append(SourceTree(root, language, name))
    twice = [name for name, count in Counter(tree.project for tree in trees).items() if count > 1]
    if twice:
        raise UsageError(f"two sources are called {twice[0]!r}: tell them apart with one --project for each --source")
    return trees


def tree_files(tree: SourceTree) -> PackageFiles:
    """The tree's files in its language, tests apart from sources. Links are not followed.

    Raises UsageError for a folder that cannot be read, DataError where there is no test file or one cannot be named.
    """
    tests: list[str] = []
    sources: list[str] = []
    for folder, folders, files in os.walk(tree.root, onerror=_cannot_read):
        foreign = _FOREIGN | (_OUTPUTS if _BUILD_FILES & set(files) else set())
        folders[:] = sorted(name for name in folders if name not in foreign and not name.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if path.suffix != _SUFFIXES[tree.language] or path.is_symlink():
                continue
            parts = path.relative_to(tree.root).parts
            is_test = _IS_TEST[tree.language](parts)
            if is_test and not _is_utf8("/".join(parts)):  # its records would hold the name
                raise DataError(f"{tree.root}: {name!a}: its name is not UTF-8. Rename it")
            (tests if is_test else sources).append("/".join(parts))
    if not tests:
        raise DataError(
            f"{tree.root}: no {tree.language} test file below it (by their names, or in a folder test or tests). "
            "Give the project's own folder, and the right --language"
        )
    return PackageFiles(tree.project, "", tree.root, tuple(tests), tuple(sources), tree.language)


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _cannot_read(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error


def source_corpus(
    trees: Sequence[SourceTree],
    mask: str,
    max_per_test: int,
    on_progress: Progress = lambda done, total: None,
) -> Corpus:
    """The records of some trees, split by file, without duplicates; ``counts`` says too what could not be read.

    Nothing is cached: a project is parsed in seconds, and trees change under one's hands.

    Raises:
        UsageError: a folder cannot be read.
        DataError: there is no test file, or none with an assertion to mask.
        RunError: a worker process died.
    """
    mined = mine([tree_files(tree) for tree in trees], mask, max_per_test, min(8, os.cpu_count() or 1), on_progress)
    sizes: dict[Split, int] = {split: len(records) for split, records in mined.splits.items()}
    names = ", ".join(tree.project for tree in trees)
    if not any(sizes.values()):
        raise DataError(
            f"{names}: no test with an assertion to mask (of {mined.reading['test_files']:,} test files "
            f"{mined.reading['test_files_not_read']:,} could not be read and "
            f"{mined.reading['test_files_with_syntax_errors']:,} have syntax errors)"
        )
    return Corpus(f"source trees {names}", mined.reading | mined.counts, {}, (), mined.splits.__getitem__, sizes)

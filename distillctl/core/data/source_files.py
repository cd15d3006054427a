"""The files that tests are mined from: an installed package's or a source tree's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LARGEST_FILE = 2_000_000  # bytes; generated test tables are larger

_TEST_DIRECTORIES = {"test", "tests"}


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """An installed distribution or a source tree, and its files in one language, as paths below ``root``."""

    name: str
    version: str
    root: Path
    tests: tuple[str, ...]
    sources: tuple[str, ...]
    language: str = "python"


def is_python_test(parts: Sequence[str]) -> bool:
    """Is a file, by the parts of its path, one of a package's tests?"""
    return bool(_TEST_DIRECTORIES & set(parts[:-1])) or parts[-1].startswith("test_")


def is_python_test_of_a_tree(parts: Sequence[str]) -> bool:
    """Is a file of a source tree one of its tests? Also by pytest's other pattern, and by Django's."""
    return is_python_test(parts) or parts[-1].endswith("_test.py") or parts[-1] == "tests.py"


_JAVA_TEST = re.compile(r"(Test|Tests|TestCase|IT|ITCase)\.java$|^Test[A-Z0-9_]\w*\.java$")


def is_java_test(parts: Sequence[str]) -> bool:
    """The same of a Java file.

    What lies below the source set ``main`` (``src/main``) is none, whatever its package is called (``org.x.test``).
    """
    folders = parts[:-1]
    places = (n for n, name in enumerate(folders) if name == "main" and (n == 0 or folders[n - 1] == "src"))
    main = next(places, None)
    if main is not None and "test" not in folders[:main]:
        return False
    return bool(_TEST_DIRECTORIES & set(folders)) or bool(_JAVA_TEST.search(parts[-1]))


def read_source(path: Path) -> str:
    """A source file's text; empty where it is missing, too large or not UTF-8: rare, not worth a stop."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return ""
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def shared_start(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many first elements two paths have in common."""
    shared = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        shared += 1
    return shared

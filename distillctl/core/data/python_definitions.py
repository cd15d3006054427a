"""Which Python function a test is about: by what it calls, and what it is named after."""

from __future__ import annotations

import inspect
import re
import tokenize
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from distillctl.core.data.found_tests import Call
from distillctl.core.data.source_files import PackageFiles, read_source, shared_start

_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
# Calls that every test makes: naming them as the method under test would say nothing.
_NEVER_FOCAL = re.compile(r"^(assert|raises$|warns$|skip|fail$|param$|parametrize$|mark$|__)")


class PythonDefinitions:
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

    def focal_method(self, test_name: str, calls: Sequence[Call], test_file: str) -> str:
        """Source of the method under test: the called function the test is named after, else the last call.

        ``calls`` stand in the order in which they run.
        """
        called = [call.name for call in calls if call.name in self._places and not _NEVER_FOCAL.match(call.name)]
        words = f"_{test_name.rsplit('.', 1)[-1].lower()}_"
        named = [name for name in called if f"_{name.lower().strip('_')}_" in words]
        candidates = sorted(named, key=len)[-1:] or called[-1:]
        return self._source(candidates[0], test_file) if candidates else ""

    def _source(self, name: str, test_file: str) -> str:
        """The definition that stands nearest to the test in the tree."""
        home = test_file.split("/")

        file, line = max(self._places[name], key=lambda place: shared_start(home, place[0].split("/")))
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

"""What pytest collected, and how it is asked to. Runs inside the sandbox; standard library and pytest only."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

WITHOUT_DATA = (
    "matplotlib.tests",
    "mpl_toolkits.axes_grid1.tests",
    "mpl_toolkits.axisartist.tests",
    "mpl_toolkits.mplot3d.tests",
)
"""Packages of tests that refuse to be imported because wheels leave out data that few of them need (matplotlib's
reference images): they are taken for imported, and tests that need the data fail as golds."""

Job = dict[str, Any]


def pytest_arguments(files: Sequence[str], spec: dict[str, Any]) -> list[str]:
    """No plugins but the packages' own conftest files, no cache, no rewriting of assertions, nothing printed."""
    return [
        *files,
        "-c",
        os.devnull,
        f"--rootdir={spec['package_root']}",
        f"--confcutdir={spec['package_root']}",
        "--assert=plain",
        "--capture=no",
        "--tb=line",
        "--continue-on-collection-errors",
        *("-qq", "-o", "consider_namespace_packages=true", "-p", "no:cacheprovider", "-p", "no:faulthandler"),
    ]


def take_for_imported(package_root: str) -> None:
    """Puts the packages :data:`WITHOUT_DATA` where their import would look first."""
    for name in WITHOUT_DATA:
        folder = Path(package_root, *name.split("."))
        if (folder / "__init__.py").is_file():
            module = ModuleType(name)
            module.__path__ = [str(folder)]
            module.__file__ = str(folder / "__init__.py")
            sys.modules[module.__name__] = module


class Collected:
    """Tests that pytest collected, by file and name; ``most`` parameter sets of one test are run, evenly spaced."""

    def __init__(self, items: Sequence[Any], most: int) -> None:
        self._most = most
        self._by_name: dict[tuple[str, str], list[Any]] = {}
        for item in items:
            if isinstance(item, pytest.Function):
                for name in _names(item):
                    self._by_name.setdefault((os.path.realpath(item.path), name), []).append(item)
        self._functions = _functions_of({file for file, _ in self._by_name})

    def functions(self, job: Job) -> list[FunctionType]:
        """The function objects made by the job's definition, below whatever decorators wrapped around them."""
        name = job["name"].rpartition(".")[2]
        return self._functions.get((os.path.realpath(job["file"]), job["line"], name), [])

    def items(self, job: Job) -> list[Any]:
        """The parameter sets of a job's test, or those of them that the job names."""
        found = self._by_name.get((os.path.realpath(job["file"]), job["name"]), [])
        if job["items"] is not None:
            return [item for item in found if item.nodeid in job["items"]]
        step = max(1, -(-len(found) // self._most))
        return found[::step]


def _names(item: Any) -> Iterator[str]:
    """Dotted names under which a test's function may stand in its file: of its class, or of one it inherits from."""
    name = item.originalname or item.name
    if item.cls is None:
        yield name
        return
    for place in item.cls.__mro__:
        if place.__module__ == item.module.__name__ and name in vars(place):
            yield f"{place.__qualname__}.{name}"
            return


def _functions_of(files: set[str]) -> dict[tuple[str, int, str], list[FunctionType]]:
    """Every function object of some files by file, line and name. Asks the garbage collector, so before a freeze."""
    real: dict[str, str] = {}
    found: dict[tuple[str, int, str], list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            code = thing.__code__
            if code.co_filename not in real:
                real[code.co_filename] = os.path.realpath(code.co_filename)
            file = real[code.co_filename]
            if file in files:
                found.setdefault((file, code.co_firstlineno, code.co_name), []).append(thing)
    return found

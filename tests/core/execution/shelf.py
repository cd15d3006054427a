"""A small installed package, ``shelf``, whose tests use what real ones do, and records mined from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl.core.data.mining import locate, mine
from distillctl.core.data.records import Record
from distillctl.core.data.splits import SPLITS
from distillctl.core.execution import placing, sandbox
from distillctl.core.execution.sandbox import Isolation
from distillctl.core.execution.session import Limits, Session
from tests.core.data.test_mining import install

CORE = """\
class Shelf:
    def __init__(self, things):
        self.things = list(things)

    def count(self):
        return len(self.things)
"""
CONFTEST = """\
import pytest

from shelf.core import Shelf


@pytest.fixture
def shelf():
    return Shelf("abc")
"""
TESTS = '''\
"""Tests of the shelf."""
from __future__ import annotations

import functools
import unittest

import pytest

from ..core import Shelf
from .names import FIRST


def noted(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


def test_fixture(shelf):
    size = shelf.count()
    assert size == 3
    assert shelf.things[0] == FIRST


@pytest.mark.parametrize("n", range(50))
@noted
def test_parameters(n):
    shelf = Shelf(range(n))
    assert shelf.count() == n


class TestShelf(unittest.TestCase):
    __size = 2

    def setUp(self):
        super().setUp()
        self.shelf = Shelf("ab")

    def test_private(self):
        text = """kept
    as it is"""
        super().setUp()
        if text: self.assertEqual(
            self.shelf.count(),  # é
            self.__size,
        ); self.shelf = None

    def test_subtests(self):
        for n in (1, 2):
            with self.subTest(n=n):
                self.assertTrue(self.shelf.count() >= n)


class Base:
    def test_inherited(self):
        made = self.make()
        assert made.count() == 0


class TestDerived(Base):
    def make(self):
        return Shelf("")


def test_wrong():
    broken = Shelf("a")
    assert broken.count() == 2


@pytest.mark.skip(reason="not today")
def test_skipped():
    later = Shelf("xyz")
    assert later.count() == 3


def helper():
    def test_inner():
        assert True


def test_unreached(shelf):
    if not shelf:
        assert shelf.count() == 7
'''
FILES = {
    "shelf/__init__.py": "",
    "shelf/core.py": CORE,
    "shelf/tests/__init__.py": "",
    "shelf/tests/names.py": "FIRST = 'a'\n",
    "shelf/tests/conftest.py": CONFTEST,
    "shelf/tests/test_shelf_1.py": TESTS,
    "shelf/tests/test_broken_0.py": "import not_installed\n\n\ndef test_never():\n    one = 1\n    assert one == 1\n",
}


def install_shelf(site: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    """Installs the package; its records by what follows ``::``."""
    placing.forget()
    install(site, monkeypatch, "shelf", FILES)
    package = locate("shelf")
    assert package is not None
    corpus = mine([package], "one", workers=1)
    return {record.id.partition("::")[2]: record for split in SPLITS for record in corpus.splits[split]}


def skip_without_sandbox() -> None:
    """Skips a test, with the system's reason, where there can be no sandbox."""
    reason = sandbox.refusal()
    if reason is not None:
        pytest.skip(f"this system allows no sandbox: {reason}")


def open_session(record: Record, timeout: float = 30.0, *, sandboxed: bool = True) -> Session:
    """A session for a record's file."""
    if sandboxed:
        skip_without_sandbox()
    place = placing.find_place(record)
    assert place is not None
    return Session(place.root, [place.file], Limits(timeout, Isolation(sandboxed)))

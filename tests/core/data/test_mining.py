"""Mining reads other packages' tests as they lie, and the input never tells about the target."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.data import mining
from distillctl.core.data.mining import (
    PackageFiles,
    choose_packages,
    corpus_key,
    dependency_names,
    locate,
    mine,
)
from distillctl.core.data.records import Record
from distillctl.core.data.source_files import read_source
from distillctl.core.data.splits import SPLITS, split_of
from distillctl.core.errors import DataError, RunError

CORE = '''\
"""Adds."""


def add(a, b):
    """Sum of a and b."""
    return a + b


class Box:
    def open(self, key):
        # é
        return key


def make_box():
    return Box()
'''

TESTS = """\
from demo.core import add, make_box


def test_add():
    box = make_box()
    total = add(1, 2)
    assert total == 3


class TestBox:
    def test_unnamed(self):
        box = make_box()
        assert box.open("key") == "key"
        assert box.open("other") == "other"
"""


def install(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    files: Mapping[str, str | bytes],
    version: str = "1.0",
    requires: Sequence[str] = (),
) -> None:
    """Writes a distribution's files, METADATA and RECORD under ``site``, which becomes importable."""
    for path, content in files.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    (info / "METADATA").write_text("\n".join(metadata) + "\n", encoding="utf-8")
    record = [*(f"{path},," for path in files), f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(record) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()


def install_demo(site: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str | bytes] | None = None) -> None:
    """The distribution ``demo-pkg`` with a few functions and tests."""
    content = {
        "demo/__init__.py": "",
        "demo/core.py": CORE,
        "demo/tests/test_core.py": TESTS,
        **(files or {}),
    }
    install(site, monkeypatch, "Demo_Pkg", content)


ADD = 'def add(a, b):\n    """Sum of a and b."""\n    return a + b'
OPEN = "def open(self, key):\n    # é\n    return key"
MAKE_BOX = "def make_box():\n    return Box()"


@pytest.fixture
def mine_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Record]]:
    """Installs a package with one test file (and others) and mines it: records by what follows ``::``."""

    def run(tests: str | bytes, mask: str = "one", max_per_test: int = 3, **files: str) -> dict[str, Record]:
        others = {path.replace("__", "/") + ".py": text for path, text in files.items()}
        install_demo(tmp_path, monkeypatch, {**others, "demo/tests/test_core.py": tests})
        package = locate("demo-pkg")
        assert package is not None
        corpus = mine([package], mask, max_per_test, workers=1)
        records = [record for split in SPLITS for record in corpus.splits[split]]
        found = {record.id.partition("::")[2]: record for record in records}
        assert len(found) == len(records)
        return found

    return run


def test_a_distribution_is_found_by_its_own_file_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib" / "site"
    install_demo(
        site,
        monkeypatch,
        {
            "demo/test_top.py": "",
            "demo/testing.py": "",
            "demo/test/data.txt": "",
            "demo/test/helper.py": "",
            "../../bin/test_script.py": "",
        },
    )
    (site / "demo" / "test_stray.py").write_text("def test(): assert 1", encoding="utf-8")
    expected = PackageFiles(
        "demo-pkg",
        "1.0",
        site,
        ("demo/test/helper.py", "demo/test_top.py", "demo/tests/test_core.py"),
        ("demo/__init__.py", "demo/core.py", "demo/testing.py"),
    )
    for name in ("demo-pkg", "Demo_Pkg", "demo.pkg"):
        assert locate(name) == expected
    assert locate("demo-pk") is None
    assert locate("") is None


def test_the_default_is_every_installed_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        monkeypatch,
        "fake-app",
        {},
        requires=[
            "Fake.Lib (>=1.0); python_version > '3'",
            "fake-absent",
            'fake-only-extra; extra == "test"',
            "fake-only-extra ; 'test' == extra",
        ],
    )
    install(tmp_path, monkeypatch, "fake-lib", {}, requires=["fake_deep[extra-thing]>=2", "fake-app"])
    install(tmp_path, monkeypatch, "fake-deep", {})
    install(tmp_path, monkeypatch, "fake-only-extra", {})
    assert dependency_names("fake-app") == ["fake-app", "fake-deep", "fake-lib"]
    assert dependency_names("fake-absent") == []


def test_packages_without_tests_are_passed_over_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_demo(tmp_path, monkeypatch)
    install(tmp_path, monkeypatch, "bare", {"bare.py": "x = 1"}, version="2.1")
    packages, notes = choose_packages(["no-such-thing", "DEMO.pkg", "bare", "demo_pkg", ""])
    assert [package.name for package in packages] == ["demo-pkg"]
    assert notes == [
        ": not installed, skipped",
        "bare 2.1: ships no tests, skipped",
        "no-such-thing: not installed, skipped",
    ]


def test_packages_that_came_with_the_sweep_leave_the_default_corpus_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_demo(tmp_path, monkeypatch)
    monkeypatch.setattr(mining, "dependency_names", lambda: ["alembic", "demo-pkg", "sqlalchemy"])
    assert [package.name for package in choose_packages(None)[0]] == ["demo-pkg"]
    assert [package.name for package in choose_packages(["sqlalchemy"])[0]] == ["sqlalchemy"]


def test_no_package_left_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "bare", {"bare.py": "x = 1"})
    with pytest.raises(DataError) as caught:
        choose_packages(["bare"])
    for part in ("bare 1.0: ships no tests", "pip install numpy", "--packages", "--data FILE.jsonl"):
        assert part in str(caught.value)
    monkeypatch.setattr(mining, "dependency_names", lambda: ["bare"])
    with pytest.raises(DataError, match="no dependency of distillctl ships tests here"):
        choose_packages(None)


def test_one_record_an_assertion(mine_tests: Callable[..., dict[str, Record]]) -> None:
    found = mine_tests(TESTS)
    assert list(found) == ["test_add@0", "TestBox.test_unnamed@0", "TestBox.test_unnamed@1"]
    assert found["test_add@0"] == Record(
        id="demo-pkg/demo/tests/test_core.py::test_add@0",
        language="python",
        project="demo-pkg",
        path="demo/tests/test_core.py",
        focal_method=ADD,
        test_method_masked="def test_add():\n    box = make_box()\n    total = add(1, 2)\n    <extra_id_0>",
        assertions=("assert total == 3",),
    )
    assert found["TestBox.test_unnamed@1"].test_method_masked == (
        'def test_unnamed(self):\n    box = make_box()\n    assert box.open("key") == "key"\n    <extra_id_0>'
    )


def test_a_hidden_assertion_does_not_choose_the_focal_method(
    mine_tests: Callable[..., dict[str, Record]],
) -> None:
    found = mine_tests(
        """
def test_open():
    box = make_box()
    assert box.open("key") == "key"
    assert box.open("other") == "other"
    add(1, 2)
"""
    )
    assert found["test_open@0"].focal_method == MAKE_BOX  # the name fits only what is hidden or comes later
    assert found["test_open@1"].focal_method == OPEN


def test_none_of_several_hidden_assertions_chooses_it(mine_tests: Callable[..., dict[str, Record]]) -> None:
    tests = 'def test_open():\n    assert box.open("a")\n    make_box()\n    assert open(add(1, 2))\n'
    assert mine_tests(tests, mask="all")["test_open"].focal_method == MAKE_BOX


@pytest.mark.parametrize(
    ("line", "focal"),
    [
        ("box = make_box(); add(1, 2)", ADD),  # the last call
        ("x = add(make_box(), 2)", ADD),  # the outer call runs last
        ("make_box().open(add(1, 2))", OPEN),
        ("pass", ""),
        ("unknown(1); print(2)", ""),
        ("with pytest.raises(E): add(1)", ADD),
    ],
)
def test_the_last_call_to_the_package_is_the_focal_method(
    mine_tests: Callable[..., dict[str, Record]], line: str, focal: str
) -> None:
    (record,) = mine_tests(f"def test_it():\n    {line}\n    assert x == 1\n").values()
    assert record.focal_method == focal


def test_the_test_is_named_after_its_focal_method(mine_tests: Callable[..., dict[str, Record]]) -> None:
    (record,) = mine_tests("def test_add_more():\n    add(1, 2)\n    make_box()\n    assert x\n").values()
    assert record.focal_method == ADD


def test_of_several_definitions_the_nearest_counts(mine_tests: Callable[..., dict[str, Record]]) -> None:
    far, near = "def run():\n    return 'far'", "def run():\n    return 'near'"
    (record,) = mine_tests(
        "def test():\n    run()\n    assert x\n", a_far__core=far, demo__near=near, z_far__core=far
    ).values()
    assert record.focal_method == near


def test_definitions_are_found_behind_form_feeds_and_odd_line_ends(
    mine_tests: Callable[..., dict[str, Record]],
) -> None:
    odd = "'''a\x0cb\u2028c\x1cd'''\n\x0c\nclass A:\n    async def  odd (self):\n        return 1\n\nx = 2\n"
    odd = odd.replace("\n", "\r\n")
    (record,) = mine_tests("def test():\n    odd()\n    assert x\n", demo__odd=odd).values()
    assert record.focal_method == "async def  odd (self):\n    return 1"


def test_all_masks_every_assertion_or_leaves_the_test_out(
    mine_tests: Callable[..., dict[str, Record]],
) -> None:
    tests = """
def test_two():
    assert a
    b = 1
    self.assertEqual(b,
                     1)

def test_four():
    assert a; assert b; assert c; assert d

def test_unjoinable():
    assert a
    assert b == '''
    '''
"""
    found = mine_tests(tests, mask="all")
    assert list(found) == ["test_two"]
    assert found["test_two"].id == "demo-pkg/demo/tests/test_core.py::test_two"
    assert found["test_two"].test_method_masked.endswith("    <extra_id_0>\n    b = 1\n    <extra_id_1>")
    assert found["test_two"].assertions == ("assert a", "self.assertEqual(b, 1)")


def test_all_takes_as_many_assertions_as_configured(mine_tests: Callable[..., dict[str, Record]]) -> None:
    tests = "def test_four():\n    assert a; assert b; assert c; assert d\n"
    assert mine_tests(tests, mask="all", max_per_test=4)["test_four"].assertions == (
        "assert a",
        "assert b",
        "assert c",
        "assert d",
    )


def test_an_assertion_that_is_no_answer_stays_visible(mine_tests: Callable[..., dict[str, Record]]) -> None:
    long = f"assert x == {list(range(200))}"
    found = mine_tests(f"def test():\n    {long}\n    assert y == '''\n    '''\n    assert z\n", max_per_test=1)
    assert list(found) == ["test@2"]
    assert long in found["test@2"].test_method_masked
    assert found["test@2"].assertions == ("assert z",)


def test_of_many_assertions_the_same_few_are_chosen(mine_tests: Callable[..., dict[str, Record]]) -> None:
    tests = "def test():\n" + "".join(f"    assert x == {number}\n" for number in range(20))
    found = mine_tests(tests)
    assert len(found) == 3
    places = [int(name.split("@")[1]) for name in found]
    assert places == sorted(places)
    for place, record in zip(places, found.values(), strict=True):
        assert record.assertions == (f"assert x == {place}",)
        assert record.test_method_masked.count("assert x") == 19


def test_repeats_are_dropped_and_ids_are_unique(mine_tests: Callable[..., dict[str, Record]]) -> None:
    found = mine_tests(
        "def test():\n    assert 1\n\ndef test():\n    assert 1\n\ndef test():\n    assert 2\n\n"
        "def test():\n    return 1\n    assert 3\n"
    )
    assert list(found) == ["test@0", "test#2@0", "test#3@0"]
    assert [record.target for record in found.values()] == ["assert 1", "assert 2", "assert 3"]


@pytest.mark.parametrize(
    "tests",
    [
        "def test():\n    assert x == '<extra_id_0>'\n",
        "def test():\n    check(x)\n",
        "def test(:\n    assert x\n",
        b"def test():\n    assert '\xff'\n",
        f"def test():\n    x = '{'a' * 13_000}'\n    assert x\n",
        f"# {'a' * 2_000_000}\ndef test():\n    assert x\n",
    ],
)
def test_what_cannot_be_used_is_left_out(mine_tests: Callable[..., dict[str, Record]], tests: str | bytes) -> None:
    assert mine_tests(tests) == {}


def test_a_listed_file_that_is_gone_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_demo(tmp_path, monkeypatch)
    package = locate("demo-pkg")
    assert package is not None
    for file in (*package.tests, *package.sources):
        (tmp_path / file).unlink()
    corpus = mine([package], workers=1)
    assert corpus.splits == {"train": [], "dev": [], "validation": []}
    assert read_source(tmp_path) == ""


def many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> PackageFiles:
    body = "def test_{0}():\n    x{0} = add({0}, y{0})\n    assert x{0} == 'a{0}'\n    done{0}(x{0}, x{0})\n"
    files = {f"demo/tests/test_{index}.py": body.format(index) for index in range(number)}
    install_demo(tmp_path, monkeypatch, files)
    package = locate("demo-pkg")
    assert package is not None
    return package


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = many_files(tmp_path, monkeypatch, 20)
    progress: list[tuple[int, int]] = []
    alone = mine([package], workers=1, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 21) for done in range(1, 22)]
    assert mine([package], workers=2) == alone
    assert alone.packages == {"demo-pkg": "1.0"}
    assert alone.counts == {"repeated": 0, "near_duplicates_across_splits": 0, "with_focal_method": 23}
    for split, records in alone.splits.items():
        assert all(split_of(record.project, record.path) == split for record in records)


def test_a_process_that_dies_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, *_: Any, **__: Any) -> Iterator[Any]:
            raise BrokenProcessPool("died")

    monkeypatch.setattr(mining, "ProcessPoolExecutor", Broken)
    with pytest.raises(RunError, match="a process that was mining tests died"):
        mine([many_files(tmp_path, monkeypatch, 20)], workers=2)


def test_near_duplicates_and_copies_of_another_package_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = many_files(tmp_path, monkeypatch, 40)
    copy = many_files(tmp_path / "vendored", monkeypatch, 40)
    copied = PackageFiles("vendored", "1.0", copy.root, copy.tests, copy.sources)
    once, twice = mine([package], workers=1), mine([package, copied], workers=1)
    assert twice.counts["repeated"] == 43
    assert twice.splits == once.splits


def test_the_key_names_versions_and_the_form_of_the_records(tmp_path: Path) -> None:
    def package(version: str, root: Path = tmp_path, name: str = "demo") -> PackageFiles:
        return PackageFiles(name, version, root, ("a.py",), ())

    key = corpus_key([package("1")], "one", 3)
    assert len(key) == 16
    assert corpus_key([package("1", Path("/elsewhere"))], "one", 3) == key
    others = [
        corpus_key([package("2")], "one", 3),
        corpus_key([package("1")], "all", 3),
        corpus_key([package("1")], "one", 2),
        corpus_key([package("1"), package("1", name="other")], "one", 3),
    ]
    assert len({key, *others}) == 5


def test_the_key_of_contents_changes_with_a_file(tmp_path: Path) -> None:
    package = PackageFiles("demo", "1", tmp_path, ("test_a.py",), ("a.py", "gone.py"))
    keys = set()
    for name, text in (("test_a.py", "assert 1"), ("a.py", "x = 1"), ("a.py", "x = 2"), ("test_a.py", "assert 2")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        keys.add(corpus_key([package], "one", 3, contents=True))
        assert corpus_key([package], "one", 3, contents=True) in keys
    assert len(keys) == 4
    assert corpus_key([package], "one", 3) not in keys


def test_the_order_of_the_names_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_demo(tmp_path, monkeypatch)
    install(tmp_path, monkeypatch, "other", {"other/tests/test_a.py": CORE})
    assert choose_packages(["other", "demo-pkg"]) == choose_packages(["demo_pkg", "other", "Other"])


@pytest.mark.slow
def test_numpy_for_real() -> None:
    package = locate("numpy")
    assert package is not None
    corpus = mine([package], workers=2)
    records = [record for split in SPLITS for record in corpus.splits[split]]
    assert len(records) > 8_000
    assert len({record.id for record in records}) == len({record.key for record in records}) == len(records)
    assert corpus.counts["with_focal_method"] > 0.7 * len(records)
    assert 0.6 < len(corpus.splits["train"]) / len(records) < 0.95
    files = [{record.path for record in corpus.splits[split]} for split in SPLITS]
    assert not (files[0] & files[1] or files[0] & files[2] or files[1] & files[2])
    for record in records:
        assert record.test_method_masked.count("<extra_id_") == 1
        (statement,) = ast.parse(record.target).body
        assert isinstance(statement, ast.Assert | ast.Expr)
        ast.parse(record.test_method_masked.replace("<extra_id_0>", record.target))

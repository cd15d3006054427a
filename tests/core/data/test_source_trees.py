"""Any tree is mined like the installed packages, and what could not be read is counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from distillctl.core.data import source_files
from distillctl.core.data.corpus import Corpus
from distillctl.core.data.records import Record, read_jsonl, write_jsonl
from distillctl.core.data.source_trees import SourceTree, source_corpus, source_trees, tree_files
from distillctl.core.data.splits import SPLITS, split_of
from distillctl.core.errors import DataError, UsageError
from tests.javaproject import MAIN, TEST, put, write_java_project


def mine(*roots: Path, mask: str = "one", language: str = "java", most: int = 3) -> Corpus:
    return source_corpus(source_trees([str(root) for root in roots], language), mask, most)


def records(corpus: Corpus) -> list[Record]:
    return [record for split in SPLITS if corpus.sizes[split] for record in corpus.records(split)]


def files(root: Path, language: str = "java") -> tuple[Sequence[str], Sequence[str]]:
    found = tree_files(SourceTree(root, language, "demo"))
    return found.tests, found.sources


def test_a_java_project_becomes_records_that_can_be_read_back(tmp_path: Path) -> None:
    root = write_java_project(tmp_path / "demo")
    corpus = mine(root)
    found = records(corpus)
    assert len(found) == 40 * 3 and corpus.counts["test_files"] == 40
    assert corpus.counts["with_focal_method"] == len(found) and corpus.counts["test_files_with_syntax_errors"] == 0
    write_jsonl(tmp_path / "out.jsonl", found)
    assert read_jsonl(tmp_path / "out.jsonl").records == tuple(found)
    first = next(record for record in found if record.id.endswith("StackATest.pushsStackA@1"))
    assert first == Record(
        id="demo/src/test/java/org/demo/StackATest.java::StackATest.pushsStackA@1",
        language="java",
        project="demo",
        path="src/test/java/org/demo/StackATest.java",
        focal_method="public int push(int size) {\n  return size + 6;\n}",
        test_method_masked="@Test\nvoid pushsStackA() {\n  StackA stacka = new StackA();\n  stacka.push(0);\n"
        "  assertEquals(0, stacka.push(0));\n  <extra_id_0>\n}",
        assertions=("assertThat(stacka.push()).isEqualTo(1);",),
    )


def test_splits_are_by_file_and_mask_all_hides_every_assertion(tmp_path: Path) -> None:
    root = write_java_project(tmp_path / "demo")
    corpus = mine(root, mask="all")
    for split in SPLITS:
        found = corpus.records(split) if corpus.sizes[split] else []
        assert all(split_of("demo", record.path) == split for record in found)
    assert min(corpus.sizes["train"], corpus.sizes["validation"]) > 0
    lengths = {len(record.assertions) for record in records(corpus)}
    assert lengths == {1, 2}
    assert len(records(mine(root, mask="all", most=1))) == 40


def test_the_focal_method_is_chosen_by_what_the_reader_sees(tmp_path: Path) -> None:
    """A call that only the masked assertion makes does not choose it."""
    put(tmp_path, f"{MAIN}/Foo.java", "class Foo { int a() { return 1; } int b() { return 2; } }")
    put(tmp_path, f"{TEST}/FooTest.java", "class FooTest { @Test void t() { foo.a(); assertEquals(2, foo.b()); } }")
    (record,) = records(mine(tmp_path))
    assert record.focal_method == "int a() { return 1; }"


def test_what_cannot_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_java_project(tmp_path / "demo", files=3)
    put(
        root,
        f"{TEST}/BadTest.java",
        "class BadTest { @Test void a() { assertTrue(a b); } @Test void b() { assertNull(q); } }",
    )
    (root / TEST / "LatinTest.java").write_bytes("class LatinTest { // \xe9\n assert }".encode("latin-1"))
    put(root, f"{TEST}/HugeTest.java", "x" * 20_000)
    put(root, f"{TEST}/EmptyTest.java", "")
    monkeypatch.setattr(source_files, "LARGEST_FILE", 10_000)
    counts = mine(root).counts
    assert counts["test_files"] == 7
    assert counts["test_files_not_read"] == 2
    assert counts["test_files_with_syntax_errors"] == 1
    assert counts["tests_left_out_for_syntax_errors"] == 1


def test_tests_are_told_from_sources_by_their_paths(tmp_path: Path) -> None:
    tests = [
        "src/test/java/a/Foo.java",
        "guava-tests/test/com/B.java",
        "a/BarTest.java",
        "a/TestBar.java",
        "a/BarIT.java",
        "app/src/androidTest/java/com/x/ui/main/MainTest.java",
    ]
    sources = ["src/main/java/a/Foo.java", "src/main/java/org/x/test/Helper.java", "a/Testimony.java", "a/Contest.java"]
    ignored = [".git/ATest.java", "node_modules/ATest.java", "target/test/A.java", "a/FooTest.kt"]
    for file in [*tests, *sources, *ignored, "com/target/CTest.java"]:
        put(tmp_path, file, "")
    put(tmp_path, "pom.xml", "")
    (tmp_path / "LinkTest.java").symlink_to(tmp_path / "a/BarTest.java")
    assert files(tmp_path) == (tuple(sorted([*tests, "com/target/CTest.java"])), tuple(sorted(sources)))


def test_a_test_whose_name_no_record_can_hold_is_named(tmp_path: Path) -> None:
    put(tmp_path, "tests/test_a.py", "def test_x():\n    assert 1\n")
    (tmp_path / os.fsdecode(b"tests/test_\xe9.py")).write_text("def test_y():\n    assert 1\n")
    with pytest.raises(DataError, match=r"'test_.+\.py': its name is not UTF-8\. Rename it$"):
        files(tmp_path, "python")


def test_python_trees_have_tests_by_each_of_the_usual_names(tmp_path: Path) -> None:
    tests = ["a/test_x.py", "a/x_test.py", "app/tests.py", "tests/helper.py"]
    sources = ["a/contest.py", "a/x.py", "app/mytests.py"]
    for file in [*tests, *sources]:
        put(tmp_path, file, "")
    assert files(tmp_path, "python") == (tuple(tests), tuple(sources))


def test_python_trees_take_the_same_path(tmp_path: Path) -> None:
    put(tmp_path, "pkg/core.py", 'def add(a, b):\n    """Sum."""\n    return a + b\n')
    put(
        tmp_path,
        "tests/test_core.py",
        "def test_add():\n    total = add(1, 2)\n    assert total == 3\n    assert add\n",
    )
    put(tmp_path, "tests/test_old.py", "def test_x():\n    print 'assert'\n")
    put(tmp_path, "venv/lib/test_other.py", "def test_x():\n    assert 1\n")
    corpus = mine(tmp_path, language="python")
    assert [record.assertions for record in records(corpus)] == [("assert total == 3",), ("assert add",)]
    assert records(corpus)[0].focal_method == 'def add(a, b):\n    """Sum."""\n    return a + b'
    assert corpus.counts["test_files"] == 2 and corpus.counts["test_files_with_syntax_errors"] == 1


def test_several_trees_keep_their_names_apart(tmp_path: Path) -> None:
    one, two = write_java_project(tmp_path / "one", 2), write_java_project(tmp_path / "x/two", 4)
    corpus = mine(one, two)
    assert {record.project for record in records(corpus)} == {"one", "two"}
    assert corpus.counts["repeated"] == 2 * 3


@pytest.mark.parametrize(
    ("folders", "language", "projects", "message"),
    [
        (["demo"], None, [], "--language should be one of python, java."),
        (["demo"], "kotlin", [], "Found 'kotlin'"),
        (["nowhere"], "java", [], "nowhere: no such folder. Give a folder"),
        (["file"], "java", [], "file: is a file. Give a folder"),
        (["demo", "x/demo"], "java", [], "two sources are called 'demo'"),
        (["demo"], "java", ["a", "b"], "--project: 2 given for 1 --source"),
        (["demo"], "java", ["a\nb"], "cannot name a project"),
    ],
)
def test_a_bad_command_line_is_explained(
    folders: list[str],
    language: str | None,
    projects: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "demo/a", "")
    put(tmp_path, "x/demo/a", "")
    put(tmp_path, "file", "")
    with pytest.raises(UsageError) as error:
        source_trees(folders, language, projects)
    assert message in str(error.value)


def test_a_tree_without_tests_or_assertions_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "src/Foo.java", "class Foo { }")
    with pytest.raises(DataError, match="no java test file below it"):
        mine(tmp_path)
    put(tmp_path, "FooTest.java", "class FooTest { @Test void a() { run(); } }")
    with pytest.raises(DataError, match=r"no test with an assertion to mask .of 1 test files 0 could not be read"):
        mine(tmp_path)

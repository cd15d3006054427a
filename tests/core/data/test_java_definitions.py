"""The method under test: by the name of the test's class, then by what the test calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl.core.data.found_tests import Call
from distillctl.core.data.java_definitions import JavaDefinitions, types_under_test
from distillctl.core.data.java_tests import read_tests
from distillctl.core.data.source_files import PackageFiles

FOO = """package org.demo;

/** Keeps things. */
public class Foo<T> extends Base<T> {
    /** Makes one. */
    public Foo(int size) { this.size = size; }

    /**
     * Adds.
     */
    @Override
    public int add(int a) {
        // é
        return add(a, 1);
    }

    int add(int a, int b) { return a + b; }
    int sum(int first, Integer... rest) { return first; }
    static Foo parse(String text) { return null; }
    abstract int nothing();
    int broken() { return a b; }
    public String toString() { return "foo"; }
    boolean isEmpty() { return true; }
    record Pair(int left, int right) {
        Pair { check(left); }
        int total() { return left + right; }
    }
}
"""
BASE = "class Base<T> { int inherited() { return 1; } }"
BAR = "class Bar { static int make() { return 2; } int add(int x) { return 3; } }"
TEST_PATH = "src/test/java/org/demo/FooTest.java"


@pytest.fixture
def definitions(tmp_path: Path) -> JavaDefinitions:
    files = {"src/main/java/org/demo/Foo.java": FOO, "src/main/java/org/demo/Base.java": BASE, "src/Bar.java": BAR}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return JavaDefinitions(PackageFiles("demo", "", tmp_path, (), tuple(files), "java"))


def focal(definitions: JavaDefinitions, body: str, test: str = "works", owner: str = "FooTest") -> str:
    """The first line of code of the focal method of a test with that body, annotations left out."""
    (found,) = read_tests(f"class {owner} {{ @Test void {test}() {{ {body} assertTrue(a); }} }}").tests
    source = definitions.focal_method(found.qualified_name, found.calls_before([0]), TEST_PATH)
    return next((line for line in source.split("\n") if not line.startswith("@")), "").partition(" {")[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("foo.add(1);", "public int add(int a)"),
        ("foo.add(1, 2);", "int add(int a, int b)"),
        ("foo.add(1, 2, 3);", "public int add(int a)"),  # no such overload: the first
        ("foo.sum(1, 2, 3, 4);", "int sum(int first, Integer... rest)"),
        ("foo.sum(1);", "int sum(int first, Integer... rest)"),
        ("foo.add(1); foo.isEmpty();", "boolean isEmpty()"),
        ("Foo.parse(x);", "static Foo parse(String text)"),
        ("parse(x);", "static Foo parse(String text)"),
        ("new Foo<String>(3);", "public Foo(int size)"),
        ("new Foo<>(3).add(1);", "public int add(int a)"),
        ("foo.add(1); foo.toString();", "public int add(int a)"),
        ("foo.toString();", ""),
        ("foo.inherited();", "int inherited()"),
        ("foo.add(1); Bar.add(2);", "public int add(int a)"),
        ("foo.nothing();", ""),
        ("foo.broken();", ""),
        ("other.thing();", ""),
        ("Bar.make();", "static int make()"),
        ("pair.total();", "int total()"),
        ("new Pair(1, 2);", ""),
        ("", ""),
    ],
)
def test_the_last_call_to_the_tested_class(definitions: JavaDefinitions, body: str, expected: str) -> None:
    assert focal(definitions, body) == expected


@pytest.mark.parametrize("name", ["testAdd", "add_twice", "canAddTwo", "addIsEmptyNot"])
def test_the_method_that_the_test_is_named_after_comes_first(definitions: JavaDefinitions, name: str) -> None:
    expected = "boolean isEmpty()" if "IsEmpty" in name else "public int add(int a)"
    assert focal(definitions, "foo.isEmpty(); foo.add(1); Foo.parse(x);", name) == expected


def test_a_test_named_after_tostring_is_about_it(definitions: JavaDefinitions) -> None:
    assert focal(definitions, "foo.add(1); foo.toString();", "testToString") == "public String toString()"


@pytest.mark.parametrize(
    "owner", ["FooTest", "TestFoo", "FooTests", "FooTestCase", "FooIT", "FooUnitTest", "FooAddTest", "Foo"]
)
def test_classes_are_found_by_the_usual_names(definitions: JavaDefinitions, owner: str) -> None:
    assert focal(definitions, "foo.add(1);", owner=owner) == "public int add(int a)"


def test_another_class_s_test_is_not_about_this_one(definitions: JavaDefinitions) -> None:
    assert focal(definitions, "foo.add(1);", owner="QuxTest") == ""
    assert focal(definitions, "foo.add(1);", owner="BarTest") == "int add(int x)"


def test_the_source_is_the_whole_method_without_its_comment(definitions: JavaDefinitions) -> None:
    source = definitions.focal_method("FooTest.works", [Call(1, "add", 1, "foo")], TEST_PATH)
    assert source == "@Override\npublic int add(int a) {\n    // é\n    return add(a, 1);\n}"


def test_of_several_files_the_one_in_the_test_s_package_and_part_of_the_tree_counts(tmp_path: Path) -> None:
    places = ("android/src/org/a", "jre/src/org/a", "jre/src/org/b")
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "Foo.java").write_text(f'class Foo {{ String add() {{ return "{place}"; }} }}')
    files = tuple(f"{place}/Foo.java" for place in places)
    definitions = JavaDefinitions(PackageFiles("demo", "", tmp_path, (), files, "java"))
    call = [Call(1, "add", 0, "foo")]
    for place in places:
        assert place in definitions.focal_method("FooTest.works", call, f"{place.replace('src', 'test')}/FooTest.java")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("StringUtilsTrimTest", ["StringUtilsTrim", "StringUtils", "String"]),
        ("AbstractMapTest", ["AbstractMap", "Abstract", "Map"]),
        ("TestURLParser2", ["URLParser2", "URLParser", "URL"]),
        ("Test", ["Test"]),
        ("Foo_BarTest", ["Foo_Bar"]),
        ("ITest", ["I"]),
        ("TestPlanTests", ["TestPlan", "Plan"]),
        ("TestUtilsTest", ["TestUtils", "Utils"]),
        ("TestPlan", ["Plan"]),
    ],
)
def test_names_a_tested_type_may_have(name: str, expected: list[str]) -> None:
    assert list(types_under_test(name)) == expected

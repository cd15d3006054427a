"""Cutting texts into assertion lines, normalising them, and telling their kinds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.core.errors import DataError
from distillctl.core.evaluation.lines import (
    MIXED,
    OTHER,
    assertion_kind,
    kind_of_lines,
    normalise_whitespace,
    parse_python_line,
    split_lines,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates and control characters included


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("  \n\t\n", []),
        ("assert a", ["assert a"]),
        ("  assert a \r\n\n\tassert b\n", ["assert a", "assert b"]),
        ("assert a\nassert a", ["assert a", "assert a"]),
        ("assert x == 'a\u2028b\x0cc'", ["assert x == 'a\u2028b\x0cc'"]),
    ],
)
def test_split_lines(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines


@pytest.mark.parametrize(
    ("line", "normal"),
    [
        ("assert  a\t==   b ", "assert a == b"),
        ("assert a == 'x  y'", "assert a == 'x  y'"),
        ('f( "a  \\"  b" ,  c)', 'f( "a  \\"  b" , c)'),
        ('f("""a  \n  b""",  1)', 'f("""a  \n  b""", 1)'),
        ("assert  '\"  '  ==  b", "assert '\"  ' == b"),
        ("assert a  ==  'open", "assert a == 'open"),
        ("assert a==b", "assert a==b"),
    ],
)
def test_normalise_whitespace(line: str, normal: str) -> None:
    assert normalise_whitespace(line) == normal


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("assert a == b", "assert =="),
        ("assert f(a == b)", "assert call"),
        ("assert a == b, 'message'", "assert =="),
        ("assert a is None", "assert is"),
        ("assert a is not None", "assert is"),
        ("assert 'x' in y", "assert in"),
        ("assert 'x' not in y", "assert in"),
        ("assert a != b", "assert compare-other"),
        ("assert 0 < a < 3", "assert compare-other"),
        ("assert a == b == c", "assert compare-other"),
        ("assert not a", "assert not"),
        ("assert (a == b).all()", "assert call"),
        ("assert a.b", "assert other"),
        ("assert a and b", "assert other"),
        ("assert await f()", "assert other"),
        ("self.assertEqual(a, b)", "assertEqual"),
        ("np.testing.assert_allclose(a, b)", "assert_allclose"),
        ("assert_array_equal(a, b)", "assert_array_equal"),
        ("await self.assertDone()", "assertDone"),
        ("assert_that(x).is_equal_to(1)", "assert_that"),
        ("x = 1; assert x == 1", "assert =="),
        ("pytest.raises(ValueError)", OTHER),
        ("x = assert_(1)", OTHER),
        ("print(assert_x())", OTHER),
        ("'assert'", OTHER),
        ("assert", OTHER),
        ("assertion = 1", OTHER),
        ("assert a ==", "assert other"),
        ("self.assertEqual(a, (b)", "assertEqual"),
        ("", OTHER),
    ],
)
def test_python_kinds(line: str, kind: str) -> None:
    assert assertion_kind(line, "python") == kind


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("assertEquals(1, x);", "assertEquals"),
        ("Assert.assertEquals(1, x);", "assertEquals"),
        ("org.junit.Assert . assertTrue(x);", "assertTrue"),
        ("assertThat(x).isEqualTo(1);", "assertThat"),
        ("Assertions.<List<String>>assertThat(x);", "assertThat"),
        ("assert x > 0;", "assert"),
        ("assert (x > 0);", "assert"),
        ("assert;", OTHER),
        ("verify(x).close();", OTHER),
        ("x.foo(assertEquals(1, 2));", OTHER),
        ("int assertions = 3;", OTHER),
    ],
)
def test_java_kinds(line: str, kind: str) -> None:
    assert assertion_kind(line, "java") == kind


def test_unknown_language_is_named() -> None:
    with pytest.raises(DataError, match="'rust'"):
        assertion_kind("assert!(x);", "rust")


def test_kind_of_lines() -> None:
    assert kind_of_lines(["assert a == 1", "assert b == 2"], "python") == "assert =="
    assert kind_of_lines(["assert a == 1", "assert b"], "python") == MIXED
    assert kind_of_lines([], "python") == OTHER


@given(ANY_TEXT, st.sampled_from(["python", "java"]))
def test_no_text_raises(text: str, language: str) -> None:
    lines = split_lines(text)
    assert all(line == line.strip() and line for line in lines)
    assert isinstance(kind_of_lines(lines, language), str)
    normal = normalise_whitespace(text)
    assert normalise_whitespace(normal) == normal


@pytest.mark.parametrize("line", ["x" * 50_000, "a." * 25_000, "'" * 20_001, "<" * 20_000, " \t" * 20_000])
def test_long_lines_take_no_time(line: str) -> None:
    start = time.perf_counter()
    normalise_whitespace(line)
    assertion_kind(line, "java")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "line",
    [
        "a" + ".b" * 100_000,
        "-" * 100_000 + "1",
        "(" * 5000 + ")" * 5000,
        "f" + "()" * 100_000,
        "a\0b",
        "'\ud800'",
        "9" * 5000,
        "x\rreturn = 3",
        "x\ry",
    ],
)
def test_hostile_python_is_not_parsed(line: str) -> None:
    assert parse_python_line(line) is None

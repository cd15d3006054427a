"""Syntax validity: what stands in a test method and what only looks as if it did."""

from __future__ import annotations

import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.core.errors import DataError
from distillctl.core.evaluation.syntax import valid_syntax

VALID_PYTHON = [
    "assert x == 1",
    "  assert x == 1\n\nself.assertEqual(a, b)\n",
    "assert (yield x)",
    "assert await f()",
    "with pytest.raises(ValueError): f()",
    "assert re.match('\\d', x)",  # an invalid escape is a warning, not an error
    "assert 'a\u2028b' == x",
    "assert x  # why",
]
INVALID_PYTHON = [
    "",
    " \n ",
    "assert",
    "assert x ==",
    "assert x == 1\n)",
    "# a comment",
    "assertEquals(1, x);}",
    "assert f(\n1) == 2",  # each line must stand by itself
    "assert x \\",
    "return\rdef g(): pass",
    "assert '\0' == x",
    "assert '\ud800' == x",
    "(" * 300 + ")" * 300,
]
VALID_JAVA = [
    "F f = Outer.super::foo;",
    "switch (o) { case null, default -> x(); }",
    'assertEquals("""\r  a""", x);',
    'assertEquals("\\0\\12\\377\\400A", x);',
    "assertEquals('\\u0041', 'é');",
    "assertEquals('\\'', '\\\\', '\\0', '\\377');",
    'assertEquals("\\t\\"\\u0041 é\\0", "");',
    'assertEquals("""  \n  a"b\\\n  c""", x);',
    "final @A int x = 1;",
    "var record = yield + sealed;",
    "run(new Object() { private static final int X = 1; });",
    "assertThat(int.class, Foo::new, this, super.f(), Foo.class);",
    "for (final var x : xs) { assertNull(x); }",
    "switch (x) { case 1 -> f(); default -> g(); }",
    "try (var in = open()) { f(in); } catch (final A | B e) { fail(); }",
    "assertTrue(x instanceof final Foo f && f.ok());",
    "assertEquals(1, x);",
    "assertEquals(1, x);\nassertTrue(y); // why",
    'assert x > 0 : "message";',
    "record Point(int x, int y) {}\nassertEquals(new Point(1, 2), f());",
    'assertEquals("""\n    a\n    b\n    """, f());',
    "assertEquals(2, switch (x) { case 1 -> 2; default -> { yield 3; } });",
    "assertTrue(x instanceof String s && s.isEmpty());",
    "assertThat(x)\n    .isEqualTo(1);",
    "assertThrows(E.class, () -> { f(); });",
    "switch (x) { case 1: f(); }",
    "x++;",
    'assertEquals("} } class Evil {", x);',
    'assertEquals("\u00e9\u4e2d", x);',
]
INVALID_JAVA = [
    "",
    "  \n",
    "assert",
    "assert;",
    "} } class Evil { void m() {",
    "} void evil() {",
    "} ; { f();",
    "f(); } } class Evil { void m() { g();",
    "f(); } /*",
    "}",
    "{",
    "/*",
    "// only a comment",
    "/* only a comment */",
    ";",
    "assertEquals(1, x)",
    "assertEquals(1, x;",
    "assertEquals(1, x); )",
    "1 + 2;",
    "x;",
    '"text";',
    "import a.b;",
    "public void test() { f(); }",
    'assertEquals("\0", x);\0',
    'assertEquals("\ud800", x);',
    "assertEquals('abc', x);",
    "assertEquals('', x);",
    "assertEquals('\U0001f600', x);",  # two UTF-16 units
    'assertEquals("a\nb", x);',
    'assertEquals("\\q", x);',
    'assertEquals("""a""", x);',
    "int if = 1;",
    "goto x;",
    "private static final int x = 1;",
    "run(() -> { static int x = 1; });",
]


@pytest.mark.parametrize("text", VALID_PYTHON)
def test_valid_python(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert valid_syntax(text, "python")


@pytest.mark.parametrize("text", INVALID_PYTHON)
def test_invalid_python(text: str) -> None:
    assert not valid_syntax(text, "python")


@pytest.mark.parametrize("text", VALID_JAVA)
def test_valid_java(text: str) -> None:
    assert valid_syntax(text, "java")


@pytest.mark.parametrize("text", INVALID_JAVA)
def test_invalid_java(text: str) -> None:
    assert not valid_syntax(text, "java")


def test_unknown_language_is_named() -> None:
    with pytest.raises(DataError, match="'cobol'"):
        valid_syntax("x", "cobol")


CODE_PIECES = st.lists(
    st.sampled_from(
        [
            "}",
            "{",
            "(",
            ")",
            ";",
            "\n",
            "\r",
            "/*",
            "*/",
            "//",
            '"',
            '"""',
            "'",
            "\\",
            "class A",
            "x",
            "void m()",
            "assert ",
            "f()",
            "=",
            "\0",
            "\ud800",
            "\t",
            "->",
            "switch",
        ]
    ),
    max_size=12,
).map("".join)


@given(st.text(st.characters()) | CODE_PIECES, st.sampled_from(["python", "java"]))
def test_no_text_raises(text: str, language: str) -> None:
    valid = valid_syntax(text, language)
    assert not (valid and not text.strip())


@given(CODE_PIECES)
def test_valid_java_stays_valid_beside_a_statement(text: str) -> None:
    # What closes the method and opens another would break here.
    if valid_syntax(text, "java"):
        assert valid_syntax(f"before();\n{text}\nafter();", "java")


@pytest.mark.parametrize("piece", [r"\\123", r"\\00", "a", r"\\\\"])
def test_a_literal_of_many_escapes_is_read_in_no_time(piece: str) -> None:
    started = time.perf_counter()
    assert not valid_syntax(f'assertEquals("{piece * 2000}\\q", x);', "java")
    assert time.perf_counter() - started < 1

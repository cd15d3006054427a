"""The trivial answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.core.errors import DataError
from distillctl.core.evaluation.baselines import most_frequent, previous_assertion


def test_most_frequent_counts_whole_targets() -> None:
    targets = [("assert a", "assert b"), ("assert a",), ("assert c",), ("assert c",)]
    assert most_frequent(iter(targets)) == "assert c"
    assert most_frequent([("assert a", "assert b")] * 2 + [("assert a",)]) == "assert a\nassert b"


def test_most_frequent_does_not_depend_on_order() -> None:
    targets = [["assert b"], ["assert a"], ["assert b"], ["assert a"]]
    assert most_frequent(targets) == most_frequent(targets[::-1]) == "assert a"


def test_most_frequent_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="empty"):
        most_frequent([])


PYTHON = {
    "the last before the mask": (
        "def test_x():\n    assert a == 1\n    assert b == 2\n    <extra_id_0>\n    assert c == 3\n",
        "assert b == 2",
    ),
    "none before": ("def test_x():\n    x = 1\n    <extra_id_0>\n    assert c == 3\n", ""),
    "the word alone": ("def test_x():\n    x = 'assert'\n    <extra_id_0>\n", ""),
    "calls": (
        "def test_x(self):\n    self.assertEqual(a, b)\n    x = f()\n    with y:\n        <extra_id_0>\n",
        "self.assertEqual(a, b)",
    ),
    "last name": (
        "def test_x():\n    np.testing.assert_allclose(a, b)\n    assertion.check(1)\n    <extra_id_0>",
        "np.testing.assert_allclose(a, b)",
    ),
    "joined to one line": (
        "def test_x():\n    assert_equal(\n        a,\n        b,  # why\n    )\n    <extra_id_0>\n",
        "assert_equal(a, b)",
    ),
    "in a block that ends before": (
        "def test_x():\n    for i in x:\n        if i:\n            pass\n"
        "        else:\n            assert i\n    <extra_id_0>",
        "assert i",
    ),
    "try without its end is no problem": (
        "def test_x():\n    try:\n        assert a\n        <extra_id_0>\n    finally:\n        f()\n",
        "assert a",
    ),
    "same line": ("def test_x():\n    assert a; <extra_id_0>; assert b\n", "assert a"),
    "non-ascii before the mask": (
        "def test_x():\n    '\u00e9\u00e9\u00e9'; <extra_id_0>; assert \u00e9\n",
        "",
    ),
    "inside an assertion": ("def test_x():\n    assert a\n    assert f(<extra_id_0>) == 2\n", "assert a"),
    "indented method": (
        "    @decorator\n    def test_x(self):\n        assert a\n        <extra_id_0>\n",
        "assert a",
    ),
    "windows line ends": ("def test_x():\r\n    assert a\r\n    <extra_id_0>\r\n", "assert a"),
    "several masks": (
        "def test_x():\n    assert a\n    <extra_id_0>\n    assert b\n    <extra_id_1>\n    assert c\n",
        "assert a\nassert b",
    ),
    "several masks, first without": (
        "def test_x():\n    <extra_id_0>\n    assert b\n    <extra_id_1>\n",
        "assert b",
    ),
    "all masked": ("def test_x():\n    <extra_id_0>\n    x = 1\n    <extra_id_1>\n", ""),
    "does not parse": (
        "def test_x(:\n    assert a\n    assert f(\n        b)\n    self.assertTrue(c)\n    <extra_id_0>",
        "self.assertTrue(c)",
    ),
    "no mask": ("def test_x():\n    assert a\n", ""),
    "invalid escape": ("def test_x():\n    assert '\\d' == x\n    <extra_id_0>\n", "assert '\\d' == x"),
    "a string over several lines cannot be one line": (
        'def test_x():\n    assert a\n    assert b == """\n    """\n    <extra_id_0>\n',
        "assert a",
    ),
    "async": (
        "async def test_x():\n    async with y:\n        assert await f()\n    <extra_id_0>\n",
        "assert await f()",
    ),
    "match": (
        "def test_x():\n    match y:\n        case 1:\n            assert a\n    <extra_id_0>\n",
        "assert a",
    ),
}


@pytest.mark.parametrize("case", PYTHON)
def test_previous_python(case: str) -> None:
    masked, expected = PYTHON[case]
    assert previous_assertion(masked, "python") == expected


JAVA = {
    "the last before the mask": (
        "@Test public void x() {\n  assertEquals(1, a);\n  assertTrue(b);\n  <extra_id_0>\n  assertNull(c);\n}",
        "assertTrue(b);",
    ),
    "with its own semicolon": ("void x() {\n  assertTrue(b);\n  <extra_id_0>;\n}", "assertTrue(b);"),
    "none before": ("void x() {\n  int assertions = 1;\n  <extra_id_0>\n  assertNull(c);\n}", ""),
    "joined to one line": (
        "void x() {\n  assertThat(\n      f(a,\n        b))\n      .isEqualTo(1);\n  <extra_id_0>\n}",
        "assertThat(f(a, b)).isEqualTo(1);",
    ),
    "joined as golds are": (
        "void x() {\r\n  assertEquals(1, // one\r\n      values[\r\n        0]);\r\n  <extra_id_0>\r\n}",
        "assertEquals(1, values[0]);",
    ),
    "spaces of its own": ("void x() {\n  assertEquals( 1,  f() );\n  <extra_id_0>\n}", "assertEquals( 1,  f() );"),
    "statement": ('void x() {\n  assert a > 0 : "m  m";\n  <extra_id_0>\n}', 'assert a > 0 : "m  m";'),
    "inside a lambda": (
        "void x() {\n  assertTrue(a);\n  assertAll(() -> { assertTrue(b); <extra_id_0> });\n}",
        "assertTrue(b);",
    ),
    "several masks": (
        "void x() {\n  assertTrue(a);\n  <extra_id_0>\n  assertTrue(b);\n  <extra_id_1>\n}",
        "assertTrue(a);\nassertTrue(b);",
    ),
    "truncated": ("void x() {\n  assertTrue(a);\n  <extra_id_0>\n  foo(", "assertTrue(a);"),
}


@pytest.mark.parametrize("case", JAVA)
def test_previous_java(case: str) -> None:
    masked, expected = JAVA[case]
    assert previous_assertion(masked, "java") == expected


def test_unknown_language_is_named() -> None:
    with pytest.raises(DataError, match="'go'"):
        previous_assertion("<extra_id_0>", "go")


PIECES = st.lists(
    st.sampled_from(
        [
            "assert x",
            "<extra_id_0>",
            "<extra_id_1>",
            "\n",
            "\n    ",
            "def f():",
            "{",
            "}",
            "\0",
            "\ud800",
            "(",
            ")",
            '"""',
            "\u00e9",
            ";",
            "self.assertTrue(",
            "\r",
        ]
    ),
    max_size=15,
).map("".join)


@given(PIECES | st.text(st.characters()), st.sampled_from(["python", "java"]))
def test_no_text_raises(text: str, language: str) -> None:
    assert isinstance(previous_assertion(text, language), str)

"""Masks stand exactly where assertions stood, and an assertion on one line is the same assertion."""

from __future__ import annotations

import ast
import textwrap
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.data import python_tests
from distillctl.core.data.found_tests import FoundTest
from distillctl.core.data.python_tests import one_line, read_tests

MASK = "<extra_id_{}>"


def only_test(source: str) -> FoundTest:
    (found,) = read_tests(source).tests
    return found


def masked(source: str) -> str:
    """The only test of a file with all assertions masked."""
    found = only_test(source)
    return found.masked(range(len(found.assertions)), MASK)


def tree_of(code: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.dump(ast.parse(code))


def assertions_by_ast(code: str) -> list[str]:
    """Trees of the assertion statements of a text, in order."""
    found = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Assert)
        or (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "attr", getattr(node.value.func, "id", "")).startswith("assert")
        )
    ]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    return [ast.dump(ast.Module([node], [])) for node in found]


def assert_masks_exact(source: str) -> None:
    """Each span holds one assertion and nothing else, and what is left of the test still parses."""
    for found in read_tests(source).tests:
        raw = found.text.encode()
        spans = [raw[assertion.start : assertion.end].decode() for assertion in found.assertions]
        assert [tree_of(span) for span in spans] == assertions_by_ast(found.text)
        for span, assertion in zip(spans, found.assertions, strict=True):
            assert assertion.line is None or tree_of(assertion.line) == tree_of(span)
        text = found.masked(range(len(spans)), MASK)
        for number, span in enumerate(spans):
            text = text.replace(MASK.format(number), span, 1)
        assert text == found.text
        ast.parse(found.masked(range(len(spans)), "_mask_{}_"))


def test_bytes_before_an_assertion_are_not_characters() -> None:
    source = "def test_é():\n    größe = '𝄞é'; assert größe == '𝄞é', 'ü'; done('é')\n"
    assert masked(source) == "def test_é():\n    größe = '𝄞é'; <extra_id_0>; done('é')"
    assert only_test(source).assertions[0].line == "assert größe == '𝄞é', 'ü'"


def test_methods_are_dedented_and_keep_their_decorators() -> None:
    source = textwrap.dedent(
        """
        class TestOuter:
            class TestInner(Base):
                # above
                @decorate(
                    "é",
                )
                # between
                @pytest.mark.slow
                async def test_it(self, x=1):
                    if x:
                        self.assertEqual(x, 1)  # why

                    def inner():
                        assert x
                    return inner
                # below
        """
    )
    found = only_test(source)
    assert found.qualified_name == "TestOuter.TestInner.test_it"
    assert found.masked([0, 1], MASK) == textwrap.dedent(
        """\
        @decorate(
            "é",
        )
        # between
        @pytest.mark.slow
        async def test_it(self, x=1):
            if x:
                <extra_id_0>  # why

            def inner():
                <extra_id_1>
            return inner"""
    )
    assert_masks_exact(source)


def test_a_decorator_may_start_below_its_sign() -> None:
    source = "class A:\n    @(\n        f(1)\n    )\n    def test(self):\n        assert self\n"
    assert masked(source) == "@(\n    f(1)\n)\ndef test(self):\n    <extra_id_0>"


def test_the_same_line_may_hold_several_statements() -> None:
    assert masked("def test(): assert a; assert b;\n") == "def test(): <extra_id_0>; <extra_id_1>;"
    assert masked("def test():\n    if x: assert a ;  # no\n") == "def test():\n    if x: <extra_id_0> ;  # no"


def test_an_assertion_of_several_lines_is_masked_as_a_whole() -> None:
    source = textwrap.dedent(
        """
        def test():
            assert f(  # first
                1,

                # second
                2,
            ), (
        "at the margin"
            )
            x = 1 + \\
                2; assert x == \\
          3
            return x
        """
    )
    assert masked(source) == textwrap.dedent(
        """\
        def test():
            <extra_id_0>
            x = 1 + \\
                2; <extra_id_1>
            return x"""
    )
    assert [assertion.line for assertion in only_test(source).assertions] == [
        'assert f(1, 2), ("at the margin")',
        "assert x == 3",
    ]
    assert_masks_exact(source)


def test_lines_inside_strings_move_with_the_test_and_masks_stay_exact() -> None:
    source = (
        "class A:\n"
        "    def test(self):\n"
        '        """Docs.\n\n        More.\n        """\n'
        '        text = """\n'
        "    indented\n"
        "at the margin\n"
        '        deeper é"""; assert text\n'
        "        f'''\n    {x}\n  '''; assert x\n"
    )
    assert masked(source) == (
        "def test(self):\n"
        '    """Docs.\n\n    More.\n    """\n'
        '    text = """\n'
        "indented\n"
        "at the margin\n"
        '    deeper é"""; <extra_id_0>\n'
        "    f'''\n{x}\n  '''; <extra_id_1>"
    )
    assert_masks_exact(source)


def test_an_assertion_that_cannot_be_one_line_stays_visible() -> None:
    source = 'def test():\n    assert a\n    assert b == """\n    x"""\n    assert c\n'
    found = only_test(source)
    assert [assertion.line for assertion in found.assertions] == ["assert a", None, "assert c"]
    assert found.masked([2], MASK) == 'def test():\n    assert a\n    assert b == """\n    x"""\n    <extra_id_0>'
    assert read_tests('def test():\n    assert b == """\n    x"""\n').tests == ()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark_are_levelled(end: str) -> None:
    source = end.join(["\ufeffdef test():", "    é = 1", "    assert é == (", "        1)", ""])
    assert masked(source) == "def test():\n    é = 1\n    <extra_id_0>"
    assert only_test(source).assertions[0].line == "assert é == (1)"


def test_tabs_and_form_feeds_are_white_space() -> None:
    assert masked("class A:\n\tdef test(self):\n\t\tassert self\n") == "def test(self):\n\t<extra_id_0>"
    source = "class A:\n    @f\n\x0c    def test(self):\n        assert self\n"
    assert masked(source) == "@f\n\x0c    def test(self):\n    <extra_id_0>"


def test_what_counts_as_a_test_and_as_an_assertion() -> None:
    source = textwrap.dedent(
        """
        def helper():
            assert x

        def test_without():
            check(x)

        def test_calls():
            self.assertEqual(1, x)
            np.testing.assert_allclose(x, 1)
            assert_that(x).is_true()
            y = assertion(x)
            with assertRaises(E):
                pass
            x[0]("assert")

        class Suite:
            def testCamel(self):
                assert not x

        if x:
            def test_conditional():
                assert x
        """
    )
    found = {test.qualified_name: [a.line for a in test.assertions] for test in read_tests(source).tests}
    assert found == {
        "test_calls": ["self.assertEqual(1, x)", "np.testing.assert_allclose(x, 1)"],
        "Suite.testCamel": ["assert not x"],
    }


def test_calls_come_in_the_order_in_which_they_end() -> None:
    found = only_test("@mark(1)\ndef test():\n    é = outer(inner(x), 1).last().tail\n    x[0]()\n    assert ok(é)\n")
    assert [call.name for call in found.calls] == ["mark", "inner", "outer", "last", "ok"]
    raw = found.text.encode()
    assert all(raw[call.end - 1 : call.end] == b")" for call in found.calls)


@pytest.mark.parametrize("source", ["def test(:\n", "\0", "x = " + "(" * 5000, "print 'python 2'", ""])
def test_a_file_that_does_not_parse_has_no_tests(source: str) -> None:
    assert read_tests(source).tests == ()


def test_other_peoples_warnings_are_not_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = only_test("def test():\n    assert x(\n        '\\d', x is 1)\n")
    assert found.assertions[0].line == "assert x('\\d', x is 1)"


STATEMENTS = st.sampled_from(
    [
        "x = 1",
        "é = 'ü𝄞'; assert é",
        "assert x == 1",
        "assert x, 'naïve'; y = 2",
        "assert f(\n    1,  # é\n  2)",
        'assert x == """é\n   two\nlines"""',
        "self.assertEqual(x,\\\n   y)",
        "with f(): assert g",
        'text = """\n    é\n  """',
        "for é in x:\n    assert é;",
        "def inner():\n        assert 'é'",
        "assert f'{x!r:>{width}}é' == \\\n  'é'",
        "# assert not this",
        "",
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(STATEMENTS, min_size=1, max_size=6), st.integers(0, 2), st.sampled_from(["\n", "\r\n"]))
def test_masks_are_exact_in_any_test(statements: list[str], depth: int, end: str) -> None:
    lines = []
    for level in range(depth):
        lines.append("    " * level + f"class C{level}:")
    lines.append("    " * depth + "def test(self):")
    lines += ["    " * (depth + 1) + statement for statement in [*statements, "assert 'last'"]]
    source = "\n".join(lines).replace("\n    def inner", "\n" + "    " * (depth + 1) + "def inner")
    source = source.replace("x:\n    assert é", "x:\n" + "    " * (depth + 2) + "assert é")
    source = source.replace("():\n        assert", "():\n" + "    " * (depth + 2) + "assert")
    found = read_tests(source.replace("\n", end)).tests
    assert [test.qualified_name for test in found] == [".".join([f"C{i}" for i in range(depth)] + ["test"])]
    assert_masks_exact(source.replace("\n", end))


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        (" assert x ", "assert x"),
        ("assert  x  ==  1", "assert  x  ==  1"),
        ("not ( python", "not ( python"),
        ("assert f(\n    a,\n    b,\n)", "assert f(a, b)"),
        (
            "assert f(\n    g(\n        a,\n    ),\n    [\n        1,\n    ],\n) == {\n    2,\n}",
            "assert f(g(a), [1]) == {2}",
        ),
        ("assert f(\n    (\n        a,\n    ),\n    b,\n)", "assert f((a,), b)"),
        ("assert (\n    a,\n) == b", "assert (a,) == b"),
        ("assert x[\n    0,\n]", "assert x[0,]"),
        ("assert (\n    a  # (why)\n    and  b\n)", "assert (a and  b)"),
        ("assert a == \\\n    b", "assert a == b"),
        ("assert (a\n        .b()\n        [0]\n        .c)", "assert (a.b() [0].c)"),
        ("assert f(x='#',\n         y='a\\\\nb')", "assert f(x='#', y='a\\\\nb')"),
        ("assert x == ('a'\n             \"b\")", "assert x == ('a' \"b\")"),
        ("assert f(\n  f'{{é}} {x:>{w}} }}{{',\n  rb'é'[0])", None),
        ("assert f(\n  f'{{é}} {x:>{w}} }}{{',\n  r'\\d')", "assert f(f'{{é}} {x:>{w}} }}{{', r'\\d')"),
        ("assert f(lambda x:\n         x, *\n         y)", "assert f(lambda x: x, * y)"),
        ('assert x == """\n"""', None),
        ("assert x == 'a\\\nb'", None),
        ("assert x\nassert y", None),
        ("x\n(y)", None),
        ("assert (", "assert ("),
        ("assert (\n", None),
        ("assert (\n\0)", None),
        ("assert " + "(" * 300 + "\n" + ")" * 300, None),
    ],
)
def test_one_line(statement: str, line: str | None) -> None:
    assert one_line(statement) == line


ATOMS = st.sampled_from(["a", "é", "1.5", "'# no'", "f'{a}'", "b''", "...", "a.b", "-1"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("f({}@,{})".format, inner, inner),
        st.builds("f({}@,)".format, inner),
        st.builds("({}@,)".format, inner),
        st.builds("({}@ == {})".format, inner, inner),
        st.builds("[@{},@{}@]".format, inner, inner),
        st.builds("{{@{}:@{},}}".format, inner, inner),
        st.builds("a[{}@,]".format, inner),
        st.builds("({} @if {} @else {})".format, inner, inner, inner),
        st.builds("(lambda:@ {})".format, inner),
        st.builds("f(x={}, **@{})".format, inner, inner),
    ),
    max_leaves=8,
)
BREAKS = st.sampled_from(["", " ", "\n", "  # a comment, (odd\n   ", "\n\n\t", " \\\n"])


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.data())
def test_one_line_keeps_the_tree(expression: str, data: st.DataObject) -> None:
    statement = "assert (" + "".join(
        data.draw(BREAKS) if character == "@" else character for character in f"@{expression}@)"
    )
    line = one_line(statement)
    assert line is not None
    assert "\n" not in line
    assert tree_of(line) == tree_of(statement)


@settings(max_examples=100)
@given(st.text(alphabet="assert x(=,)\n\\'\"#[]{}:\0é", max_size=30))
def test_one_line_takes_any_text(text: str) -> None:
    line = one_line(text)
    assert line is None or "\n" not in line


def test_an_integer_of_too_many_digits_leaves_its_assertion_alone() -> None:
    digits = "f" * 4000  # Python reads it, and does not write it in decimals
    assert one_line(f"assert f() == (\n    0x{digits}\n)") is None


@pytest.mark.parametrize("tuples", [0, 3])
def test_a_long_table_is_joined_without_parsing_it_for_each_comma(tuples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parses = 0
    dump = python_tests._dump

    def counted(code: str) -> str | None:
        nonlocal parses
        parses += 1
        return dump(code)

    monkeypatch.setattr(python_tests, "_dump", counted)
    rows = [f"    (\n        {n},\n    )" if n < tuples else f"    [\n        {n},\n    ]" for n in range(128)]
    inner = [f"({n},)" if n < tuples else f"[{n}]" for n in range(128)]
    assert one_line("assert x == [\n" + ",\n".join(rows) + ",\n]") == f"assert x == [{', '.join(inner)}]"
    assert parses < 50

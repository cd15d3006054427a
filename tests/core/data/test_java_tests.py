"""Masks stand exactly where Java assertions stood, and an assertion on one line is the same assertion."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.data.found_tests import FoundTest
from distillctl.core.data.java_tests import read_tests
from distillctl.core.evaluation.lines import assertion_kind
from distillctl.core.evaluation.syntax import valid_syntax

MASK = "<extra_id_{}>"


def in_test(body: str) -> str:
    """A class with one test method of that body."""
    return f"class FooTest {{\n  @Test\n  void works() {{\n{textwrap.indent(body, '    ')}\n  }}\n}}\n"


def only_test(source: str) -> FoundTest:
    (found,) = read_tests(source).tests
    return found


def lines(body: str) -> list[str | None]:
    return [assertion.line for assertion in only_test(in_test(body)).assertions]


def names(source: str) -> list[str]:
    return [test.qualified_name for test in read_tests(source).tests]


STATEMENTS = {
    "JUnit 4": "Assert.assertEquals(1, foo.size());",
    "JUnit 4 with its package": "org.junit.Assert.assertEquals(1, foo.size());",
    "static import": "assertTrue(foo.isEmpty());",
    "JUnit 5 group": 'assertAll("all", () -> assertEquals(1, a), () -> { assertTrue(b); });',
    "lambda": "assertThrows(IllegalStateException.class, () -> foo.close());",
    "method reference": "assertDoesNotThrow(foo::close);",
    "type argument": "Assertions.<List<String>>assertEquals(a, b);",
    "AssertJ": 'assertThat(list).as("what").extracting(Foo::name, x -> x.id() + 1).containsExactly(tuple("a", 2));',
    "AssertJ soft": "softly.assertThat(x).isEqualTo(y);",
    "AssertJ exception": 'assertThatThrownBy(() -> foo.open()).isInstanceOf(IOException.class).hasMessage("no");',
    "Hamcrest": "assertThat(x, is(not(nullValue())));",
    "Truth": 'assertWithMessage("size").that(map).containsExactly("a", 1).inOrder();',
    "TestNG": "Assert.assertEqualsNoOrder(actual, new Object[] {1, 2});",
    "keyword": 'assert foo != null : "none";',
    "field": "this.rule.assertMatches(x);",
    "generics": "assertEquals(new HashMap<String, List<? extends Foo>>(), copy);",
    "switch expression": 'assertEquals("two", switch (n) { case 2 -> "two"; default -> { yield "more"; } });',
    "unicode": 'assertEquals("größe 𝄞 \\u00e9", größe);',
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_each_framework_s_assertion_is_one_statement(statement: str) -> None:
    found = only_test(in_test(f'String größe = "𝄞"; {statement} done();'))
    assert [assertion.line for assertion in found.assertions] == [statement]
    assert found.masked([0], MASK).splitlines()[2] == '  String größe = "𝄞"; <extra_id_0> done();'
    assert assertion_kind(statement, "java").startswith("assert") and valid_syntax(statement, "java")


@pytest.mark.parametrize(
    "statement",
    [
        'fail("not reached");',
        "var e = assertThrows(E.class, () -> foo());",
        "verify(mock).close();",
        "foo().assertValid();",
        "boolean asserted = check();",
        "return assertLater();",
        "list.forEach(x -> assertTrue(x));",
    ],
)
def test_what_is_no_assertion_statement_stays(statement: str) -> None:
    assert lines(f"assertTrue(a);\n{statement}") == ["assertTrue(a);"]


def test_assertions_inside_an_assertion_are_part_of_it() -> None:
    body = "assertAll(\n  () -> {\n    assertTrue(a); // first\n    assertTrue(b);\n  },\n  () -> assertEquals(c, d));"
    assert lines(body) == ["assertAll(() -> { assertTrue(a); assertTrue(b); }, () -> assertEquals(c, d));"]


def test_assertions_in_blocks_and_callbacks_count() -> None:
    body = "for (X x : xs) assertTrue(x.a());\nif (y) { assertNull(y); }\nxs.forEach(x -> { assertNotNull(x); });"
    assert lines(body) == ["assertTrue(x.a());", "assertNull(y);", "assertNotNull(x);"]


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        (
            "assertThat(list)\n    .hasSize(2) // two\n\n    .contains(\n        a,\n        b);",
            "assertThat(list).hasSize(2).contains(a, b);",
        ),
        ("assertEquals(a\n    + b, c);", "assertEquals(a + b, c);"),
        ("assert a\n  == b;", "assert a == b;"),
        ('assertEquals("// no comment",\n   f(\'"\', /* none */ 2));', 'assertEquals("// no comment", f(\'"\',  2));'),
        ("assertTrue( a  &&\tb );", "assertTrue( a  &&\tb );"),
    ],
)
def test_a_statement_over_several_lines_becomes_one(statement: str, line: str) -> None:
    assert lines(statement) == [line]


def test_a_text_block_cannot_be_one_line_so_that_assertion_stays() -> None:
    body = 'assertEquals("""\n    {"a": 1}\n    """, json);\nassertTrue(b);'
    found = only_test(in_test(body))
    assert [assertion.line for assertion in found.assertions] == [None, "assertTrue(b);"]
    assert read_tests(in_test('assertEquals("""\n  x\n  """, y);')).tests == ()


def test_text_blocks_around_an_assertion_are_dedented_along() -> None:
    found = only_test(in_test('String s = """\n    hi\n      there\n    """;\nassertEquals("hi", s);'))
    assert found.masked([0], MASK) == (
        '@Test\nvoid works() {\n  String s = """\n      hi\n        there\n      """;\n  <extra_id_0>\n}'
    )


def test_tests_of_every_framework_are_found_and_nothing_else() -> None:
    source = """
    class FooTest {
      @Test void junit() { assertTrue(a); }
      @org.junit.jupiter.api.Test void qualified() { assertTrue(a); }
      @Test(expected = E.class, timeout = 1) public void junit4() throws Exception { assertTrue(a); }
      @ParameterizedTest @ValueSource(ints = {1}) void parameters(int a) { assertTrue(a > 0); }
      @RepeatedTest(3) void repeated() { assertTrue(a); }
      @TestFactory Stream<DynamicTest> factory() { assertTrue(a); return null; }
      @Theory public void theory(int a) { assertTrue(a); }
      @BeforeEach void setUp() { assertTrue(a); }
      void testLike() { assertTrue(a); }
      @Test void asserts_nothing() { run(); }
      @Test abstract void without_body();
      @Nested class WhenEmpty { @Test void inner() { assertTrue(a); } }
      record Point(int x) { @Test void inARecord() { assertTrue(a); } }
    }
    """
    assert names(source) == [
        *(
            f"FooTest.{name}"
            for name in ("junit", "qualified", "junit4", "parameters", "repeated", "factory", "theory")
        ),
        "FooTest.WhenEmpty.inner",
        "FooTest.Point.inARecord",
    ]


def test_junit_3_needs_a_test_case_to_extend() -> None:
    body = "{ public void testA() { assertTrue(a); } public void test_b() { assertTrue(a); } "
    body += "void testing() { assertTrue(a); } public void testC(int x) { assertTrue(x); } "
    body += "public static void testD() { assertTrue(a); } }"
    found = ["Foo.testA", "Foo.test_b"]
    assert names(f"class Foo extends TestCase {body}") == found
    assert names(f"class Foo<T> extends junit.framework.TestCase {body}") == found
    assert names(f"class Foo extends AbstractMapTest<String, T> {body}") == found
    assert names(f"class Foo extends Bar {body}") == []
    assert names(f"class Foo {body}") == []


def test_a_class_that_testng_tests_whole() -> None:
    body = "public void a() { assertTrue(a); } void b() { assertTrue(a); } public int c() { assertTrue(a); }"
    source = f"@Test class Foo {{ {body} }}"
    assert names(source) == ["Foo.a"]


def test_only_methods_with_a_syntax_error_are_left_out() -> None:
    source = """class FooTest {
      @Test void fine() { assertTrue(a); }
      @Test void broken() { assertTrue(a b); }
      @Test void alsoFine() { assertEquals(1, b); }
      void helper() { int = ; }
    }"""
    found = read_tests(source)
    assert [test.qualified_name for test in found.tests] == ["FooTest.fine", "FooTest.alsoFine"]
    assert (found.broken, found.tests_left_out) == (True, 1)
    assert not read_tests(in_test("assertTrue(a);")).broken


def test_around_a_mistake_between_methods_tests_are_found() -> None:
    source = "class A { @Test void a() { assertTrue(a); } ]] @Test void b() { assertTrue(b); } }"
    found = read_tests(source)
    assert {"a", "b"} >= {test.qualified_name.split(".")[-1] for test in found.tests} >= {"b"}
    assert found.broken


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_do_not_matter(end: str) -> None:
    source = "\ufeff" + in_test("foo();\nassertEquals(a,\n    b);\nbar();")
    assert read_tests(source.replace("\n", end)) == read_tests(source)


def test_a_method_on_its_class_s_line_keeps_its_place() -> None:
    found = only_test("class A { @Test void a() {\n    assertTrue(é);\n  } }")
    assert found.masked([0], MASK) == "@Test void a() {\n    <extra_id_0>\n  }"


def test_the_comment_above_a_test_is_not_part_of_it() -> None:
    source = in_test("assertTrue(a);").replace("  @Test", "  /** Tells. */\n  // more\n  @Test")
    assert only_test(source).text.startswith("@Test\nvoid works()")


def test_calls_say_what_they_are_called_on_and_how_many_arguments_they_have() -> None:
    body = "Foo foo = new a.Foo<>(1, 2);\nfoo.bar(x, /* y */ z).baz();\nthis.own();\nstatically();"
    body += "\na.B.c(() -> d());\nassertTrue(e());"
    source = in_test(body).replace("  @Test", "  void own() {}\n  @Test")
    found = [(call.name, call.arguments, call.receiver) for call in only_test(source).calls]
    assert found == [
        ("Foo", 2, "new"),
        ("bar", 2, "foo"),
        ("baz", 0, "?"),
        ("statically", 0, ""),
        ("d", 0, ""),
        ("c", 1, "B"),
        ("e", 0, ""),
        ("assertTrue", 1, ""),
    ]


PIECES = [
    "assertEquals(",
    "(",
    ")",
    ";",
    "{",
    "}",
    "\n",
    '"',
    "'",
    "// x",
    "/*",
    "*/",
    "a",
    ".b()",
    " ",
    "->",
    "é",
    '"""',
]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_whatever_stands_in_a_test_masks_are_exact(body: str) -> None:
    """What is masked put back gives the text again, and a line has the meaning of its statement."""
    for found in read_tests(in_test(f"assertTrue(a);\n{body}")).tests:
        raw = found.text.encode()
        spans = [raw[assertion.start : assertion.end].decode() for assertion in found.assertions]
        text = found.masked(range(len(spans)), MASK)
        for number, span in enumerate(spans):
            text = text.replace(MASK.format(number), span, 1)
        assert text == found.text
        for assertion in found.assertions:
            assert assertion.line is None or ("\n" not in assertion.line and valid_syntax(assertion.line, "java"))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    read_tests(text.encode("utf-8", "replace").decode())

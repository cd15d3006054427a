"""Records come from JSONL as they are, or the reader says which line is wrong and why."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillctl.core.data.records import (
    FIELDS,
    Record,
    fingerprint,
    logical_lines,
    parse_record,
    read_jsonl,
    write_jsonl,
)
from distillctl.core.errors import DataError, DistillError, UsageError

ROW: dict[str, Any] = {
    "id": "demo/tests/test_add.py::test_add@0",
    "language": "python",
    "project": "demo",
    "path": "tests/test_add.py",
    "focal_method": "def add(a, b):\n    return a + b",
    "test_method_masked": "def test_add():\n    <extra_id_0>",
    "assertions": ["assert add(1, 2) == 3"],
}
RECORD = Record(**{**ROW, "assertions": tuple(ROW["assertions"])})


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects, or lines as they are) to a JSONL file."""

    def write(*rows: object) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def test_what_is_written_is_read(tmp_path: Path) -> None:
    odd = replace(RECORD, id="2", focal_method='tab\t "quote" é 𝄞 \u2028 \x00 \n end', project="")
    path = tmp_path / "out.jsonl"
    assert write_jsonl(path, [RECORD, odd]) == 2
    loaded = read_jsonl(path)
    assert loaded.records == (RECORD, odd)
    assert loaded.notes == ()


def test_characters_that_end_lines_of_text_do_not_end_lines_of_json(file: Callable[..., Path]) -> None:
    row = {**ROW, "assertions": ["assert x == 'a\u2028b\u0085c'"]}
    path = file(json.dumps(row, ensure_ascii=False).encode(), {**ROW, "id": "2"})
    assert [record.id for record in read_jsonl(path).records] == [ROW["id"], "2"]
    assert read_jsonl(path).records[0].assertions == ("assert x == 'a\u2028b\u0085c'",)


def test_names_of_the_first_pipeline_are_read(file: Callable[..., Path]) -> None:
    row = {name: value for name, value in ROW.items() if name not in ("focal_method", "assertions")}
    row |= {
        "focal_file": "int f() { return 1; }",
        "original_target": "assertEquals(1, f());",
        "language": "java",
    }
    (record,) = read_jsonl(file(row)).records
    assert record.focal_method == "int f() { return 1; }"
    assert record.assertions == ("assertEquals(1, f());",)
    assert record.language == "java"


@pytest.mark.parametrize("reverse", [False, True])
def test_todays_name_wins_over_an_alias(reverse: bool) -> None:
    row = {"focal_file": "the whole file", **ROW}
    if reverse:
        row = dict(reversed(row.items()))
    assert parse_record(row, "here") == RECORD


def test_a_header_is_skipped_with_a_note(file: Callable[..., Path]) -> None:
    path = file({"language": "python", "created": "2024"}, ROW)
    loaded = read_jsonl(path)
    assert loaded.records == (RECORD,)
    assert loaded.notes == (f"{path}:1: header line skipped",)


def test_blank_lines_and_a_byte_order_mark_are_passed_over(file: Callable[..., Path]) -> None:
    path = file(b"\xef\xbb\xbf", b"  ", b"", {"format": 1}, ROW, b"\r")
    with pytest.raises(DataError, match=":1: not valid JSON"):
        read_jsonl(path)  # a mark on a line of its own is no line
    path = file(b"", {"format": 1}, ROW, b"\r")
    assert read_jsonl(path).notes == (f"{path}:2: header line skipped",)
    path = file(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r", b"")
    assert read_jsonl(path).records == (RECORD,)


def test_only_the_first_line_may_be_a_header(file: Callable[..., Path]) -> None:
    path = file(ROW, {"format": 1})
    with pytest.raises(DataError, match=r"data\.jsonl:2: missing fields id, language, project"):
        read_jsonl(path)
    with pytest.raises(DataError, match=r"data\.jsonl:2: missing fields"):
        read_jsonl(file({"format": 1}, {"format": 2}, ROW))


MASKS = "test_method_masked"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"'a'", "not valid JSON: Expecting value at column 1"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
        (b"[" * 100_000, "not valid JSON: "),
        (b'"\xff"', "not UTF-8 text (byte 1 of the line)"),
        ([1, 2], "should be a JSON object. Found list"),
        (None, "should be a JSON object. Found NoneType"),
        ({}, "missing fields " + ", ".join(FIELDS)),
        ({k: v for k, v in ROW.items() if k != "project"}, "missing field project"),
        ({**ROW, "id": 7}, "field id should be text. Found int"),
        ({**ROW, "focal_method": None}, "field focal_method should be text. Found NoneType"),
        ({**ROW, "language": "go"}, "language should be one of python, java. Found 'go'"),
        ({**ROW, "language": ["python"]}, "field language should be text. Found list"),
        ({**ROW, "assertions": None}, "assertions should be a list of texts"),
        ({**ROW, "assertions": ["assert x", 1]}, "assertions should be a list of texts"),
        ({**ROW, "assertions": []}, "assertions are empty"),
        ({**ROW, "assertions": ""}, "assertions are empty"),
        ({**ROW, "assertions": [" ", "\n\n"]}, "assertions are empty"),
        ({**ROW, "assertions": ['f("""\n""")']}, 'the assertion that starts with \'f("""\\n""")\''),
        ({**ROW, MASKS: "def test(): pass"}, "test_method_masked has no mask: write <extra_id_0>"),
        ({**ROW, MASKS: "<extra_id_1>"}, "do not match the number of assertions, 1"),
        ({**ROW, MASKS: "<extra_id_0><extra_id_1>"}, "Found <extra_id_0>, <extra_id_1>"),
        ({**ROW, MASKS: "<extra_id_0><extra_id_0>"}, "do not match"),
        ({**ROW, MASKS: f"<extra_id_{'9' * 5000}>"}, "do not match"),
        ({**ROW, "focal_method": "x\ud800"}, "field focal_method holds half a character"),
        ({**ROW, "assertions": ["assert '\udfff'"]}, "field assertions holds half a character"),
        (ROW, "id 'demo/tests/test_add.py::test_add@0' is taken by line 2: predictions are matched by id"),
    ],
)
def test_every_error_names_file_and_line(file: Callable[..., Path], line: object, problem: str) -> None:
    path = file({"header": True}, ROW, line)
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("masked", "valid"),
    [
        ("<extra_id_0>", True),  # one for all, as the first pipeline wrote it
        ("<extra_id_0>\n<extra_id_1>\n<extra_id_2>", True),
        ("<extra_id_0>\n<extra_id_1>", False),
        ("<extra_id_0>\n<extra_id_2>\n<extra_id_1>", False),
        ("<extra_id_0>\n<extra_id_1>\n<extra_id_3>", False),
        ("<extra_id_1>", False),
        ("<extra_id_0>\n<extra_id_1>\n<extra_id_2>\n<extra_id_3>", False),
    ],
)
def test_one_mask_per_assertion_or_one_for_all(masked: str, valid: bool) -> None:
    row = {**ROW, "test_method_masked": masked, "assertions": ["assert a", "assert b", "assert c"]}
    if valid:
        assert parse_record(row, "here").test_method_masked == masked
    else:
        with pytest.raises(DataError, match=r"here: .* do not match the number of assertions, 3"):
            parse_record(row, "here")


@pytest.mark.parametrize(
    ("language", "text", "lines"),
    [
        ("python", "  assert x  ", ["assert x"]),
        ("python", "assert a\nassert b\n", ["assert a", "assert b", ""]),
        ("python", "assert f(\n    1,  # one\n    2,\n) == 3\nassert b", ["assert f(1, 2) == 3", "assert b"]),
        ("python", "assert a == \\\n    b\nassert c", ["assert a == b", "assert c"]),
        (
            "python",
            "assert a == ')('\nassert b  # (\nassert c",
            ["assert a == ')('", "assert b  # (", "assert c"],
        ),
        ("python", 'assert a == """x\n"""', ['assert a == """x\n"""']),
        ("java", "assertEquals(\r\n    1,\r\n    f());", ["assertEquals(1, f());"]),
        (
            "java",
            "assertThat(x)\n    .isEqualTo(2);\nassertTrue(y);",
            ["assertThat(x).isEqualTo(2);", "assertTrue(y);"],
        ),
        ("java", "assertEquals(  // why\n  '(',/* a\n b */ x);\nf();", ["assertEquals('(', x);", "f();"]),
        ("java", "assertThat(x)\n    // why\n\n    .isEqualTo(1);\nf();", ["assertThat(x).isEqualTo(1);", "f();"]),
        ("java", "assertThat(x) // why\n    /* a\n b */ .isEqualTo(1);", ["assertThat(x).isEqualTo(1);"]),
        ("java", 'assert x == 1\n    : "no";', ['assert x == 1 : "no";']),
        ("java", "assert a\n    && b\n    || c;\nassert d;", ["assert a && b || c;", "assert d;"]),
        ("java", 'assert x == 1\n    : "no"\n    + y;\n++z;', ['assert x == 1 : "no" + y;', "++z;"]),
        (
            "java",
            "assertTrue(a);\n/* x */ assertTrue(b);\n/* y */ assertTrue(c)\n/* z */.foo();",
            ["assertTrue(a);", "/* x */ assertTrue(b);", "assertTrue(c).foo();"],
        ),
        ("java", "assertTrue(a)\nassertTrue(b)", ["assertTrue(a)", "assertTrue(b)"]),
        ("java", "assert a\n  == b;\nassert -c\n  - d > e;", ["assert a == b;", "assert -c - d > e;"]),
        ("java", "assert x\n  instanceof Y;\n--z;", ["assert x instanceof Y;", "--z;"]),
        (
            "java",
            "try {\n  foo(); fail();\n}\ncatch (E e) {\n  assertTrue(e.x);\n}\nfoo();",
            ["try { foo(); fail(); } catch (E e) { assertTrue(e.x); }", "foo();"],
        ),
        (
            "java",
            'for (int i = 0; i < f(")"); i++)  // all\n  assertEquals(i, a[i]);\nif (x) f();\nelse\n  g();\nh();',
            ['for (int i = 0; i < f(")"); i++) assertEquals(i, a[i]);', "if (x) f(); else g();", "h();"],
        ),
        ("java", "if (a) b(c)\nassertTrue(d);", ["if (a) b(c)", "assertTrue(d);"]),
        ("java", "try\n{ f(); }\ncatch (E e)\n{ g(); }\nh(); i();", ["try { f(); } catch (E e) { g(); }", "h(); i();"]),
        (
            "java",
            "for (A a : b)\n  if (a.x)\n    f(a);\ndo\n  g();\nwhile (x);",
            ["for (A a : b) if (a.x) f(a);", "do g(); while (x);"],
        ),
        (
            "java",
            'int a =\n  1;\nassert x ||\n  b :\n  "é"; // why\nf();',
            ["int a = 1;", 'assert x || b : "é";', "f();"],
        ),
        ("java", "f();\n} void b() {\ng();", ["f();", "} void b() { g();"]),
        ("python", "assert a == 1\rassert b == 2", ["assert a == 1", "assert b == 2"]),
        ("java", 'assertEquals("""\n  x""", y);', ['assertEquals("""\n  x""", y);']),
    ],
)
def test_a_statement_of_several_lines_becomes_one(language: str, text: str, lines: list[str]) -> None:
    assert logical_lines(text, language) == lines


@settings(max_examples=150)
@given(st.text(alphabet=" \n\r\t\\()[]{}'\"#/*.,;ab", max_size=40), st.sampled_from(["python", "java"]))
def test_cutting_lines_takes_any_text(text: str, language: str) -> None:
    lines = logical_lines(text, language)
    assert all(line == line.strip() for line in lines)
    if not set(text) & {"\n", "\r"}:
        assert lines == [text.strip()]
    flat = "".join("".join(lines).split())
    assert not set(flat) - set(text)


@pytest.mark.parametrize("rule", ["/" * 50_000, "/**/" * 12_000, "// f(); \n" * 500, "/* " * 2_000, " \n" * 2_000])
def test_a_comment_of_any_length_is_read_at_once(rule: str) -> None:
    """Within a statement: what goes on behind it is looked for at every line end."""
    started = time.process_time()
    logical_lines(f"assertEquals(1,\n{rule}\n  f());\n{rule}\nassertTrue(x);", "java")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("language", "texts", "kept"),
    [
        ("python", ["# why", "assert x  # it is"], ["assert x  # it is"]),
        ("python", "# why\nassert x", ["assert x"]),
        ("java", ["", "// why\nassertTrue(x);", "/* a\n b */"], ["assertTrue(x);"]),
    ],
)
def test_comments_are_no_assertions(language: str, texts: object, kept: list[str]) -> None:
    row = {**ROW, "language": language, "test_method_masked": "<extra_id_0>", "assertions": texts}
    assert list(parse_record(row, "here").assertions) == kept
    with pytest.raises(DataError, match="the number of assertions, 1 without comments and blank ones"):
        parse_record({**row, "test_method_masked": "<extra_id_0> <extra_id_1>"}, "here")


def test_missing_file_and_directory_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="is a directory"):
        read_jsonl(tmp_path)


@pytest.mark.parametrize("rows", [[], [{"header": 1}], [b"", b" "]])
def test_a_file_without_a_record_is_refused(file: Callable[..., Path], rows: list[object]) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl: holds no record"):
        read_jsonl(file(*rows))


def test_a_name_that_no_file_can_have_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_jsonl(Path("a\0b"))


ANY_FILE = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=10)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXT | JSON,
        "language": st.sampled_from(["python", "java", "c"]) | JSON,
        "project": TEXT,
        "path": TEXT,
        "focal_method": TEXT | JSON,
        "focal_file": TEXT,
        "test_method_masked": st.builds("{}<extra_id_0>{}".format, TEXT, TEXT) | TEXT,
        "assertions": st.lists(TEXT, max_size=3) | JSON,
        "original_target": TEXT,
    },
)


@ANY_FILE
@given(content=st.binary(max_size=60))
def test_any_bytes_give_records_or_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(DistillError):
        read_jsonl(path)


@ANY_FILE
@given(rows=st.lists(ROWS | JSON, max_size=3))
def test_any_json_gives_records_or_an_error(tmp_path: Path, rows: list[object]) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        records = read_jsonl(path).records
    except DistillError as error:
        assert str(path) in str(error)
        return
    assert records
    for record in records:
        assert record.assertions
        assert all(line.strip() == line and "\n" not in line for line in record.assertions)
        assert "<extra_id_0>" in record.test_method_masked
    write_jsonl(path, records)
    assert read_jsonl(path).records == records


def test_the_key_is_the_content_alone() -> None:
    same = replace(RECORD, id="x", project="y", path="z")
    assert same.key == RECORD.key
    assert len(RECORD.key) == 32
    others = [
        replace(RECORD, language="java"),
        replace(RECORD, focal_method=""),
        replace(RECORD, test_method_masked="<extra_id_0>"),
        replace(RECORD, assertions=("assert y",)),
        replace(RECORD, test_method_masked="<extra_id_0>\x00", focal_method="a"),
        replace(RECORD, test_method_masked="<extra_id_0>", focal_method="\x00a"),
    ]
    assert len({record.key for record in [RECORD, *others]}) == 7


def test_the_fingerprint_is_ids_and_keys_in_order() -> None:
    other = replace(RECORD, id="é")
    expected = hashlib.sha256(f"{RECORD.id}\0{RECORD.key}\né\0{RECORD.key}\n".encode()).hexdigest()
    assert fingerprint([RECORD, other]) == expected
    assert fingerprint([other, RECORD]) != expected


def test_the_target_is_one_assertion_a_line() -> None:
    assert replace(RECORD, assertions=("assert a", "assert b")).target == "assert a\nassert b"


@pytest.mark.parametrize("text", ["with self.assertRaises(KeyError):\n    d['x']", "  for i in x:\n      assert i"])
def test_a_statement_of_several_lines_is_not_cut_into_pieces_that_are_none(text: str) -> None:
    with pytest.raises(DataError, match=r"where: the assertion that starts with .* cannot be written on one line"):
        parse_record({**ROW, "assertions": [text]}, "where")


def test_lines_that_are_no_python_at_all_are_taken_as_they_are() -> None:
    record = parse_record({**ROW, "assertions": ["print x\nassert x"]}, "where")
    assert record.assertions == ("print x", "assert x")


def test_line_ends_of_windows_are_line_feeds_everywhere() -> None:
    masked = ROW["test_method_masked"]
    there = {**ROW, "focal_method": "def f():\r\n    return 1\r", "test_method_masked": masked.replace("\n", "\r\n")}
    record = parse_record(there, "where")
    assert record.focal_method == "def f():\n    return 1\n"
    assert record.test_method_masked == masked


def test_java_of_many_lines_is_cut_in_no_time() -> None:
    started = time.perf_counter()
    for text in ("do\n" * 4_000, "if (x)\n" * 4_000, "f();\n" * 4_000, "try {\n" * 4_000):
        logical_lines(text, "java")
    assert time.perf_counter() - started < 5

"""The earlier pipeline's files are read value for value, and bad ones are refused with file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.data.records import LoadedFile
from distillctl.core.data.trident import TridentFile, lines_with_logits, read_logits, read_trident
from distillctl.core.errors import DataError, UsageError
from tests.trident import compressed, write_trident

FILE = TridentFile(Path("old.jsonl"), LoadedFile((), ()), (), frozenset(), "")
FLOATS = [[0.1, -3.5, 1e-3, 65504.0], [-0.0, 7.25, -1e4, 2.0], [1.5, 2.5, -2.5, 1e-7]]
CODES = [[0, 15, 7, 8], [1, 2, 3, 4], [14, 5, 9, 6]]
ROW = {"focal_file": "int a() { return 1; }", "test_method_masked": "@Test\nvoid t() {\n  <extra_id_0>\n}"}


def read(value: Any, tokens: int = 3, widths: tuple[int, ...] = (4,)) -> np.ndarray:
    return read_logits(FILE, 7, value, tokens, widths)


@pytest.fixture(params=[False, True], ids=["plain", "lz4"])
def lz4(request: pytest.FixtureRequest) -> bool:
    if request.param:
        pytest.importorskip("lz4.frame")
    return bool(request.param)


def test_floats_are_exact(lz4: bool) -> None:
    assert read(compressed(FLOATS, 32, lz4=lz4)).tolist() == np.array(FLOATS, np.float32).tolist()
    assert read(compressed(FLOATS, 16, lz4=lz4)).tolist() == np.array(FLOATS, np.float16).astype(np.float32).tolist()


@pytest.mark.parametrize(("bits", "packed"), [(8, False), (4, False), (4, True)])
@pytest.mark.parametrize(("scale", "zero"), [(0.25, 7), (0.1, 7.5), (1 / 3, 0), (2.0, -3)])
def test_codes_are_scaled_exactly(bits: int, packed: bool, scale: float, zero: float, lz4: bool) -> None:
    found = read(compressed(CODES, bits, packed=packed, lz4=lz4, scale=scale, zero_point=zero))
    assert found.dtype == np.float32
    assert found.tolist() == [[float(np.float32((code - zero) * scale)) for code in row] for row in CODES]


def test_all_256_codes_and_an_odd_number_of_nibbles() -> None:
    found = read(compressed([list(range(256))], 8), 1, (256,))
    assert found[0].tolist() == [(code - 7) * 0.25 for code in range(256)]
    assert read(compressed([[1, 2, 15]], 4, packed=True), 1, (3,)).tolist() == [[-1.5, -1.25, 2.0]]
    assert compressed([[1, 2, 15]], 4, packed=True)["data_encoded"]["data"] == "210f"  # even index in the low nibble


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bits 3": ({"bits": 3}, "bits should be 4, 8, 16 or 32. Found 3"),
    "bits true": ({"bits": True}, "bits should be 4"),
    "bits list": ({"bits": [8]}, "bits should be 4"),
    "no shape": ({"shape": None}, "shape should be [target tokens, vocabulary]. Found None"),
    "three sizes": ({"shape": [1, 3, 4]}, "shape should be"),
    "size 0": ({"shape": [0, 4]}, "shape should be"),
    "fractional size": ({"shape": [3.0, 4]}, "shape should be"),
    "other length": ({"shape": [4, 4]}, "4 positions for a target of 3 tokens"),
    "huge": ({"shape": [3, 10**15]}, "1,000,000,000,000,000 logits a token, and this run's vocabulary has 4"),
    "huge length": ({"shape": [10**12, 4]}, "1,000,000,000,000 positions for a target of 3 tokens"),
    "other vocabulary": ({"shape": [3, 5]}, "5 logits a token, and this run's vocabulary has 4"),
    "no data": ({"data_encoded": {}}, "data_encoded should be an object with encoding and data"),
    "data as list": ({"data_encoded": {"encoding": "none", "data": [1]}}, "data_encoded should be an object"),
    "half a byte": ({"data_encoded": {"encoding": "none", "data": "00" * 11 + "0"}}, "data is not hex, or cut short"),
    "not hex": ({"data_encoded": {"encoding": "none", "data": "zz"}}, "data is not hex"),
    "cut short": ({"data_encoded": {"encoding": "none", "data": "00" * 11}}, "holds 11 bytes, and its shape and bits"),
    "too long": ({"data_encoded": {"encoding": "none", "data": "00" * 13}}, "holds 13 bytes"),
    "zip": ({"data_encoded": {"encoding": "zip", "data": "00"}}, "encoding should be lz4 or none. Found 'zip'"),
    "no scale": ({"scale": None}, "scale should be a number. Found 'None'"),
    "scale NaN": ({"scale": float("nan")}, "scale should be a number"),
    "scale 0": ({"scale": 0}, "scale should be above 0"),
    "zero point as text": ({"zero_point": "7"}, "zero_point should be a number"),
    "zero point of 400 digits": ({"zero_point": 10**400}, "zero_point should be a number"),
    "packed bytes": ({"packed": True}, "packed should be true or false, and true with bits 4 only"),
    "infinite": ({"scale": 3e38, "zero_point": -9}, "holds values that are not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_the_format_is_refused(case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(DataError) as error:
        read(compressed(CODES, 8) | changes)
    assert str(error.value).startswith("old.jsonl:7: compressed_logits") and message in str(error.value)
    assert len(str(error.value)) < 250


def test_more_that_is_refused() -> None:
    for value, message in (
        ([1], "should be an object. Found list"),
        (compressed([[16, 1, 1, 1]] * 3, 4), "a code of 16 where bits is 4"),
        (compressed([[float("inf"), 1, 1, 1]] * 3, 32), "not finite"),
        (compressed([[float("nan"), 1, 1, 1]] * 3, 16), "not finite"),
    ):
        with pytest.raises(DataError, match=message):
            read(value)


def test_damaged_lz4_frames_are_refused_and_bombs_are_not_unpacked() -> None:
    frame = pytest.importorskip("lz4.frame")
    whole = bytes.fromhex(compressed(CODES, 8, lz4=True)["data_encoded"]["data"])
    bomb = frame.compress(bytes(50_000_000))
    assert len(bomb) < 250_000
    for raw, message in (
        (whole[:-5], "cut short"),
        (whole + b"x", "more behind its end"),
        (b"\x00" + whole[1:], "damaged LZ4 frame"),
        (frame.compress(bytes(11)), "holds 11 bytes"),
        (bomb, "unpacks to more than the 12 bytes"),
    ):
        with pytest.raises(DataError, match=message):
            read(compressed(CODES, 8) | {"data_encoded": {"encoding": "lz4", "data": raw.hex()}})


def test_a_missing_lz4_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(UsageError, match=r"pip install 'distillctl\[trident\]'"):
        read(compressed(CODES, 8) | {"data_encoded": {"encoding": "lz4", "data": "00"}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["bits", "shape", "data_encoded", "scale", "zero_point", "packed", None]), JSON)
def test_any_value_is_read_or_refused(field: str | None, value: Any) -> None:
    try:
        read(value if field is None else compressed(CODES, 8) | {field: value})
    except DataError as error:
        assert str(error).startswith("old.jsonl:7: ")


def test_records_are_completed_and_the_header_is_skipped(tmp_path: Path) -> None:
    rows = [
        ROW | {"original_target": "assertEquals(1, a());"},
        ROW | {"assertions": ["assertEquals(1,\n    a());"], "compressed_logits": compressed(CODES, 8)},
        ROW | {"assertions": ["x"], "id": "mine", "language": "python", "project": "p", "path": "q", "extra": 1},
        {**ROW, "focal_file": "", "original_target": "assertTrue(b());", "compressed_logits": None},
    ]
    file = read_trident(write_trident(tmp_path / "old.jsonl", rows), "java")
    assert file.loaded.notes == (f"{tmp_path}/old.jsonl:1: header line skipped",)
    first, second, third, fourth = file.loaded.records
    assert (first.id, first.language, first.project) == ("old:2", "java", "old")
    assert first.focal_method == ROW["focal_file"]
    assert first.assertions == second.assertions == ("assertEquals(1, a());",)
    assert first.path == second.path != fourth.path  # tests of one method stay in one split
    assert (third.id, third.language, third.project, third.path) == ("mine", "python", "p", "q")
    assert file.lines == (2, 3, 4, 5) and file.with_logits == {3}
    assert [(line, value["bits"]) for line, value in lines_with_logits(file, {2, 3, 4})] == [(3, 8)]
    assert list(lines_with_logits(file, {2})) == []


@pytest.mark.parametrize("turn", [1, -1])
def test_of_two_names_of_one_field_the_new_one_counts_and_null_is_nothing(tmp_path: Path, turn: int) -> None:
    row = ROW | {"original_target": "assertTrue(old);", "assertions": ["assertTrue(mine);"], "focal_method": "int m()"}
    row |= {"language": None, "id": None}
    file = read_trident(write_trident(tmp_path / "old.jsonl", [dict(list(row.items())[::turn])]), "java")
    (found,) = file.loaded.records
    assert (found.assertions, found.focal_method) == (("assertTrue(mine);",), "int m()")
    assert (found.id, found.language) == ("old:2", "java")


def test_the_fingerprint_is_of_the_whole_file(tmp_path: Path) -> None:
    rows = [ROW | {"original_target": "assertTrue(a);", "compressed_logits": compressed(CODES, 8)}]
    one = read_trident(write_trident(tmp_path / "one.jsonl", rows), "java")
    rows[0]["compressed_logits"] = compressed(CODES, 8, scale=0.5)
    assert read_trident(write_trident(tmp_path / "one.jsonl", rows), "java").sha256 != one.sha256


@pytest.mark.parametrize(
    ("row", "language", "kind", "message"),
    [
        (ROW | {"original_target": "a"}, None, DataError, "old.jsonl:2: does not say its language. Give --language"),
        (ROW | {"original_target": "a"}, "cobol", UsageError, "--language should be one of python, java"),
        (ROW, "java", DataError, "old.jsonl:2: missing field assertions"),
        (
            {**ROW, "test_method_masked": "no mask", "original_target": "a"},
            "java",
            DataError,
            "2: test_method_masked has",
        ),
    ],
)
def test_bad_records_are_refused(
    row: dict[str, Any], language: str | None, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as error:
        read_trident(write_trident(tmp_path / "old.jsonl", [row]), language)
    assert message in str(error.value)

"""A file, or its .xz in its place."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.errors import DataError
from distillctl.core.store import compressed as module
from distillctl.core.store.compressed import compressed, read_stored, sha256_of_stored, stored_at


@given(st.binary(max_size=2_000))
@settings(max_examples=30, deadline=None)
def test_what_was_compressed_comes_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("stored") / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(compressed(content))
    assert read_stored(path) == content
    assert sha256_of_stored(path) == hashlib.sha256(content).hexdigest()
    assert compressed(content) == compressed(content)


def test_the_plain_file_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(compressed(b"packed"))
    path.write_bytes(b"plain")
    assert stored_at(path) == path
    assert read_stored(path) == b"plain"


def test_neither_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl"):
        read_stored(tmp_path / "rows.jsonl")


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_result_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("stored") / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl\.xz: (damaged|cut short)"):
        read_stored(path)


@pytest.mark.parametrize("length", [0, 1, 12, 40, -1])
def test_a_file_cut_short(tmp_path: Path, length: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(compressed(b"some rows\n" * 50)[:length])
    with pytest.raises(DataError, match="cut short"):
        read_stored(path)


def test_a_flipped_byte(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    packed = bytearray(compressed(bytes(range(256)) * 4))
    packed[len(packed) // 2] ^= 1
    path.with_name("rows.jsonl.xz").write_bytes(packed)
    with pytest.raises(DataError, match="damaged"):
        read_stored(path)


def test_something_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(compressed(b"rows") + b"more")
    with pytest.raises(DataError, match="follows its end"):
        read_stored(path)


def test_a_few_bytes_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1_000)
    path = tmp_path / "rows.jsonl"
    path.with_name("rows.jsonl.xz").write_bytes(lzma.compress(bytes(1_000_000)))
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        read_stored(path)

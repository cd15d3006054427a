"""The files of a cache: what is written is read, whatever is damaged is named, and one process captures at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError, RunError
from distillctl.core.teacher.cache_format import INDEX_DTYPE, CacheDirectory, Identity
from distillctl.core.teacher.cached import CacheReader

WANTED = Identity("a" * 64, "b" * 64, 300, 64, 20, 4, 1.0)


def example(number: int, tokens: int = 3) -> Example:
    return Example(f"key-{number}", (5, number, 1), (*range(2, 1 + tokens), number))


def rows_of(number: int, tokens: int = 3, identity: Identity = WANTED) -> np.ndarray:
    rows = np.zeros(tokens, identity.layout.dtype)
    rows["log_sum_exp"] = number + np.arange(tokens) / 10
    return rows


def append(cache: CacheDirectory, numbers: list[int], facts: dict[str, Any] | None = None) -> None:
    index = np.zeros(len(numbers), INDEX_DTYPE)
    for place, number in enumerate(numbers):
        high, low = np.frombuffer(example(number).digest(), "<u8")
        index[place] = (high, low, 3 * place, 3)
    with cache.capturing(lambda: None):
        cache.append(np.concatenate([rows_of(number) for number in numbers]), index, facts or {})


@pytest.fixture
def cache(tmp_path: Path) -> CacheDirectory:
    made = CacheDirectory(tmp_path / "cache", WANTED)
    append(made, [3, 1, 4], {"precisions": ["float32"]})
    append(made, [15, 9, 2])
    return made


def test_what_is_written_is_read_by_example_and_not_by_place(cache: CacheDirectory) -> None:
    again = CacheDirectory(cache.path, WANTED)
    again.check_files()
    assert (again.tokens, again.examples, len(again.shards)) == (18, 6, 2)
    assert again.facts == {"precisions": ["float32"]}
    reader = CacheReader(again)
    for number in (9, 4, 3, 15, 1, 2):
        assert np.array_equal(reader.rows(example(number)), rows_of(number))
    padded = reader.padded([example(2), example(15)], 5)
    assert padded.shape == (2, 5)
    assert padded["log_sum_exp"][1, :4].tolist() == pytest.approx([15.0, 15.1, 15.2, 0.0])
    assert [e.key for e in reader.missing([example(7), example(1), example(7), example(8)])] == ["key-7", "key-8"]
    with pytest.raises(DataError, match="does not hold example key-7: run distillctl prepare"):
        reader.rows(example(7))


def test_size_is_that_of_the_files(cache: CacheDirectory) -> None:
    assert cache.nbytes == sum(file.stat().st_size for file in cache.path.iterdir() if file.name != ".lock")
    assert sorted(file.name for file in cache.path.iterdir()) == [
        ".lock",
        ".manifest.lock",
        "cache.json",
        "shard-00000.index",
        "shard-00000.rows",
        "shard-00001.index",
        "shard-00001.rows",
    ]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("teacher", "c" * 64, "teacher aaaaaaaaaaaa there, cccccccccccc here"),
        ("tokenizer", "c" * 64, "tokenizer bbbbbbbbbbbb there, cccccccccccc here"),
        ("vocabulary", 301, "vocabulary 300 there, 301 here"),
        ("max_source_length", 65, "max source length 64 there, 65 here"),
        ("max_target_length", 21, "max target length 20 there, 21 here"),
        ("top_k", 8, "top k 4 there, 8 here"),
        ("temperature", 2.0, "temperature 1.0 there, 2.0 here"),
        ("schema", 2, "schema 1 there, 2 here"),
    ],
)
def test_a_cache_of_something_else_is_refused(cache: CacheDirectory, field: str, value: Any, words: str) -> None:
    other = replace(WANTED, **{field: value})
    assert other.name != WANTED.name
    with pytest.raises(DataError) as caught:
        CacheDirectory(cache.path, other)
    assert f"a cache of something else ({words}). Choose another teacher.cache_dir" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def flip(file: Path, place: int = 40) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "name", "how"),
    [
        (flip, "shard-00001.rows", "not the bytes that were written"),
        (flip, "shard-00000.index", "not the bytes that were written"),
        (flip, "cache.json", ""),
        (cut, "shard-00000.rows", r"\d+ bytes long, and should be \d+"),
        (cut, "shard-00001.index", r"\d+ bytes long, and should be \d+"),
        (cut, "cache.json", ""),
        (Path.unlink, "shard-00001.rows", "missing"),
        (Path.unlink, "shard-00000.index", "missing"),
    ],
)
def test_damage_is_found_and_named(cache: CacheDirectory, damage: Callable[[Path], None], name: str, how: str) -> None:
    damage(cache.path / name)
    with pytest.raises(DataError, match=rf"damaged teacher cache \({name}: {how}.*\)\. Delete that directory"):
        CacheDirectory(cache.path, WANTED).check_files()


@pytest.mark.parametrize("place", range(0, 700, 13))
def test_no_flipped_byte_of_the_manifest_passes(cache: CacheDirectory, place: int) -> None:
    flip(cache.path / "cache.json", place)
    with pytest.raises(DataError):
        CacheDirectory(cache.path, WANTED).check_files()


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"sha256": "x"}', "\x00"])
def test_a_manifest_that_is_none_is_refused(cache: CacheDirectory, content: str) -> None:
    (cache.path / "cache.json").write_text(content)
    with pytest.raises(DataError, match=r"damaged teacher cache \(cache\.json: "):
        CacheDirectory(cache.path, WANTED)


def test_a_shard_cut_or_removed_while_in_use_is_an_error(cache: CacheDirectory) -> None:
    reader = CacheReader(cache)
    cut(cache.rows_file(0))
    with pytest.raises(DataError, match=r"shard-00000\.rows: cut short"):
        reader.rows(example(4))
    cache.rows_file(1).unlink()
    with pytest.raises(DataError, match=r"shard-00001\.rows: missing"):
        reader.rows(example(9))


def test_a_full_disk_keeps_what_was_captured(cache: CacheDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync
    for failing, name in enumerate(("shard-00002.rows", "shard-00002.index", "cache.json")):
        synced: list[int] = []

        def full(descriptor: int, synced: list[int] = synced, failing: int = failing) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                synced.append(descriptor)
                if len(synced) == failing + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr("distillctl.core.run_dir.files.os.fsync", full)
            with pytest.raises(RunError, match=rf"{name}: No space left on device; free some space\. The 6 examples"):
                append(cache, [7])
        assert len(cache.shards) == 2
        again = CacheDirectory(cache.path, WANTED)
        again.check_files()
        assert again.examples == 6
    append(cache, [7])
    assert np.array_equal(CacheReader(CacheDirectory(cache.path, WANTED)).rows(example(7)), rows_of(7))


def test_what_a_killed_writer_left_is_cleared_away(cache: CacheDirectory) -> None:
    left = cache.path / ".shard-00002.rows.abc.tmp"
    left.write_bytes(b"half")
    (cache.path / "shard-00002.rows").write_bytes(b"a shard that no manifest names")
    append(cache, [7])
    assert not left.exists()
    again = CacheDirectory(cache.path, WANTED)
    again.check_files()
    assert again.examples == 7


def test_one_captures_and_the_other_waits_and_sees_it(cache: CacheDirectory) -> None:
    waited, entered = threading.Event(), threading.Event()
    other = CacheDirectory(cache.path, WANTED)
    found: list[int] = []

    def second() -> None:
        with other.capturing(waited.set):
            found.append(other.examples)
            entered.set()

    with cache.capturing(lambda: pytest.fail("nobody else is here")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        assert not entered.is_set()
        index = np.zeros(1, INDEX_DTYPE)
        index[0] = (*np.frombuffer(example(7).digest(), "<u8"), 0, 3)
        cache.append(rows_of(7), index, {})
    thread.join(10)
    assert found == [7]


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CacheDirectory(tmp_path / "file" / "cache", WANTED)
    with pytest.raises(RunError, match=r"cannot write .*part of the path is a file"), cache.capturing(lambda: None):
        pass


def test_the_name_says_all_that_the_cache_is_of() -> None:
    assert len(WANTED.name) == 16
    assert WANTED.name == Identity(**asdict(WANTED)).name


def filled(path: Path, examples: int, tokens: int = 20, k: int = 64) -> tuple[CacheDirectory, list[Example]]:
    """A cache of random rows, in shards of 1,000 examples."""
    identity = replace(WANTED, top_k=k)
    cache, made = CacheDirectory(path, identity), []
    for start in range(0, examples, 1000):
        part = [example(number, tokens) for number in range(start, min(start + 1000, examples))]
        index = np.zeros(len(part), INDEX_DTYPE)
        for place, one in enumerate(part):
            index[place] = (*np.frombuffer(one.digest(), "<u8"), tokens * place, tokens)
        with cache.capturing(lambda: None):
            cache.append(np.zeros(tokens * len(part), identity.layout.dtype), index, {})
        made += part
    return cache, made


def test_bytes_per_token_at_64_ids(tmp_path: Path) -> None:
    cache, _ = filled(tmp_path / "cache", 3000, tokens=10)
    assert cache.layout.row_bytes == 264
    assert 264 < cache.nbytes / cache.tokens <= 270


def test_the_readers_memory_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    caches = [filled(tmp_path / str(factor), 800 * factor) for factor in (1, 4, 16)]
    process, used = psutil.Process(), []
    for cache, examples in caches:
        cache.check_files()
        reader = CacheReader(cache)
        for one in examples:
            reader.rows(one)
        used.append(process.memory_info().rss)
    assert used[2] <= 1.05 * used[0]
    shutil.rmtree(tmp_path)


def test_the_manifest_is_plain_json(cache: CacheDirectory) -> None:
    content = json.loads((cache.path / "cache.json").read_text())
    assert content["identity"] == asdict(WANTED)
    assert [shard["examples"] for shard in content["shards"]] == [3, 3]

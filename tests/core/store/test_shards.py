"""Directories of shards of any kind: no bytes of a manifest or an index are taken for what they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.errors import DataError, RunError
from distillctl.core.processes import Processes
from distillctl.core.store.completion import VERIFIED, Wanted, complete, verified_sample
from distillctl.core.store.reader import ShardReader
from distillctl.core.store.writer import ShardWriter, check_room
from tests.core.store.stores import WANTED, Numbers, Pile, add, digest, make_pile, rows_of
from tests.runs import Notes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["identity", "facts", "shards", "name", "tokens", "origin"]) | st.text(max_size=4), inner
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Pile:
    """Tests put back what they change."""
    return make_pile(tmp_path_factory.mktemp("store") / "pile")


@pytest.fixture
def fresh(tmp_path: Path) -> Pile:
    return make_pile(tmp_path / "pile")


def replaced(file: Path, content: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def open_and_check(path: Path) -> Pile:
    again = Pile(path, WANTED)
    again.check_files()
    ShardReader(again)
    return again


def test_what_is_written_is_read_by_content(pile: Pile) -> None:
    reader = ShardReader(open_and_check(pile.path))
    for number in (9, 4, 3, 15, 1, 2):
        place = reader.place(digest(number))
        assert place is not None
        assert reader.length(place) == number
        assert np.array_equal(reader.rows(place), rows_of(number))
    assert reader.place(digest(7)) is None
    assert reader.missing([7, 1, 7, 8], digest) == [7, 8]


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_other_text_is_a_manifest(pile: Pile, content: bytes) -> None:
    for _ in replaced(pile.path / "cache.json", content):
        with pytest.raises(DataError, match=r"damaged pile of numbers \(cache\.json: .*Delete that directory"):
            Pile(pile.path, WANTED)


def signed(values: dict[str, Any]) -> bytes:
    """A manifest whose own checksum is right, whatever it says."""
    text = json.dumps(values, sort_keys=True).encode()
    return json.dumps(values | {"sha256": hashlib.sha256(text).hexdigest()}).encode()


@settings(deadline=None, max_examples=60)
@given(values=st.dictionaries(st.sampled_from(["identity", "facts", "shards", "other"]), JSON))
def test_a_manifest_that_another_program_signed_is_refused_without_a_traceback(
    pile: Pile, values: dict[str, Any]
) -> None:
    for _ in replaced(pile.path / "cache.json", signed(values)):
        with pytest.raises(DataError) as caught:
            Pile(pile.path, WANTED)
        assert len(str(caught.value).splitlines()) == 1


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0), bit=st.integers(0, 7), name=st.sampled_from(["cache.json", "rows", "index"]))
def test_no_flipped_bit_passes(pile: Pile, place: int, bit: int, name: str) -> None:
    file = pile.path / (name if name == "cache.json" else f"shard-00001.{name}")
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    for _ in replaced(file, bytes(content)):
        with pytest.raises(DataError):
            open_and_check(pile.path)


@settings(deadline=None, max_examples=40)
@given(content=st.binary(max_size=100))
def test_no_other_bytes_are_an_index(pile: Pile, content: bytes) -> None:
    file = pile.index_file(0)
    if content == file.read_bytes():
        return
    for _ in replaced(file, content):
        with pytest.raises(DataError, match=r"shard-00000\.index: "):
            open_and_check(pile.path)


def test_one_of_something_else_is_refused(pile: Pile) -> None:
    other = Numbers("b" * 64)
    assert other.name != WANTED.name
    with pytest.raises(DataError) as caught:
        Pile(pile.path, other)
    assert str(caught.value) == (
        f"{pile.path}: a pile of something else (origin aaaaaaaaaaaa there, bbbbbbbbbbbb here). "
        "Choose another pile.cache_dir"
    )


def test_a_shard_is_written_when_it_is_full_and_the_rest_at_the_end(
    fresh: Pile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillctl.core.store.writer.SHARD_BYTES", 40)
    add(fresh, [10, 11, 5, 6, 1])
    assert [(shard.examples, shard.tokens) for shard in fresh.shards[2:]] == [(1, 10), (1, 11), (2, 11), (1, 1)]
    reader = ShardReader(fresh)
    place = reader.place(digest(6))
    assert place is not None
    assert np.array_equal(reader.rows(place), rows_of(6))


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, 7), (ValueError, 6)])
def test_ctrl_c_keeps_what_was_gathered_and_a_failure_does_not(
    fresh: Pile, error: type[BaseException], kept: int
) -> None:
    with pytest.raises(error), fresh.capturing(lambda: None), ShardWriter(fresh, {}) as writer:
        writer.add(digest(7), rows_of(7))
        raise error
    assert open_and_check(fresh.path).examples == kept


def test_too_little_room_says_what_may_be_done(fresh: Pile) -> None:
    check_room(fresh, 1)
    with pytest.raises(RunError, match=r"the pile of numbers needs [\d,]+ MiB more.*or count less far"):
        check_room(fresh, 2**70)


def wanted(*numbers: int) -> Wanted[int]:
    return Wanted(numbers, digest, lambda number: len(rows_of(number)))


class OneOf(Processes):
    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


def test_processes_share_the_items_and_leave_none_to_nobody() -> None:
    numbers = wanted(*range(100))
    shares = [numbers.share(numbers.items, OneOf(rank, 3)) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(100))
    assert all(len(share) > 10 for share in shares)
    # Whatever one of them does not see any more, the others' shares stay what they are.
    assert numbers.share(range(50, 100), OneOf(1, 3)) == [number for number in shares[1] if number >= 50]


def test_shards_added_by_two_processes_stand_one_behind_the_other(fresh: Pile) -> None:
    other, before = Pile(fresh.path, WANTED), len(fresh.shards)
    with fresh.capturing(lambda: pytest.fail("nobody else is here")):
        for pile, number, facts in ((fresh, 30, {"of": "one"}), (other, 40, {}), (fresh, 50, {})):
            with ShardWriter(pile, facts) as writer:
                writer.add(digest(number), rows_of(number))
    assert [shard.name for shard in fresh.shards[before:]] == [f"shard-{before + number:05d}" for number in range(3)]
    assert fresh.facts == {"of": "one"}
    reader = ShardReader(open_and_check(fresh.path))
    for number in (30, 40, 50):
        place = reader.place(digest(number))
        assert place is not None
        assert np.array_equal(reader.rows(place), rows_of(number))


def test_what_another_job_adds_between_two_looks_is_seen(fresh: Pile) -> None:
    """The main process finds all of it there; this one had looked before."""

    class Second(OneOf):
        def share(self, work: Any) -> Any:
            other = Pile(fresh.path, WANTED)
            with other.capturing(lambda: None), ShardWriter(other, {}) as writer:
                writer.add(digest(77), rows_of(77))
            return False

    reader = complete(fresh, wanted(77), lambda numbers: pytest.fail("captured"), Notes(), Second(1, 2))
    assert reader.place(digest(77)) is not None


def test_what_a_killed_process_left_is_cleared_and_nothing_else(fresh: Pile) -> None:
    left = [fresh.path / name for name in (".shard-00001.rows.0a1b.tmp", ".cache.json.0a1b.tmp")]
    mine = [fresh.path / name for name in (".notes.tmp", ".shard-notes", "shard-00009.rows.tmp")]
    for file in (*left, *mine):
        file.write_text("x")
    (fresh.path / ".vim.tmp").mkdir()
    with fresh.capturing(lambda: None):
        pass
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in mine) and (fresh.path / ".vim.tmp").is_dir()


def test_a_store_too_large_for_the_disk_is_refused_before_anything_is_captured(
    fresh: Pile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(RunError, match=r"the pile of numbers needs .* MiB more"):
        complete(fresh, wanted(3, 5), lambda numbers: pytest.fail("captured"), Notes())


def test_only_what_is_missing_is_captured_and_only_where_that_is_allowed(fresh: Pile) -> None:
    asked: list[list[int]] = []

    def capture(numbers: list[int]) -> None:
        asked.append(numbers)
        with ShardWriter(fresh, {}) as writer:
            for number in numbers:
                writer.add(digest(number), rows_of(number))

    with pytest.raises(DataError, match=r"lacks 1 of 3 numbers\. distillctl prepare captures them"):
        complete(fresh, wanted(3, 5, 4), None, Notes())
    complete(fresh, wanted(3, 5, 5, 4), capture, Notes())
    reader = complete(fresh, wanted(5, 9), capture, Notes())
    assert asked == [[5]]
    assert reader.place(digest(5)) is not None


def test_the_sample_depends_on_the_items_and_not_on_their_order() -> None:
    numbers = list(range(100))
    chosen = verified_sample(numbers, digest)
    assert len(chosen) == VERIFIED == len(set(chosen))
    assert verified_sample(numbers[::-1], digest) == chosen
    assert verified_sample([1, 2], digest) in ([1, 2], [2, 1])

"""Predictions on disk: found again by what was read, whole after a kill, refused when damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.core.errors import DataError, DistillError, RunError
from distillctl.core.evaluation.prediction_store import PredictionStore, input_key, store_name


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "below" / "store.jsonl"
    first = PredictionStore(path)
    assert first.missing(["a", "b", "a"]) == ["a", "b"]
    first.add({"a": "assert x == 'é\\n'\nassert y"})
    first.add({"b": ""})
    again = PredictionStore(path)
    assert (len(again), again["a"], again["b"]) == (2, "assert x == 'é\\n'\nassert y", "")
    assert "a" in again and "c" not in again
    assert again.missing(["a", "c"]) == ["c"]


@pytest.mark.parametrize("removed", [1, 5, 30])
def test_a_line_that_a_kill_cut_short_is_dropped_and_made_again(tmp_path: Path, removed: int) -> None:
    path = tmp_path / "store.jsonl"
    PredictionStore(path).add({"a": "assert one", "b": "assert two"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-removed])
    store = PredictionStore(path)
    assert store.missing(["a", "b"]) == ["b"]
    store.add({"b": "assert two"})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"input": 3, "prediction": "a"}', '{"input": "a"}', ""])
def test_damage_in_the_middle_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "store.jsonl"
    path.write_text(f'{{"input": "a", "prediction": "b"}}\n{line}\n{{"input": "c", "prediction": "d"}}\n')
    with pytest.raises(DataError, match=r"store\.jsonl:2: damaged prediction\. Delete this file"):
        PredictionStore(path)


@given(content=st.binary(max_size=80))
def test_any_bytes_are_a_store_or_an_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "store.jsonl"
    path.write_bytes(content)
    try:
        PredictionStore(path).add({"a": "b"})
    except DistillError:
        return
    assert PredictionStore(path)["a"] == "b"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PredictionStore(tmp_path / "store.jsonl")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"store\.jsonl: predictions cannot be stored: No space left on device"):
        store.add({"a": "b"})


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_what_others_stored_is_read_and_what_is_new_kept_in_memory(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / "store.jsonl", os.open
    PredictionStore(path).add({"a": "b"})
    content = path.read_bytes() + b'{"input": "half'
    path.write_bytes(content)

    def theirs(name: Path, flags: int, *more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(reason, "not yours")
        return opened(name, flags, *more)

    monkeypatch.setattr("os.open", theirs)
    store = PredictionStore(path)
    store.add({"c": "d"})
    assert (store["a"], store["c"]) == ("b", "d")
    PredictionStore(tmp_path / "another.jsonl").add({"a": "b"})
    assert path.read_bytes() == content


def test_keys_tell_apart_what_a_prediction_depends_on() -> None:
    assert input_key([1, 23]) != input_key([12, 3])
    assert input_key([1, 2]) == input_key((1, 2))
    greedy = {"num_beams": 1, "bf16": False}
    prints = {"model": "w", "settings": "s", "tokenizer": "t"}
    names = {
        store_name(prints, greedy),
        store_name(prints | {"model": "v"}, greedy),
        store_name(prints | {"settings": "r"}, greedy),
        store_name(prints | {"tokenizer": "s"}, greedy),
        store_name(prints, greedy | {"num_beams": 2}),
    }
    assert len(names) == 5
    assert store_name(dict(reversed(prints.items())), {"bf16": False, "num_beams": 1}) == store_name(prints, greedy)

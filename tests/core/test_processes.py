"""Processes that talk through a store: here as threads of one process, with the store in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from distillctl.core import processes
from distillctl.core.errors import RunError, UsageError
from distillctl.core.processes import ALONE, Failure, OtherProcessFailed, Together, launched, refuse_several

COUNT = 3


@pytest.fixture
def store() -> Any:
    return dist.HashStore()  # type: ignore[attr-defined]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would interrupt or end this very process is noted instead."""
    notes: list[str] = []
    monkeypatch.setattr(processes, "PERIOD", 0.02)
    monkeypatch.setattr(processes, "GRACE", 0.1)
    monkeypatch.setattr(processes._thread, "interrupt_main", lambda: notes.append("interrupted"))
    monkeypatch.setattr(processes.os, "_exit", lambda code: notes.append(f"ended with {code}"))
    monkeypatch.setattr(processes.signal, "signal", lambda number, handler: None)
    return notes


def together(store: Any, act: Callable[[Together], Any]) -> list[Any]:
    """What ``act`` gives in each of the processes."""

    def one(rank: int) -> Any:
        mine = Together(rank, COUNT, store)
        result = act(mine)
        mine.leave()
        return result

    with ThreadPoolExecutor(COUNT) as pool:
        return list(pool.map(one, range(COUNT)))


def test_all_have_what_the_main_process_made(store: Any, ended: list[str]) -> None:
    value = {"rank": 0, "cosine": 0.1 + 0.2, "names": ["a"], "none": None}
    assert together(store, lambda mine: mine.share(lambda: value | {"rank": mine.rank})) == [value] * COUNT
    assert ended == []


def test_one_does_it_and_the_others_wait(store: Any, ended: list[str]) -> None:
    done: list[int] = []

    def act(mine: Together) -> Any:
        def slowly() -> str:
            time.sleep(0.1)
            done.append(mine.rank)
            return "made"

        result = mine.on_main(slowly)
        assert done == [0]
        return result

    assert together(store, act) == ["made", None, None]


def test_the_main_process_goes_first(store: Any, ended: list[str]) -> None:
    order: list[int] = []

    def act(mine: Together) -> None:
        with mine.main_first():
            time.sleep(0.05)
            order.append(mine.rank)

    together(store, act)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_nobody_leaves_a_meeting_before_all_have_come(store: Any, ended: list[str]) -> None:
    come: list[int] = []

    def act(mine: Together) -> int:
        time.sleep(0.05 * mine.rank)
        come.append(mine.rank)
        mine.meet()
        return len(come)

    assert together(store, act) == [COUNT] * COUNT


def test_an_error_is_told_once_and_ends_all_with_its_code(store: Any, ended: list[str]) -> None:
    told: list[int] = []
    start = threading.Barrier(COUNT)

    def one(rank: int) -> int:
        mine = Together(rank, COUNT, store)
        start.wait()
        return mine.fail(2 + rank, f"error {rank}", lambda: told.append(rank))

    with ThreadPoolExecutor(COUNT) as pool:
        codes = list(pool.map(one, range(COUNT)))
    assert len(told) == 1
    assert codes == [2 + told[0]] * COUNT


def test_who_is_busy_is_interrupted_and_who_is_stuck_is_ended(store: Any, ended: list[str]) -> None:
    said: list[str] = []
    busy = Together(0, 2, store)
    busy.last_words = lambda failure: said.append(failure.message)
    failing = Together(1, 2, store)
    assert failing.fail(3, "no such shard", lambda: said.append("told")) == 3
    for _ in range(100):
        if len(ended) == 2:
            break
        time.sleep(0.02)
    assert ended == ["interrupted", "ended with 3"]
    assert said == ["told", "no such shard"]
    with pytest.raises(OtherProcessFailed, match="process 1: no such shard") as caught, busy.one_fate():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 3
    assert busy.fail(5, "what came of it", lambda: said.append("told again")) == 3
    assert "told again" not in said


def test_a_silent_process_is_missed(store: Any, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SILENCE", 0.1)
    main = Together(0, 2, store)
    main._listener.join(5)
    assert main.failure is not None
    assert "process 1 has given no sign of life" in main.failure.message
    assert ended[0] == "interrupted"
    assert json.loads(store.get("failure"))["code"] == 5


def test_a_broken_connection_is_another_process_gone(store: Any, ended: list[str]) -> None:
    mine = Together(0, 1, store)
    with pytest.raises(RunError, match="another process of this job is gone"), mine.one_fate():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="a defect of its own"), mine.one_fate():
        raise RuntimeError("a defect of its own")
    with pytest.raises(KeyboardInterrupt), mine.one_fate():
        raise KeyboardInterrupt
    mine.leave()


def test_alone_everything_is_done_at_once() -> None:
    assert ALONE.is_main
    assert ALONE.share(lambda: 3) == ALONE.on_main(lambda: 3) == 3
    with ALONE.main_first(), ALONE.one_fate():
        ALONE.meet()
    ALONE.leave()
    told: list[int] = []
    assert ALONE.fail(4, "x", lambda: told.append(1)) == 4
    assert told == [1]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (0, 0, 1)),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (5, 1, 8)),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, (3, 3, 4)),
    ],
)
def test_launchers_say_who_one_is(
    variables: dict[str, str], found: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == found


def test_a_launchers_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="WORLD_SIZE=many: should be numbers"):
        launched()


def test_what_works_alone_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_several()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="runs in one process, and 2 were launched"):
        refuse_several()


def test_a_failure_is_another_processes_error() -> None:
    error = OtherProcessFailed(Failure(2, 3, "bad data"))
    assert (error.exit_code, str(error)) == (3, "process 2: bad data")

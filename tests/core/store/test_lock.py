"""The lock on a file: one holds it, the others wait, and it ends with its process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from distillctl.core.store.lock import hold_alone

HOLDER = """
import sys
from distillctl.core.store.lock import hold_alone
file = open(sys.argv[1], "a+b")
hold_alone(file)
print("held", flush=True)
sys.stdin.read()
"""


def test_who_is_alone_does_not_wait(tmp_path: Path) -> None:
    waits: list[str] = []
    for _ in range(2):  # closing gives it back
        with (tmp_path / "lock").open("a+b") as file:
            hold_alone(file, lambda: waits.append("one"))
    assert waits == []


def test_the_second_waits_until_the_first_closes_its_file(tmp_path: Path) -> None:
    waited, got = threading.Event(), threading.Event()

    def second() -> None:
        with (tmp_path / "lock").open("a+b") as file:
            hold_alone(file, waited.set)
            got.set()

    with (tmp_path / "lock").open("a+b") as file:
        hold_alone(file)
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(20)
        assert not got.is_set()
    thread.join(20)
    assert got.is_set()


def test_a_killed_process_gives_it_back(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waits: list[str] = []

        def kill() -> None:
            waits.append("one")
            holder.kill()

        with lock.open("a+b") as file:
            hold_alone(file, kill)
        assert waits == ["one"]
        assert lock.read_bytes() == b""  # it names nobody, so it cannot name somebody who is gone
    finally:
        holder.kill()
        holder.communicate()


def test_what_is_read_under_the_lock_is_read_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"all of it")
    with (tmp_path / "file").open("rb") as file:
        hold_alone(file)
        assert file.read() == b"all of it"

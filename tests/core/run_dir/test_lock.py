"""One process writes to a run at a time; who holds it is named, and who is gone holds nothing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from distillctl.core.errors import UsageError
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.lock import LOCK, locked


def holder(root: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((root / LOCK).read_text())
    return values


def test_the_lock_names_its_holder_and_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        found = holder(tmp_path / "run")
        assert (found["pid"], found["host"]) == (os.getpid(), socket.gethostname())
        assert str(found["since"]).startswith("20")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_one_is_refused_with_the_holders_name(tmp_path: Path) -> None:
    words = rf"run: in use by process {os.getpid()} on {socket.gethostname()} since 20.*another directory"
    with RunDirectory.claim(tmp_path / "run"):
        with pytest.raises(UsageError, match=words), RunDirectory.claim(tmp_path / "run", resume=True):
            pytest.fail("both have it")
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UsageError, match=words):
                RunDirectory.check(tmp_path / "run", **options)
    RunDirectory.check(tmp_path / "run", resume=True)


def test_it_is_given_back_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDirectory.claim(tmp_path / "run"):
        raise ZeroDivisionError
    with RunDirectory.claim(tmp_path / "run", overwrite=True) as run:
        assert (run.path / LOCK).exists()  # which --overwrite leaves


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "[" * 5000])
def test_a_lock_whose_process_is_gone_is_taken_over(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(content)
    RunDirectory.check(tmp_path)
    with locked(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()


def test_a_killed_process_leaves_a_lock_that_is_taken_over(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os.write(writing, b"held")
            os.kill(os.getpid(), 9)
    assert os.read(reading, 4) == b"held"
    os.waitpid(child, 0)
    assert holder(tmp_path)["pid"] == child
    with locked(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()


def test_a_lock_of_another_machine_is_respected_and_the_way_out_told(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "2026-01-01"}))
    words = r"in use by process 7 on elsewhere since 2026-01-01.*If that process is gone, delete .*run\.lock"
    with pytest.raises(UsageError, match=words):
        RunDirectory.check(tmp_path)
    with pytest.raises(UsageError, match=words), locked(tmp_path):
        pytest.fail("taken from another machine")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="cannot write"), locked(tmp_path / "run"):
        pytest.fail("followed")
    assert (tmp_path / "precious").read_text() == "years of work"

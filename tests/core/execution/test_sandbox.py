"""A sandbox by itself: whose processes are counted as whose."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import pytest

from distillctl.core.execution.sandbox import PROCESSES, Isolation, Started, refusal

SPAWNS = """
import json, os, sys, time
spec = json.loads(sys.argv[1])
children = 0
try:
    while children < spec["wanted"]:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        children += 1
except OSError:
    pass
os.write(spec["results"], (json.dumps({"user": os.getuid(), "children": children}) + chr(10)).encode())
time.sleep(60)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandboxes need users of their own")
def test_the_processes_of_one_sandbox_are_not_counted_as_anothers() -> None:
    answers: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            argv = [sys.executable, "-I", "-S", "-c", SPAWNS]
            started = Started(argv, Isolation(sandboxed=True), readable=(), spec={"wanted": PROCESSES - 8})
            answer = stack.enter_context(started).answer(seconds=30)
            assert answer is not None, started.error_words()
            answers.append(answer)
    assert [answer["children"] for answer in answers] == [PROCESSES - 8] * 3, json.dumps(answers)
    users = {answer["user"] for answer in answers}
    assert len(users) == 3
    assert 0 not in users


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's program is another user")
def test_a_strict_umask_is_no_obstacle() -> None:
    usual = os.umask(0o077)
    try:
        assert refusal.__wrapped__() == refusal()
    finally:
        os.umask(usual)

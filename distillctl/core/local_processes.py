"""A command that starts itself as several processes of this machine, as ``torchrun`` would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from distillctl.core.errors import RunError

LONGEST_END = 60.0
"""Seconds in which a process that was told to stop may write down what it has."""

_Child = subprocess.Popen[bytes]


def run_locally(arguments: Sequence[str], count: int) -> int:
    """``python -m distillctl arguments...`` as ``count`` processes; returns the exit code on which they agree.

    They write to this process's terminal. The processor's cores are divided among them, unless OMP_NUM_THREADS is set;
    graphics cards are dealt out by LOCAL_RANK.

    Raises:
        RunError: one of them was killed. The others are stopped as by Ctrl-C, and keep what they have done.
    """
    children: list[_Child] = []
    try:
        for environment in _environments(count):
            command = [sys.executable, "-m", "distillctl", *arguments]
            # Not in the terminal's group: Ctrl-C reaches each of them once, from here, and leaves time to save.
            children.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return _wait(children)
    finally:
        _stop(children)


def _environments(count: int) -> list[dict[str, str]]:
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": threads,
    }
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _wait(children: Sequence[_Child]) -> int:
    """Until all have ended, or one was killed: the others might wait for it."""
    while True:
        codes = [child.poll() for child in children]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                raise RunError(
                    f"process {rank} of {len(children)} was ended by signal {-code}. What was written is kept: start "
                    "again, and it goes on from there"
                )
        if None not in codes:
            return next((code for code in codes if code), 0)
        time.sleep(0.1)


def _stop(children: Sequence[_Child]) -> None:
    """Interrupts those that still run, and kills those that do not end then."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        if os.name == "nt":
            child.terminate()
        else:
            child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + LONGEST_END
    for child in running:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()

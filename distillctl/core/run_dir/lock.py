"""One process writes to a run at a time: a lock file that names its holder, and that the system frees when that dies.

The lock is the system's own (flock), so a kill leaves none behind; what the file says is for people, and for another
machine that shares the directory over a network file system which does not pass locks on.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from distillctl.core.errors import InUseError
from distillctl.core.store.files import creating
from distillctl.core.store.lock import hold_at_once

LOCK = "run.lock"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the lock of the run directory ``root``, which is made if it is missing; gives it back however that ends.

    Raises InUseError where another process holds it, naming it; UsageError where the lock cannot be written.
    """
    path = root / LOCK
    with creating(root):
        root.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    with file:
        with creating(path):
            file.seek(0)
            file.truncate()
            file.write(json.dumps(_myself()).encode("ascii"))
            file.flush()
        try:
            yield
        finally:
            # Before it is given back: nobody may take a file that is about to go. Windows cannot, and leaves it.
            with suppress(OSError):
                path.unlink()


def check_unlocked(root: Path) -> None:
    """Raise InUseError if another process writes to the run in ``root``; touches nothing."""
    try:
        with (root / LOCK).open("rb") as file:
            if not hold_at_once(file):
                raise _in_use(root / LOCK, _holder(file))
            _check_not_elsewhere(root / LOCK, _holder(file))
    except OSError:  # none there, or unreadable: whoever wants to write will be told
        return


def drop_lock_of_the_dead(root: Path) -> None:
    """Removes the lock file of ``root`` if no process here holds it, whatever machine it names.

    For who knows by other means that its holder is dead: a lock that names another machine is kept otherwise.
    """
    with suppress(OSError), (root / LOCK).open("rb") as file:
        if hold_at_once(file):
            (root / LOCK).unlink()


def _acquire(path: Path) -> BinaryIO:
    """The lock file, open, locked, and still the one at ``path``."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with ExitStack() as closing:
            file = closing.enter_context(os.fdopen(os.open(path, flags, 0o666), "r+b"))
            if not hold_at_once(file):
                raise _in_use(path, _holder(file))
            _check_not_elsewhere(path, _holder(file))
            # Its last holder may have removed it between our opening and locking it.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                closing.pop_all()
                return file


def _myself() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _holder(file: BinaryIO) -> dict[str, object]:
    """What the file says of its holder; empty where it says nothing that makes sense."""
    file.seek(0)
    try:
        values = json.loads(file.read(4096))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _check_not_elsewhere(path: Path, holder: dict[str, object]) -> None:
    """A lock that is free here is one that its process left behind, unless that runs on another machine."""
    if holder.get("host", socket.gethostname()) != socket.gethostname():
        raise _in_use(path, holder, f". If that process is gone, delete {path}")


def _in_use(path: Path, holder: dict[str, object], way_out: str = "") -> InUseError:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
    return InUseError(f"{path.parent}: in use by {who}: wait for it, stop it, or choose another directory{way_out}")

"""A lock on an open file: it ends with its process, however that ends, and says nothing that could become untrue."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import IO


def hold_alone(file: IO[bytes], on_wait: Callable[[], None] = lambda: None) -> None:
    """Waits until no other process holds the file, and holds it until it is closed.

    Args:
        file: open, and at its beginning where it is read.
        on_wait: called once where there is somebody to wait for.

    Raises:
        OSError: the file system has no locks.
    """
    if not _lock(file, wait=False):
        on_wait()
        _lock(file, wait=True)


def hold_at_once(file: IO[bytes]) -> bool:
    """Holds the file until it is closed where no other process does; False where one does. OSError as above."""
    return _lock(file, wait=False)


if sys.platform == "win32":
    import msvcrt
    import time

    _PLACE = 2**40  # far behind any content: what is locked there nobody else could read

    def _lock(file: IO[bytes], wait: bool) -> bool:
        try:
            while True:
                file.seek(_PLACE)
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                except PermissionError:
                    if not wait:
                        return False
                    time.sleep(1)
                else:
                    return True
        finally:
            file.seek(0)

else:
    import fcntl

    def _lock(file: IO[bytes], wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

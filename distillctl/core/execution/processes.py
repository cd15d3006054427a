"""Other processes and the folders they leave, as a runner sees them. Linux; standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Collection, Iterator
from pathlib import Path


def others() -> Iterator[int]:
    """Every process of this PID namespace but the first."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            yield int(entry.name)


def anonymous_bytes(process: int) -> int:
    """Memory that a process does not share with files; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def descendants(process: int) -> Iterator[int]:
    """Every process below one, the deepest first."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = " ".join((task / "children").read_text() for task in tasks)
    except OSError:
        return
    for child in map(int, children.split()):
        yield from descendants(child)
        yield child


def kill(process: int) -> None:
    """Ends a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def empty(folder: Path, kept: Collection[Path]) -> None:
    """Takes away what a folder holds besides ``kept``, even closed to its owner. Raises OSError where that fails."""
    for entry in folder.iterdir():
        if entry in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            _open_folders(entry)
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _open_folders(top: Path) -> None:
    """Lets their owner into all folders: from the top, so that those below are found."""
    top.chmod(0o700)
    for parent, names, _ in os.walk(top):
        for name in names:
            folder = Path(parent, name)
            if not folder.is_symlink():
                folder.chmod(0o700)

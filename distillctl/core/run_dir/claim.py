"""Who may write into a directory: the rules of --overwrite and --resume."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from distillctl.core.errors import UsageError
from distillctl.core.run_dir.lock import LOCK
from distillctl.core.store.files import creating

RECORD = "run.json"


def check_claim(root: Path, *, overwrite: bool, resume: bool, inputs: Iterable[str | Path]) -> None:
    """Raise UsageError if a run may not start in ``root``; touches nothing."""
    if overwrite and resume:
        raise UsageError("--overwrite and --resume exclude each other: empty the run, or go on with it")
    with creating(root):
        if root.is_symlink() and not root.exists():
            raise UsageError(f"{root}: a link to nothing; remove it or choose another directory")
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root}: is a file; should be a directory")
        _check_writable(root)
        occupied = root.is_dir() and any(entry.name != LOCK for entry in root.iterdir())
        holds_run = (root / RECORD).is_file()
    if resume and not holds_run:
        raise UsageError(f"{root}: no run to resume here (there is no {RECORD}); leave out --resume to start one")
    if occupied and overwrite:
        _check_may_be_emptied(root, holds_run, inputs)
    elif occupied and not resume:
        way_out = "--overwrite empties it, train --resume goes on" if holds_run else "choose another directory"
        raise UsageError(f"{root}: not empty; {way_out}")


def _check_writable(root: Path) -> None:
    """Raise the system's error if ``root``, or the nearest existing folder above it, cannot be written to."""
    nearest = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _check_may_be_emptied(root: Path, holds_run: bool, inputs: Iterable[str | Path]) -> None:
    if not holds_run:
        raise UsageError(f"{root}: --overwrite only empties a run directory, and this holds no {RECORD}")
    for name in inputs:
        path = Path(name)
        if path.exists() and path.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{root}: --overwrite would delete {path}, which this run reads; choose another directory")


def empty(root: Path) -> None:
    """Delete what is in ``root``; links are removed, not followed. run.json goes last, so that a deletion cut
    short leaves a directory that --overwrite still accepts."""
    for entry in sorted(root.iterdir(), key=lambda path: path.name == RECORD):
        if entry.name == LOCK:  # held by whoever empties it
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()

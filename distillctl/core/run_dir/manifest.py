"""A manifest vouches for every file of a folder: written last, so a folder without one was never finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distillctl.core.errors import DataError
from distillctl.core.store.files import read_json, sha256_of, sync_directory, to_json

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Puts every file of ``folder`` on disk for good, then writes the manifest with the SHA-256 of each.

    Raises OSError where that cannot be.
    """
    files = {file.name: _seal_file(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    path = folder / MANIFEST
    path.write_text(to_json({"files": files}, indent=1) + "\n", encoding="utf-8")
    _seal_file(path)
    sync_directory(folder)


def _seal_file(file: Path) -> dict[str, Any]:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def is_sealed(folder: Path) -> bool:
    """Whether a folder was finished."""
    return (folder / MANIFEST).is_file()


def check_sealed(folder: Path) -> None:
    """Reads every byte of every file. Raises DataError naming the first that is not what was written."""
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or not files:
        raise DataError(f"{MANIFEST}: should list the files")
    for name, facts in files.items():
        if not isinstance(facts, dict):
            raise DataError(f"{MANIFEST}: should give {json.dumps(name)} its size and SHA-256")
        if Path(name).name != name or name in ("", ".", ".."):
            raise DataError(f"{MANIFEST}: {json.dumps(name)} should be the name of a file in this folder")
        _check_file(folder / name, facts)


def _check_file(file: Path, facts: dict[str, Any]) -> None:
    try:
        # The size first: a file of another size need not be read.
        same = file.stat().st_size == facts.get("bytes") and sha256_of(file) == facts.get("sha256")
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror}") from error
    if not same:
        raise DataError(f"{file.name} is not what was written")

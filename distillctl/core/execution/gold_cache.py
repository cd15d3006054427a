"""How golds ended, remembered by what is installed: they depend on that and on nothing else of a run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillctl.core.data.corpus import cache_directory
from distillctl.core.data.mining import canonical_name
from distillctl.core.data.records import Record
from distillctl.core.errors import DataError
from distillctl.core.execution.outcomes import Verdict
from distillctl.core.execution.placing import package_files
from distillctl.core.execution.session import Limits
from distillctl.core.run_dir import read_json, write_atomically

EXECUTION_VERSION = 3
"""Part of every cache's name: raise it when a gold may end otherwise than before."""


class GoldCache:
    """The verdicts of one package's golds, of those whose assertion was reached and judged.

    What else may happen to a test is not kept: the machine may have been busy or out of memory, and an optional package
    that a test asks for may be installed tomorrow.

    A file that is not what was written is forgotten: its golds are run again.
    """

    def __init__(self, project: str, limits: Limits) -> None:
        self._path = (
            cache_directory() / "executions" / f"{canonical_name(project)}-{_environment(project, limits)}.json"
        )
        self._verdicts: dict[str, Verdict] = {}
        if self._path.is_file():
            self._verdicts = _read(self._path)

    def get(self, record: Record) -> Verdict | None:
        """What is known of a record's gold."""
        return self._verdicts.get(_key(record))

    def add(self, found: Mapping[str, Verdict], records: Mapping[str, Record]) -> None:
        """Keeps verdicts by record id."""
        kept = {_key(records[name]): verdict for name, verdict in found.items() if verdict.is_final}
        if not kept.keys() - self._verdicts.keys():
            return
        self._verdicts |= kept
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = {key: asdict(verdict) for key, verdict in sorted(self._verdicts.items())}
        write_atomically(self._path, json.dumps({"verdicts": values, "sha256": _digest(values)}))


def _read(path: Path) -> dict[str, Verdict]:
    with suppress(DataError):
        written = read_json(path)
        values = written.get("verdicts")
        if isinstance(values, dict) and written.get("sha256") == _digest(values):
            return {key: _verdict(value) for key, value in values.items()}
    return {}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _key(record: Record) -> str:
    """The record's content and its test: equal texts may stand in two files."""
    return hashlib.sha256(f"{record.id}\x00{record.key}".encode("utf-8", "replace")).hexdigest()[:32]


def _environment(project: str, limits: Limits) -> str:
    """Hash of what is installed, of the package's files, of Python, and of how its tests are run.

    Whatever is installed may decide how a test ends: packages try what they do not depend on, too. And who works on a
    package changes its files without raising its version.
    """
    package = package_files(project)
    files = [package.root / name for name in (*package.tests, *package.sources)] if package else []
    parts = [
        str(EXECUTION_VERSION),
        platform.python_version(),
        str(package.root if package else Path()),
        str(limits.isolation.sandboxed),
        *installed(),
        *(_state(file) for file in files),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def installed() -> list[str]:
    """``name==version`` of every installed distribution."""
    found = importlib.metadata.distributions()
    return sorted({f"{canonical_name(one.metadata['Name'] or '')}=={one.version}" for one in found})


def _state(file: Path) -> str:
    """Size and time of a file's last change; of one that is gone its name alone."""
    with suppress(OSError):
        found = file.stat()
        return f"{file} {found.st_size} {found.st_mtime_ns}"
    return str(file)


def _verdict(values: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**values, "items": tuple(values["items"])})

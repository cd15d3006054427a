"""How golds ended, remembered by package version: they depend on what is installed and on nothing else of a run."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillctl.core.data.corpus import cache_directory
from distillctl.core.data.mining import canonical_name, dependency_names, installed_version
from distillctl.core.data.records import Record
from distillctl.core.errors import DataError
from distillctl.core.execution.outcomes import Verdict
from distillctl.core.execution.placing import package_files
from distillctl.core.execution.session import Limits
from distillctl.core.run_dir import read_json, write_atomically

EXECUTION_VERSION = 2
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
    """Hash of the versions that a package's tests depend on, of Python, and of how they are run."""
    package = package_files(project)
    names = sorted({canonical_name(project), "pytest", "hypothesis", *dependency_names(project)})
    parts = [
        str(EXECUTION_VERSION),
        platform.python_version(),
        str(package.root if package else Path()),
        str(limits.isolation.sandboxed),
        *(f"{name}=={installed_version(name)}" for name in names),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _verdict(values: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**values, "items": tuple(values["items"])})

"""The directory of one run: who may create it, and every file in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from distillctl import __version__
from distillctl.core.config.yaml_text import dump_yaml, parse_yaml
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.run_dir.claim import RECORD, check_claim, empty
from distillctl.core.run_dir.lock import check_unlocked, locked
from distillctl.core.run_dir.model_card import CARD_NAME
from distillctl.core.run_dir.provenance import git_state, hardware, library_versions
from distillctl.core.run_dir.step_log import StepLog, read_step_metrics
from distillctl.core.store.compressed import read_stored, sha256_of_stored, stored_at
from distillctl.core.store.files import (
    creating,
    read_json,
    sha256_of,
    sync_directory,
    to_json,
    write_atomically,
    writing,
)

STATUSES = ("running", "finished", "interrupted", "failed")


class RunDirectory:
    """Paths, readers and writers of a run. Get one from :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path) -> None:
        # Resolved once: everything written later must lie below, whatever links the directory holds.
        self.path = path.resolve()

    @classmethod
    def check(
        cls,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        inputs: Iterable[str | Path] = (),
    ) -> None:
        """Raise what :meth:`claim` would raise, touching nothing (for ``--dry-run``, and before long work).

        ``inputs`` are files and folders this run reads; one inside a directory about to be emptied is
        refused.
        """
        check_claim(Path(path), overwrite=overwrite, resume=resume, inputs=inputs)
        check_unlocked(Path(path))

    @classmethod
    @contextmanager
    def claim(
        cls,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        steps_left: bool = False,
        inputs: Iterable[str | Path] = (),
    ) -> Iterator[Self]:
        """:meth:`create`, with the directory locked against other processes until the end.

        Raises UsageError, besides, where another process has it.
        """
        with locked(Path(path)):
            yield cls.create(path, overwrite=overwrite, resume=resume, steps_left=steps_left, inputs=inputs)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        steps_left: bool = False,
        inputs: Iterable[str | Path] = (),
    ) -> Self:
        """Claim ``path`` for a run: made if missing, emptied with ``overwrite``, kept with ``resume``.

        ``steps_left`` says of a run to resume that steps of it are to be trained, as when it lost its last checkpoint.

        From here on it holds a run.json with status ``running``. Call it late, when every input has been
        read: until then a failure leaves an older run untouched.

        Raises:
            UsageError: not empty without either flag, ``overwrite`` on a directory that holds no run,
                ``resume``
                without a run, or a path that cannot be written. Nothing was touched then.
        """
        check_claim(Path(path), overwrite=overwrite, resume=resume, inputs=inputs)
        run = cls(Path(path))
        with creating(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                empty(run.path)
        try:
            if resume:
                # Of a run that had finished mostly nothing is left: its seconds stay those of one training.
                one_go = run.record().get("status") == "finished" and not steps_left
                resumed = {} if one_go else {"resumed_at": _now()}
                run.note(status="running", reason=None, files=None, **resumed)  # they are about to change
            else:
                run.write_record(_first_record())
        except RunError as error:  # nothing was started yet
            raise UsageError(str(error)) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing run, to be read. Raises UsageError if ``path`` holds none."""
        root = Path(path)
        if not (root / RECORD).is_file():
            raise UsageError(f"{root}: not a run directory (there is no {RECORD})")
        return cls(root)

    # --- where things are -----------------------------------------------------------------------------------

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """Provenance and status."""
        return self.path / RECORD

    @property
    def step_metrics_file(self) -> Path:
        """One row per logged step."""
        return self.path / "step_metrics.csv"

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint (not made here: a checkpoint appears whole or not at all)."""
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints there are, by step, in order."""
        found = {}
        for path in (self.path / "checkpoints").glob("step-*"):
            if re.fullmatch(r"step-[0-9]+", path.name) and path.is_dir() and not path.is_symlink():
                found[int(path.name.removeprefix("step-"))] = path
        return dict(sorted(found.items()))

    def folder(self, *parts: str) -> Path:
        """A folder of the run for writing, made if missing; refused if a link leads out of the run."""
        path = self.path.joinpath(*parts)
        self._check_inside(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary folder whose files replace those of the folder ``name`` in the end, each at once.

        A link in their place is replaced too, not followed. Raises RunError where they cannot be written.
        """
        temporary = self.folder(f".{name}.tmp")
        target = self.folder(name)
        with writing(temporary):  # of a process that was killed on the way
            shutil.rmtree(temporary)
            temporary.mkdir()
        try:
            yield temporary
            with writing(target):
                for file in sorted(temporary.iterdir()):
                    with file.open("rb+") as written:
                        os.fsync(written.fileno())
                    file.replace(target / file.name)
                sync_directory(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @property
    def student(self) -> Path:
        """The folder of the final model, made if missing."""
        return self.folder("student")

    @property
    def analysis(self) -> Path:
        """The folder of plots and tables, made if missing."""
        return self.folder("analysis")

    def evaluation(self, split: str) -> Path:
        """The folder of a split's scores, made if missing."""
        return self.folder("evaluation", _plain_name(split))

    def _check_inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self.path):
            raise RunError(f"{path}: a link that leads out of the run directory; nothing is written through it")

    # --- writing --------------------------------------------------------------------------------------------

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write the resolved configuration (``Config.to_dict()``)."""
        write_atomically(self.config_file, dump_yaml(values))

    def write_record(self, values: Mapping[str, Any]) -> None:
        """Replace run.json; it ends with the SHA-256 of what it says."""
        said = {name: value for name, value in values.items() if name != "sha256"}
        write_atomically(self.record_file, to_json(said | {"sha256": digest_of(said)}) + "\n")

    def note(self, **values: Any) -> None:
        """Add facts to run.json; mappings (``fingerprints``, ``seeds``) are merged key by key."""
        record = self.record()
        for name, value in values.items():
            old = record.get(name)
            record[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
        self.write_record(record)

    def seal(self) -> None:
        """Note the SHA-256 of the files that figures come from: settings, step log, scores, and all of student/."""
        student = [path for path in sorted((self.path / "student").glob("*")) if path.name != CARD_NAME]
        self._vouch_for([self.config_file, self.step_metrics_file, *student])
        self.seal_scores()

    def seal_scores(self) -> None:
        """Note the SHA-256 of every split's scores and predictions; what else was noted stays."""
        self._vouch_for(sorted((self.path / "evaluation").glob("*/[!.]*.json*")))

    def _vouch_for(self, files: Iterable[Path]) -> None:
        self.note(files={file.relative_to(self.path).as_posix(): sha256_of(file) for file in files})

    def changed_files(self) -> list[str]:
        """Of the files that :meth:`seal` noted, and run.json, those that are not what they were, by their path."""
        record = self.record()
        noted = record.get("files")
        noted = noted if isinstance(noted, dict) else {}
        changed = [name for name, digest in noted.items() if self._changed(name, digest)]
        return ([RECORD] if record.get("sha256", digest_of(record)) != digest_of(record) else []) + changed

    def _changed(self, name: str, digest: object) -> bool:
        file = self.path / name
        if not stored_at(file).resolve().is_relative_to(self.path):
            raise DataError(f"{self.record_file}: files should lie in the run directory. Found {name!r}")
        try:
            return sha256_of_stored(file) != digest
        except OSError:  # gone, or unreadable: whoever reads it will say
            return True

    def finish(self, status: str, reason: str | None = None) -> None:
        """Set the final status: ``finished``, ``interrupted`` or ``failed``, the last two with a reason."""
        if status not in STATUSES[1:]:
            raise ValueError(f"status should be one of {STATUSES[1:]}. Found {status!r}")
        self.note(status=status, reason=reason, finished_at=_now())

    def step_log(self, terms: Sequence[str], *, tensorboard: bool = True, after: int | None = None) -> StepLog:
        """Open step_metrics.csv, and its mirror in tensorboard/, for the active ``terms``; see :class:`StepLog`."""
        self._check_inside(self.step_metrics_file)
        mirror = self.folder("tensorboard") if tensorboard else None
        return StepLog(self.step_metrics_file, terms, tensorboard=mirror, after=after)

    # --- reading --------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What run.json says."""
        return read_json(self.record_file)

    def config(self) -> dict[str, Any]:
        """The values of config.yaml."""
        try:
            text = self.config_file.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{self.config_file}: cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.config_file}: should be UTF-8: {error}") from error
        values = parse_yaml(text, str(self.config_file)).values
        if not isinstance(values, dict):
            raise DataError(f"{self.config_file}: should be a mapping of keys to values")
        return values

    def step_metrics(self, on_note: Callable[[str], None] = lambda note: None) -> list[dict[str, float | None]]:
        """The rows of step_metrics.csv; blanks are None. ``on_note`` is told of a last line that was cut short."""
        return read_step_metrics(self.step_metrics_file, on_note)

    def metrics(self, split: str) -> dict[str, Any]:
        """What evaluation/<split>/metrics.json says."""
        return read_json(self.path / "evaluation" / _plain_name(split) / "metrics.json")

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """The rows of evaluation/<split>/predictions.jsonl, or of its .xz. Raises DataError naming file and line."""
        path = self.path / "evaluation" / _plain_name(split) / "predictions.jsonl"
        try:
            lines = read_stored(path).decode("utf-8").split("\n")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: should be UTF-8: {error}") from error
        return [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: should be a JSON object. Found {type(row).__name__}")
    return row


def _first_record() -> dict[str, Any]:
    return {
        "status": "running",
        "reason": None,
        "started_at": _now(),
        "finished_at": None,
        "distillctl": {"version": __version__, **git_state()},
        "libraries": library_versions(),
        "hardware": hardware(),
        "seeds": {},
        "fingerprints": {},
        "seconds": {},
    }


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a record says, but for its own."""
    said = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise UsageError(f"split {name!r}: should be letters, digits, _ and - only")
    return name

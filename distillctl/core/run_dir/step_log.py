"""step_metrics.csv, the source of truth of a training, and its mirror in TensorBoard."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from distillctl.core.errors import DataError, UsageError
from distillctl.core.store.compressed import read_stored
from distillctl.core.store.files import write_atomically, writing

Number = int | float

PER_TERM = ("loss", "scale", "weight", "weighted", "grad_norm")

_GROUPS = {
    "grad": "gradient",
    "auxiliary": "gradient",
    "teacher": "loss",
    "learning": "progress",
} | dict.fromkeys(("epoch", "samples", "target"), "progress")


def step_metric_columns(terms: Sequence[str]) -> list[str]:
    """The columns of step_metrics.csv for the active ``terms``, in order."""
    return [
        "step",
        "epoch",
        "samples_seen",
        "target_tokens",
        "learning_rate",
        "loss_total",
        *(f"{kind}_{term}" for term in terms for kind in PER_TERM),
        *(f"grad_cos_{first}_{second}" for first, second in combinations(terms, 2)),
        "grad_norm_primary",
        "grad_norm_auxiliary",
        "auxiliary_clip",
        "grad_norm_total",
        "teacher_tail_mass",
        "step_seconds",
        "data_seconds",
        "tokens_per_second",
        "peak_memory_mb",
    ]


class StepLog:
    """Writes one row per logged step, each on disk before the next step starts.

    Floats have 9 significant digits, enough to get a float32 back exactly; None is a blank. TensorBoard shows
    every number under ``<group>/<column>``.
    """

    def __init__(
        self, path: Path, terms: Sequence[str], *, tensorboard: Path | None = None, after: int | None = None
    ) -> None:
        """Open ``path``.

        Args:
            path: the CSV file; its directory exists.
            terms: the active terms in logging order.
            tensorboard: folder of the mirror; None writes none.
            after: go on behind this step in an existing file, whose columns must be the same (else DataError): rows of
                later steps go, and TensorBoard shows none of them any more. None begins a new file.
        """
        self.columns = step_metric_columns(terms)
        append = after is not None
        if after is not None and path.exists():
            cut_after(path, after)
            _check_header(path, self.columns)
        with writing(path):
            self._file: TextIO = path.open("a" if append else "w", encoding="utf-8", newline="")
            self._path = path
            self._writer = csv.writer(self._file, lineterminator="\n")
            if self._file.tell() == 0:
                self._writer.writerow(self.columns)
                self._file.flush()
        self._mirror = None if tensorboard is None else _summary_writer(tensorboard, after or 0)

    def write(self, row: Mapping[str, Number | None]) -> None:
        """Write one step. ``grad_*`` columns that are not measured in this step may be left out; others not.

        Raises ValueError for an unknown or a forgotten column, RunError if the file cannot be written.
        """
        unknown = [name for name in row if name not in self.columns]
        forgotten = [name for name in self.columns if name not in row and not name.startswith("grad_")]
        if unknown or forgotten:
            raise ValueError(f"row should have the log's columns. Found unknown {unknown}, forgotten {forgotten}")
        with writing(self._path):
            self._writer.writerow([_text(row.get(name)) for name in self.columns])
            self._file.flush()
        step = row["step"]
        if step is None:
            raise ValueError("step should be a number. Found None")
        self.mirror(int(step), {f"{_group(name)}/{name}": row.get(name) for name in self.columns if name != "step"})

    def mirror(self, step: int, scalars: Mapping[str, Number | None]) -> None:
        """Show ``scalars`` (by TensorBoard tag) at ``step`` in TensorBoard only, such as dev scores."""
        if self._mirror is None:
            return
        for tag, value in scalars.items():
            if value is not None:
                self._mirror.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Put every row on disk for good, and what TensorBoard still holds back."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._mirror is not None:
                self._mirror.flush()

    def close(self) -> None:
        """Close both; calling it again does nothing."""
        self._file.close()
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SilentLog:
    """Writes nothing: of several processes one keeps the log."""

    def write(self, row: Mapping[str, Number | None]) -> None:
        """Nothing."""

    def mirror(self, step: int, scalars: Mapping[str, Number | None]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _ignore(note: str) -> None:
    pass


def read_step_metrics(path: Path, on_note: Callable[[str], None] = _ignore) -> list[dict[str, float | None]]:
    """The rows of a step_metrics.csv, or of its .xz; blanks are None.

    A last line without its newline was cut short by a kill: it is left out, and ``on_note`` is told. Any
    other damage is an error. Raises UsageError (no file) or DataError (``file:line``).
    """
    try:
        lines = read_stored(path).decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; is {path.parent} a run directory?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    cut = lines.pop()
    try:
        columns, *rows = list(csv.reader(lines)) or [[]]
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if columns[:1] != ["step"]:
        raise DataError(f"{path}:1: should start with a header whose first column is step")
    if cut:
        on_note(f"{path}:{len(lines) + 1}: the last line was cut short and is left out")
    return [_numbers(columns, cells, f"{path}:{line}") for line, cells in enumerate(rows, start=2)]


def cut_after(path: Path, step: int) -> int:
    """Drop the rows after ``step``, and one that a kill cut short; returns how many. No file: 0.

    A run that goes on from a checkpoint does those steps again. Raises DataError (``file:line``) for a row
    without a step.
    """
    if not path.exists():
        return 0
    try:
        with writing(path):
            header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    kept = []
    for line, row in enumerate(rows, start=2):
        number = row.partition(",")[0]
        if row.endswith("\n") and not re.fullmatch(r"[0-9]{1,18}", number):
            raise DataError(f"{path}:{line}: should start with a step. Found {number[:20]!r}")
        if row.endswith("\n") and int(number) <= step:
            kept.append(row)
    if len(kept) < len(rows):
        write_atomically(path, "".join([header, *kept]))
    return len(rows) - len(kept)


def _numbers(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, float | None]:
    if len(cells) != len(columns):
        raise DataError(f"{where}: should have {len(columns)} cells. Found {len(cells)}")
    if not cells[0]:
        raise DataError(f"{where}: should start with a step. Found a blank")
    try:
        return {name: float(cell) if cell else None for name, cell in zip(columns, cells, strict=True)}
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _check_header(path: Path, columns: Sequence[str]) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        found = next(csv.reader(file), None)
    if found is not None and found != list(columns):
        first = next((f"{a} here, {b} now" for a, b in zip(found, columns, strict=False) if a != b), "their number")
        raise DataError(f"{path}:1: the columns differ from this run's ({first}): the active loss terms changed")


def _text(value: Number | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _group(column: str) -> str:
    """The TensorBoard section of a column, so that related curves lie together."""
    first, _, _ = column.partition("_")
    if first in ("loss", "scale", "weight", "weighted"):
        return first
    return _GROUPS.get(first, "cost")


def _summary_writer(folder: Path, after: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Whoever reads the folder drops what earlier files hold from the purge step on.
    return SummaryWriter(log_dir=str(folder), purge_step=after + 1)

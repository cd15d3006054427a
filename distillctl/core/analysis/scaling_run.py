"""What the analysis of loss scales needs of one run: its step log as columns, and the few settings that matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.core.errors import DataError, UsageError
from distillctl.core.losses.balance import CORE_TERMS
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.step_table import Column, not_finite, read_step_table
from distillctl.core.store.compressed import stored_at

STEP_LOG = "step_metrics.csv"
_PER_TERM = ("loss", "scale", "weight", "grad_norm")
_NO_TERMS = ("total", "primary", "auxiliary")
_GROUPS = ("grad_norm_primary", "grad_norm_auxiliary")
_CLIP = "auxiliary_clip"
# Scales that differ by less were written with 9 digits, not changed.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class ScalingRun:
    """One run's step log and what set its scales.

    Attributes:
        path: the run directory as the user wrote it.
        terms: the active terms in logging order; ``log_only`` are those that train nothing.
        columns: every column [n] of step_metrics.csv, blanks as NaN.
        balance: ``fixed`` (scales stay as given) or ``band`` (scales follow the losses).
        beta: ``objective.semantic_loss_scale``: under ``fixed`` the logged scale of semantic, under ``band`` where it
            started. None without a semantic term.
        share_limit: ``objective.max_auxiliary_share``; None is no limit, or not known.
        config_file: the run's config.yaml as the user would write it; None where there is none.
        unfinished: how the run ended, where it did not come to its end.
        notes: what a reader should know about the files.
    """

    path: str
    terms: tuple[str, ...]
    columns: Mapping[str, Column]
    balance: str = "fixed"
    beta: float | None = None
    share_limit: float | None = None
    log_only: frozenset[str] = frozenset()
    config_file: str | None = None
    unfinished: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> Column:
        """The optimizer step of each row."""
        return self.columns["step"]

    @property
    def trained(self) -> tuple[str, ...]:
        """The terms whose gradient is meant to reach the student."""
        return tuple(term for term in self.terms if term not in self.log_only)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each two terms, in the order of their cosine columns."""
        return list(combinations(self.terms, 2))

    def scaled(self, term: str) -> Column:
        """Scale times raw loss of a term per row: what its weight is applied to."""
        return self.columns[f"scale_{term}"] * self.columns[f"loss_{term}"]


def core_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """Those of focal, jsd and semantic that are there."""
    return tuple(term for term in CORE_TERMS if term in terms)


def read_scaling_run(path: str) -> ScalingRun:
    """Reads the run in ``path``. The step log is enough; config.yaml and run.json are used where they are.

    Raises:
        UsageError: nothing is there, or a file.
        DataError: a directory without a step log, or a log that is empty, cut, lacks a column, or holds NaN.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such directory"
        raise UsageError(f"{path}: {what}. Give the run directory (--output-dir) of a distillctl train")
    log = root / STEP_LOG
    if not stored_at(log).is_file():
        raise DataError(
            f"{path}: not a run directory, or one that logged no step: there is no {STEP_LOG}. Give the run directory "
            "(--output-dir) of a distillctl train"
        )
    columns = read_step_table(log)
    terms = _terms(columns, log)
    _check_finite(columns, terms, log)
    return _with_settings(RunDirectory(root), path, terms, columns)


def _terms(columns: Mapping[str, Column], log: Path) -> tuple[str, ...]:
    """The terms that any column names; DataError unless all columns of all of them are there."""
    prefixes = [f"{kind}_" for kind in (*_PER_TERM, "weighted")]
    found = [name.removeprefix(prefix) for name in columns for prefix in prefixes if name.startswith(prefix)]
    terms = tuple(dict.fromkeys(term for term in found if term not in _NO_TERMS))
    if not terms:
        raise DataError(f"{log}:1: names no loss term (there is no column loss_<term>). Restore the file of the run")
    needed = [f"{kind}_{term}" for term in terms for kind in _PER_TERM]
    needed += [f"grad_cos_{first}_{second}" for first, second in combinations(terms, 2)]
    missing = [name for name in (*needed, *_GROUPS, _CLIP) if name not in columns]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        plural = "columns" if len(missing) > 1 else "column"
        raise DataError(
            f"{log}:1: the {plural} {', '.join(missing[:3])}{more} of the terms {', '.join(terms)} "
            f"{'are' if len(missing) > 1 else 'is'} missing. Restore the file that the training wrote"
        )
    return terms


def _check_finite(columns: Mapping[str, Column], terms: Sequence[str], log: Path) -> None:
    """DataError for a NaN or blank where every row has a number, and for gradients measured in part."""
    every = [f"{kind}_{term}" for term in terms for kind in ("loss", "scale", "weight")]
    measured = [f"grad_norm_{term}" for term in terms]
    cosines = [f"grad_cos_{first}_{second}" for first, second in combinations(terms, 2)]
    for name in (*every, _CLIP):
        _refuse(~np.isfinite(columns[name]), name, columns, log)
    for name in (*measured, *cosines, *_GROUPS):
        _refuse(np.isinf(columns[name]), name, columns, log)
    some = np.any([np.isfinite(columns[name]) for name in measured], axis=0)
    for name in measured:
        _refuse(some & np.isnan(columns[name]), name, columns, log)


def _refuse(wrong: Any, name: str, columns: Mapping[str, Column], log: Path) -> None:
    where = np.flatnonzero(wrong)
    if len(where):
        value = float(columns[name][where[0]])
        # Text that says nan was refused in reading: NaN here is a blank.
        raise not_finite(log, int(where[0]) + 2, name, None if np.isnan(value) else value)


def _with_settings(run: RunDirectory, path: str, terms: tuple[str, ...], columns: Mapping[str, Column]) -> ScalingRun:
    config = run.config() if run.config_file.is_file() else {}
    found = config.get("objective")
    objective: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    status = run.record().get("status") if run.record_file.is_file() else "finished"
    notes = []
    if not config:
        notes.append(f"{path}: there is no config.yaml; beta and balance are read from {STEP_LOG}")
    beta, balance, note = _scale_of_semantic(objective, columns)
    return ScalingRun(
        path=path,
        terms=terms,
        columns=columns,
        balance=balance,
        beta=beta,
        share_limit=_number(objective.get("max_auxiliary_share")),
        log_only=frozenset(term for term in terms if _is_log_only(objective.get(term))),
        config_file=str(Path(path) / "config.yaml") if config else None,
        unfinished=None if status == "finished" else str(status),
        notes=tuple(notes + note),
    )


def _scale_of_semantic(
    objective: Mapping[str, Any], columns: Mapping[str, Column]
) -> tuple[float | None, str, list[str]]:
    """(beta, balance, notes). The log is believed before the configuration: it is what trained the student."""
    scale, configured = columns.get("scale_semantic"), _number(objective.get("semantic_loss_scale"))
    moved = scale is not None and bool(np.ptp(scale) > _SAME * np.max(np.abs(scale)))
    balance = str(objective.get("balance", "band" if moved else "fixed"))
    if scale is None:
        return None, balance, []
    if balance != "fixed":
        return configured if configured is not None else float(scale[0]), balance, []
    beta, notes = float(scale[-1]), []
    if moved:
        notes.append(f"scale_semantic moves from {scale[0]:g} to {beta:g} although balance is fixed; the last is used")
    elif configured is not None and abs(beta - configured) > _SAME * configured:
        notes.append(f"config.yaml says beta {configured:g}, {STEP_LOG} {beta:g}; the log is used")
    return beta, balance, notes


def _is_log_only(term: Any) -> bool:
    return isinstance(term, Mapping) and term.get("log_only") is True


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

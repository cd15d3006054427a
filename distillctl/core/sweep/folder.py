"""What a sweep leaves: sweep.json (what it is), sweep.db, trials/ (a run each), ranking.json, f1.png, best.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl import __version__
from distillctl.core.config import dump_yaml
from distillctl.core.errors import UsageError
from distillctl.core.run_dir import git_state, library_versions, read_json, write_atomically
from distillctl.core.store.files import creating, to_json
from distillctl.core.sweep.grid import point_text
from distillctl.core.sweep.plan import SPLIT, Sweep, check_same

if TYPE_CHECKING:  # whoever only checks a folder needs no Optuna
    from distillctl.core.sweep.ranking import Rank, Ranking

RECORD, STORAGE, PICTURE, RANKING, BEST = "sweep.json", "sweep.db", "f1.png", "ranking.json", "best.yaml"


def check_folder(folder: Path, sweep: Sweep | None = None) -> bool:
    """Whether a sweep is there already; touches nothing.

    Raises UsageError for a folder that holds something else; DataError, naming what differs, for one that holds
    another sweep than ``sweep``.
    """
    with creating(folder):
        if not folder.exists() and not folder.is_symlink():
            return False
        if not folder.is_dir():
            raise UsageError(f"{folder}: should be a folder. Choose another -o DIR")
        if (folder / RECORD).is_file():
            if sweep is not None:
                check_same(read_json(folder / RECORD).get("definition", {}), sweep.definition, folder)
            return True
        # What a kill may leave before the record is written is no obstacle.
        if any(not entry.name.startswith(f".{RECORD}.") for entry in folder.iterdir()):
            raise UsageError(f"{folder}: not empty, and holds no sweep (there is no {RECORD}). Choose another -o DIR")
    return False


def claim_folder(folder: Path, sweep: Sweep) -> None:
    """Makes the folder the sweep's own, or joins it there. Raises what :func:`check_folder` does."""
    if check_folder(folder, sweep):
        return
    with creating(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made_by = {"version": __version__, **git_state()}
    record = {"definition": sweep.definition, "distillctl": made_by, "libraries": library_versions()}
    write_atomically(folder / RECORD, to_json(record) + "\n")


def write_outcome(folder: Path, sweep: Sweep, ranking: Ranking, picture: bytes) -> None:
    """Writes the ranking, its picture, and the winner's configuration. Raises RunError where that fails."""
    write_atomically(folder / RANKING, to_json(ranking_facts(sweep, ranking)) + "\n")
    write_atomically(folder / PICTURE, picture)
    write_atomically(folder / BEST, best_yaml(sweep, ranking))


def best_yaml(sweep: Sweep, ranking: Ranking) -> str:
    """The winner's configuration for ``train --config``: all the data, scored on validation."""
    best = ranking.best
    interval = "no interval" if best.low is None else f"95 % interval {best.low:.2f} to {best.high:.2f}"
    lines = [
        f"# The best of {len(ranking.ranks)} grid points: {point_text(sweep.axes, best.point)}",
        f"# F1 {best.f1:.2f} ({interval}) on {ranking.samples:,} records of {SPLIT}, "
        f"{'seeds' if len(sweep.seeds) > 1 else 'seed'} {', '.join(map(str, sweep.seeds))}; distillctl {__version__}",
    ]
    if ranking.unranked:
        lines.append(f"# Not ranked, because a training of theirs failed: {len(ranking.unranked)}")
    return "\n".join(lines) + "\n" + dump_yaml(sweep.best_config(best.point).to_dict())


def ranking_facts(sweep: Sweep, ranking: Ranking) -> dict[str, Any]:
    """The ranking as plain values, for other programs. F1 in points of 100."""
    return {
        "split": SPLIT,
        "samples": ranking.samples,
        "files": ranking.files,
        "seeds": list(sweep.seeds),
        "ranking": [_facts(sweep, rank) for rank in ranking.ranks],
        "without_all_seeds": [
            {"values": _values(sweep, point), "f1_by_seed": list(f1)} for point, f1 in ranking.unranked
        ],
    }


def _facts(sweep: Sweep, rank: Rank) -> dict[str, Any]:
    difference = rank.to_best
    return {
        "values": _values(sweep, rank.point),
        "f1": rank.f1,
        "interval": None if rank.low is None else [rank.low, rank.high],
        "f1_by_seed": list(rank.by_seed),
        "to_best": None
        if difference is None
        else {"f1": difference.difference, "interval": [difference.low, difference.high], "p": difference.p_value},
        "verdict": rank.verdict,
    }


def _values(sweep: Sweep, point: tuple[Any, ...]) -> Mapping[str, Any]:
    return {axis.field: value for axis, value in zip(sweep.axes, point, strict=True)}

"""What a report needs of a run and no more, small enough for version control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distillctl.core.errors import DataError
from distillctl.core.run_dir.directory import RunDirectory
from distillctl.core.store.compressed import SUFFIX, compressed, read_stored, stored_at
from distillctl.core.store.files import write_atomically

_PACKED = (".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Archived:
    """An archived run: where it lies now, and its size in bytes before (all of the run) and after."""

    path: Path
    before: int
    after: int


def archive_run(source: RunDirectory, destination: Path, *, overwrite: bool = False) -> Archived:
    """Copies a run's settings, record, step log and scores to ``destination``, the large ones as .xz.

    Nothing is changed in them: every SHA-256 in run.json and metrics.json still holds for what they unpack to.
    Weights, checkpoints and TensorBoard's files stay behind.

    Raises:
        UsageError: ``destination`` is not empty (without ``overwrite``), or holds no run (with it).
        DataError: a file that a report reads is not what was written when the run ended, or lies outside the run.
        RunError: it cannot be written.
    """
    changed = [name for name in source.changed_files() if not name.startswith("student/")]
    if changed:
        raise DataError(
            f"{source.path}: {', '.join(changed)} changed since the run wrote it (its SHA-256 differs). "
            "An archive vouches for what it holds: score the run again (distillctl evaluate), or train it again"
        )
    contents = {name: _content(source, name) for name in _kept(source)}
    with RunDirectory.claim(destination, overwrite=overwrite, inputs=[source.path]) as target:
        for name, content in contents.items():
            file = target.folder(*Path(name).parent.parts) / Path(name).name
            if file.suffix in _PACKED:
                file, content = file.with_name(file.name + SUFFIX), compressed(content)
            write_atomically(file, content)
    return Archived(target.path, _bytes_in(source.path), _bytes_in(target.path))


def _kept(source: RunDirectory) -> Iterator[str]:
    """The files of a report, by their path in the run. run.json comes last: until then the copy is not finished."""
    yield source.config_file.name
    yield source.step_metrics_file.name
    # One that was stopped has no metrics yet, and no report reads it.
    for metrics in sorted((source.path / "evaluation").glob("*/metrics.json")):
        for name in (metrics.name, "predictions.jsonl"):
            yield f"evaluation/{metrics.parent.name}/{name}"
    for file in sorted((source.path / "analysis").glob("*.json")):
        yield f"analysis/{file.name}"
    yield source.record_file.name


def _content(source: RunDirectory, name: str) -> bytes:
    path = source.path / name
    if not stored_at(path).resolve().is_relative_to(source.path):
        raise DataError(f"{path}: a link that leads out of the run directory")
    try:
        return read_stored(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _bytes_in(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())

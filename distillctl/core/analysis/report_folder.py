"""The folder of a report: what may be replaced there, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillctl.core.analysis.document import Document
from distillctl.core.analysis.html import to_html
from distillctl.core.analysis.markdown import to_markdown
from distillctl.core.errors import RunError, UsageError
from distillctl.core.run_dir import write_atomically
from distillctl.core.store.files import writing

MARKDOWN, PAGE = "report.md", "report.html"
PICTURES = (
    "differences.png",
    "loss_scales.png",
    "gradient_norms.png",
    "gradient_cosines.png",
    "weights_and_scales.png",
    "step_time.png",
)
ARMS_PICTURE = "arms.png"
"""Only where there are further arms."""
_KNOWN = (*PICTURES, ARMS_PICTURE)


def check_folder(folder: Path) -> None:
    """Raise UsageError unless ``folder`` is free: not there, empty, or holding a former report and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: should be a folder. Choose another -o DIR")
    others = sorted(entry.name for entry in folder.iterdir() if not _is_ours(entry.name))
    if others:
        raise UsageError(
            f"{folder}: should be empty or hold a former report only. Found {', '.join(others[:3])}"
            f"{' and more' if len(others) > 3 else ''}; choose another -o DIR"
        )


def _is_ours(name: str) -> bool:
    known = (MARKDOWN, PAGE, *_KNOWN)
    # The second kind is of a report that was killed while it wrote.
    return name in known or (name.endswith(".tmp") and name.startswith(tuple(f".{file}." for file in known)))


def write_report(folder: Path, document: Document, pictures: Mapping[str, bytes]) -> list[Path]:
    """Writes the pictures, the page and, last, the Markdown; returns the two texts' paths.

    A former report's picture that this one has not is removed.

    Raises RunError when something cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}. Choose another -o DIR") from error
    for name in _KNOWN:
        if name in pictures:
            write_atomically(folder / name, pictures[name])
        else:
            with writing(folder / name):
                (folder / name).unlink(missing_ok=True)
    write_atomically(folder / PAGE, to_html(document, pictures))
    write_atomically(folder / MARKDOWN, to_markdown(document))
    return [folder / MARKDOWN, folder / PAGE]

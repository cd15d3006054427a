"""Where a report goes: an empty folder or a former report's, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl.core.analysis.document import Document, Heading
from distillctl.core.analysis.report_folder import check_folder, write_report
from distillctl.core.errors import RunError, UsageError

DOCUMENT = Document("t", [Heading("t", 1)])


def test_a_new_an_empty_and_a_former_folder_are_fine(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    check_folder(folder)
    written = write_report(folder, DOCUMENT, {"step_time.png": b"p"})
    assert written == [folder / "report.md", folder / "report.html"]
    assert {path.name for path in folder.iterdir()} == {"report.md", "report.html", "step_time.png"}
    check_folder(folder)
    write_report(folder, DOCUMENT, {"step_time.png": b"q"})
    assert (folder / "step_time.png").read_bytes() == b"q"
    assert (folder / "report.md").read_text() == "# t\n"
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")


def test_what_a_killed_report_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".report.html.0123456789ab.tmp").touch()
    check_folder(tmp_path)


def test_a_former_reports_picture_does_not_stay(tmp_path: Path) -> None:
    write_report(tmp_path, DOCUMENT, {"step_time.png": b"p", "arms.png": b"p"})
    write_report(tmp_path, DOCUMENT, {"step_time.png": b"q"})
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html", "step_time.png"}


def test_anything_else_in_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("report.md", "thesis.tex", "a", "b", "c"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"should be empty or hold a former report only\. Found a, b, c and more"):
        check_folder(tmp_path)


def test_a_file_or_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="should be a folder"):
            check_folder(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be made"):
        write_report(tmp_path / "file" / "report", DOCUMENT, {})

"""``distillctl archive``, and reports from what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl import cli
from tests.core.analysis.arms import Arm, make_run
from tests.tiny import file_bytes

pytestmark = pytest.mark.usefixtures("small_pictures")


def test_a_report_from_the_archive_is_the_report_from_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "a", Arm())
    make_run(runs / "b", Arm(right=range(4, 30)))
    arguments = ["report", "--baseline", "a", "--candidate", "b", "-o"]
    monkeypatch.chdir(runs)
    assert cli.run([*arguments, str(tmp_path / "before")]) == 0
    assert cli.run(["archive", "a", "b", "-o", str(tmp_path / "kept")]) == 0
    assert "kept/a: 0.0" in capsys.readouterr().out.replace("\n", "")
    monkeypatch.chdir(tmp_path / "kept")
    assert cli.run([*arguments, str(tmp_path / "after")]) == 0
    assert file_bytes(tmp_path / "after") == file_bytes(tmp_path / "before")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.run(["archive", *map(str, arguments)])
    return code, " ".join(capsys.readouterr().err.split())


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kept"
    make_run(tmp_path / "one" / "a", Arm())
    make_run(tmp_path / "two" / "a", Arm())
    make_run(tmp_path / "half", Arm(status="interrupted"))
    code, text = refused(capsys, tmp_path / "none", "-o", out)
    assert code == 2
    assert "not a run directory" in text
    code, text = refused(capsys, tmp_path / "one/a", tmp_path / "two/a", "-o", out)
    assert code == 2
    assert "several runs are called a" in text
    code, text = refused(capsys, tmp_path / "half", "-o", out)
    assert code == 3
    assert "did not finish (status interrupted: stopped by the user)" in text
    assert not out.exists()
    assert cli.run(["archive", str(tmp_path / "half"), "-o", str(out), "--allow-unfinished"]) == 0

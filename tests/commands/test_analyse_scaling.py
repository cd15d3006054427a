"""``distillctl analyse-scaling`` from the command line: the screen, the JSON, the files, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distillctl import cli
from tests.core.analysis.arms import Arm, make_run
from tests.core.analysis.logs import Log, write_log
from tests.core.analysis.test_scaling_run import without
from tests.tiny import file_bytes

FILES = {"loss_scaling.json", "loss_scaling.png", "loss_scaling_gradients.png", "loss_scaling_cosines.png"}
AWAY = Log(scales={"semantic": 100.0}, norms={"semantic": 0.2}, noise=0.1)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No pictures, which take the longest, where a test does not look at them."""
    if "drawn" not in request.fixturenames:
        names = sorted(FILES - {"loss_scaling.json"})
        monkeypatch.setattr(
            "distillctl.core.analysis.scaling_plots.draw_scaling", lambda run, window: dict.fromkeys(names, b"")
        )


@pytest.fixture
def drawn() -> None:
    """Asks for the pictures themselves."""


def words(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_one_screen_from_the_verdict_to_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(tmp_path / "run", AWAY)
    assert cli.run(["analyse-scaling", path]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0].startswith("Not balanced: semantic (20x) left the band;")
    assert lines[-1].startswith("  distillctl train --beta 4.45 --set objective.max_auxiliary_share=0.3 --output-dir ")
    assert len(lines) < 60
    assert all(len(line) <= 80 for line in lines if path not in line)
    shown = words(captured.out)
    for part in (
        "600 rows (steps 1 to 600), beta 100, balance fixed",
        "Running means over 100 steps; gradients by term in 60 steps",
        "1.4 losses in the band not met",
        "equal losses are not equal gradients",
        "start (1-100) middle (251-350) end (501-600)",
        "x 100 20.2 ± 2",
        "focal - semantic 0.049x 0 %",
        "- semantic leaves the band from the first window (steps 1-100) to the last",
        "- By losses: beta = 4.45 instead of 100.",
        "- By gradient norms: beta = 5",
    ):
        assert part in shown
    assert {file.name for file in Path(path, "analysis").iterdir()} == FILES


def test_json_is_all_there_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(tmp_path / "run", AWAY)
    assert cli.run(["analyse-scaling", path, "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert captured.err == ""
    assert captured.out == Path(path, "analysis/loss_scaling.json").read_text()
    assert (record["schema"], record["run"], record["balance"]) == (1, path, "fixed")
    assert record["beta"]["current"] == 100
    assert record["beta"]["by_losses"] == pytest.approx(0.8**0.5 / 0.2, rel=0.01)
    assert record["beta"]["by_gradients"] == pytest.approx(5)
    assert record["band"]["share"] == 0
    assert record["band"]["departures"]["semantic"]["first"] == [1, 100]
    assert record["terms"]["semantic"]["scaled"]["end"]["mean"] == pytest.approx(20, rel=0.05)
    assert record["pairs"]["focal-jsd"]["in_band"] == 1
    assert [one["verdict"] for one in record["verdicts"]] == ["not met"] * 3
    assert record["met"] is False
    assert record["command"].startswith("distillctl train --beta 4.45")


def test_check_is_exit_4_after_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(tmp_path / "run", AWAY)
    assert cli.run(["analyse-scaling", path, "--check", "--json"]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["met"] is False
    assert captured.err.startswith("error: 3 of 3 criteria are not met: 1.4 losses in the band: not met (in 0 % of 501")
    assert len(captured.err.splitlines()) == 1
    assert {file.name for file in Path(path, "analysis").iterdir()} == FILES


def test_check_is_content_with_a_balanced_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["analyze-scaling", write_log(tmp_path / "run", Log(noise=0.1)), "--check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Balanced: ")
    assert "keep beta = 5" in words(out)
    assert out.endswith("Nothing to try: leave the scales as they are.\n")


def test_the_window_is_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(tmp_path / "run", Log())
    assert cli.run(["analyse-scaling", path, "--window", "20"]) == 0
    assert "Running means over 20 steps;" in capsys.readouterr().out
    assert cli.run(["analyse-scaling", path, "--window", "5000"]) == 0
    assert "Running means over 200 steps (5,000 asked, a third of the log at most);" in capsys.readouterr().out
    assert cli.run(["analyse-scaling", path, "--window", "0"]) == 2
    assert capsys.readouterr().err == "error: --window: should be at least 1 optimizer step. Found 0\n"


def test_a_run_of_a_training_is_shown_with_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm = Arm(status="interrupted", settings=["objective.semantic_loss_scale=3"])
    path = make_run(tmp_path / "run", arm)
    assert cli.run(["analyse-scaling", path]) == 0
    out = capsys.readouterr().out
    assert "UNFINISHED: the run's status is interrupted" in out
    assert "share limit 0.1" in out
    assert f"--config {path}/config.yaml" in out


@pytest.mark.usefixtures("drawn")
@pytest.mark.filterwarnings("error")
def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", Log(noise=0.1))
    assert cli.run(["analyse-scaling", path]) == 0
    first = file_bytes(Path(path))
    assert cli.run(["analyse-scaling", path]) == 0
    assert file_bytes(Path(path)) == first
    assert all(first[f"analysis/{name}"].startswith(b"\x89PNG") for name in FILES if name.endswith("png"))


def test_an_archived_run_is_told_the_same_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", Arm())
    assert cli.run(["archive", run, "-o", str(tmp_path / "kept")]) == 0
    capsys.readouterr()
    told = []
    for path in (run, str(tmp_path / "kept/run")):
        assert cli.run(["analyse-scaling", path, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out.replace(str(Path(path).parent), "FOLDER")))
    assert told[0] == told[1]
    assert told[0]["rows"] == 90


def test_no_torch_and_less_than_a_second_for_100_000_rows(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path / "run", Log(steps=1000, noise=0.1))) / "step_metrics.csv"
    header, *rows = path.read_text().splitlines()
    cells = [row.partition(",")[2] for row in rows]
    path.write_text("\n".join([header, *(f"{n + 1},{cells[n % 1000]}" for n in range(100_000))]) + "\n")
    code = (
        "import sys, time\n"
        "from distillctl.core.analysis.scaling_run import read_scaling_run\n"
        "from distillctl.core.analysis.scaling import analyse\n"
        "from distillctl.core.analysis.scaling_verdicts import assess_scaling\n"
        "import pandas\n"
        "started = time.perf_counter()\n"
        f"run = read_scaling_run({str(path.parent)!r})\n"
        "assess_scaling(run, analyse(run, 100))\n"
        "print('seconds:', time.perf_counter() - started)\n"
        "from distillctl import cli\n"
        f"code = cli.run(['analyse-scaling', {str(path.parent)!r}, '--json'])\n"
        "print('loaded:', code, sorted({'torch', 'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout.splitlines()[0].removeprefix("seconds: ")) < 1
    assert result.stdout.endswith("loaded: 0 []\n")
    assert result.stderr == ""
    assert time.perf_counter() - started < 30


# --- refusals -------------------------------------------------------------------------------------------------------


def bad_logs(folder: Path) -> dict[str, tuple[str, str]]:
    """Paths of what cannot be analysed, and what is said of each."""
    small = Log(steps=30)
    cut = Path(write_log(folder / "cut", small), "step_metrics.csv")
    cut.write_text(cut.read_text()[:-9])
    (folder / "empty").mkdir()
    (folder / "empty" / "step_metrics.csv").touch()
    (folder / "no run").mkdir()

    def nan(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"loss_jsd": "nan"} if row["step"] == "15" else {})

    return {
        "a column is missing": (write_log(folder / "column", small, without("scale_jsd")), "the column scale_jsd of"),
        "a row is NaN": (write_log(folder / "nan", small, nan), "step_metrics.csv:16: loss_jsd is nan, so there is no"),
        "the last line is cut": (str(folder / "cut"), "step_metrics.csv:31: the last line is cut short"),
        "the file is empty": (str(folder / "empty"), "is empty: the training ended before its first step"),
        "it is no run": (str(folder / "no run"), "not a run directory"),
    }


BAD = ["a column is missing", "a row is NaN", "the last line is cut", "the file is empty", "it is no run"]


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_exit_3_with_one_sentence(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, said = bad_logs(tmp_path)[what]
    before = file_bytes(Path(path))
    assert cli.run(["analyse-scaling", path, "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.startswith(f"error: {path}")
    assert len(captured.err.splitlines()) == 1
    assert file_bytes(Path(path)) == before


def test_nothing_there_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["analyse-scaling", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there is no such directory" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_nothing_is_written_through_a_link_out_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(tmp_path / "run", Log())
    (tmp_path / "elsewhere").mkdir()
    Path(path, "analysis").symlink_to(tmp_path / "elsewhere")
    assert cli.run(["analyse-scaling", path]) == 5
    assert "leads out of the run directory" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_reader_who_leaves_does_not_end_the_work(tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", AWAY)
    started = subprocess.Popen(
        [sys.executable, "-m", "distillctl", "analyse-scaling", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdout is not None
    started.stdout.close()
    assert (started.communicate()[1], started.returncode) == (b"", 0)
    assert {file.name for file in Path(path, "analysis").iterdir()} == FILES

"""``distillctl report`` from the command line: what it writes, prints and refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from distillctl import cli
from tests.core.analysis.arms import DECODING, Arm, edit_json, make_run
from tests.core.analysis.test_html import parsed
from tests.tiny import file_bytes

pytestmark = pytest.mark.usefixtures("small_pictures")

CANDIDATE = Arm(right=range(4, 30), terms=("focal", "jsd", "semantic", "contrastive"))
PICTURES = (
    "differences.png",
    "loss_scales.png",
    "gradient_norms.png",
    "gradient_cosines.png",
    "weights_and_scales.png",
    "step_time.png",
)
FILES = {"report.md", "report.html", *PICTURES}


@dataclass
class Shown:
    folder: Path
    code: int
    out: str
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs a, a2, b, b2; tests never write to it."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "a", Arm(settings=["objective.semantic_loss_scale=1"]))
    make_run(folder / "a2", Arm(right=range(14), seed=14, settings=["objective.semantic_loss_scale=1"]))
    make_run(folder / "b", CANDIDATE)
    make_run(folder / "b2", Arm(right=range(26), seed=14, terms=CANDIDATE.terms))
    return folder


@contextlib.contextmanager
def inside(folder: Path):  # type: ignore[no-untyped-def]
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Two pairs, reported from the folder they lie in."""
    folder = tmp_path_factory.mktemp("out") / "report"
    argv = ["report", "--baseline", "a", "--candidate", "b", "--baseline", "a2", "--candidate", "b2"]
    out = io.StringIO()
    with inside(runs), contextlib.redirect_stdout(out):
        code = cli.run([*argv, "-o", str(folder)])
    return Shown(folder, code, out.getvalue(), file_bytes(folder))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take the longest, where a test does not look at them."""
    monkeypatch.setattr("distillctl.core.analysis.plots.draw_plots", lambda found: dict.fromkeys(PICTURES, b""))


def report(runs: Path, output: Path, *more: str, baseline: str = "a", candidate: str = "b") -> int:
    argv = ["report", "--baseline", str(runs / baseline), "--candidate", str(runs / candidate), "-o", str(output)]
    return cli.run([*argv, *more])


# --- what is written ------------------------------------------------------------------------------------------------


def test_everything_is_written_and_the_tables_are_printed(written: Shown) -> None:
    assert written.code == 0
    assert set(written.files) == FILES
    for words in ("Before and after", "Acceptance", "F1", "chrF", "Wall time, runs", "not met"):
        assert words in written.out
    assert written.out.endswith(f"{written.folder}/report.md\n{written.folder}/report.html\n")


def test_the_text_stands_by_itself_and_names_paths_as_given(written: Shown) -> None:
    text = written.files["report.md"].decode()
    assert "distillctl report --baseline a --candidate b --baseline a2 --candidate b2\n" in text
    assert str(written.folder) not in text
    assert str(Path.cwd()) not in text
    assert set(re.findall(r"\]\((.*?)\)", text)) == set(PICTURES)


def test_the_page_is_well_formed_and_self_contained(written: Shown) -> None:
    page = written.files["report.html"].decode()
    root = parsed(page)
    assert len(list(root.iter("img"))) == 6
    assert len(list(root.iter("details"))) >= 10
    assert not re.search(r"https?://", page)
    assert "<script" not in page


def test_the_same_arguments_give_the_same_bytes(written: Shown, runs: Path, tmp_path: Path) -> None:
    argv = ["report", "--baseline", "a", "--candidate", "b", "--baseline", "a2", "--candidate", "b2"]
    with inside(runs):
        assert cli.run([*argv, "-o", str(tmp_path / "again")]) == 0
        assert cli.run([*argv, "-o", str(tmp_path / "again")]) == 0  # over the former one
    assert file_bytes(tmp_path / "again") == written.files


def test_it_works_in_a_process_without_torch(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom distillctl import cli\n"
        f"code = cli.run(['report', '--baseline', 'a', '--candidate', 'b', '-o', {str(tmp_path / 'r')!r}])\n"
        "print('loaded:', code, sorted({'torch', 'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=runs, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("loaded: 0 []\n")
    assert result.stderr == ""


@pytest.mark.usefixtures("undrawn")
def test_a_run_against_itself(runs: Path, tmp_path: Path) -> None:
    assert report(runs, tmp_path / "r", candidate="a") == 0
    text = (tmp_path / "r" / "report.md").read_text()
    before_after = text.split("## Before and after")[1].split("![")[0]
    rows = re.findall(r"^\| [^|]+ \| [\d.]+ \| [\d.]+ \| (.*?) \| (.*?) \| (.*?) \|$", before_after, flags=re.M)
    assert rows == [("0.00", "0.00 to 0.00", "1.000")] * 12
    assert "no difference in any resample" in text


@pytest.mark.usefixtures("undrawn")
def test_swapping_the_arms_flips_every_sign(runs: Path, tmp_path: Path) -> None:
    found = []
    for name, arms in (("there", ("a", "b")), ("back", ("b", "a"))):
        assert report(runs, tmp_path / name, baseline=arms[0], candidate=arms[1]) == 0
        text = (tmp_path / name / "report.md").read_text().split("## Before and after")[1].split("![")[0]
        found.append(
            [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \w[^|]* \| \d", line)]
        )
    for there, back in zip(*found, strict=True):
        low, high = there[4].split(" to ")
        assert back == [there[0], there[2], there[1], flipped(there[3]), f"{flipped(high)} to {flipped(low)}", there[5]]


def flipped(number: str) -> str:
    return number.translate(str.maketrans("+-", "-+"))


# --- --check --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_check_lists_what_is_not_met_after_writing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(runs, tmp_path / "r", "--check") == 4
    assert set(file_bytes(tmp_path / "r")) == FILES
    captured = capsys.readouterr()
    assert captured.err == "error: 1 of 5 criteria are not met: Samples: not met (48 of validation)\n"
    assert "Acceptance" in captured.out


@pytest.mark.usefixtures("undrawn")
def test_check_is_content_when_all_is_met(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillctl.core.analysis.acceptance.SAMPLES", 48)
    assert report(runs, tmp_path / "r", "--check") == 0
    assert "All 5 acceptance criteria are met." in (tmp_path / "r" / "report.md").read_text()


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm(samples=40), "different sample ids"),
        (Arm(change_row=lambda row: row | {"input_fingerprint": "0"}), "different data: input fingerprint"),
        (Arm(change_row=lambda row: row | {"gold": ["assert 1"]}), "different data: gold"),
        (Arm(decoding=DECODING | {"num_beams": 2}), "different decoding settings"),
        (Arm(record={"fingerprints": {}}), "no provenance"),
        (Arm(status="interrupted"), "did not finish"),
    ],
)
def test_what_cannot_be_compared_is_exit_3_and_writes_nothing(
    arm: Arm, words: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = make_run(tmp_path / "odd", arm)
    code = cli.run(["report", "--baseline", str(runs / "a"), "--candidate", odd, "-o", str(tmp_path / "r")])
    captured = capsys.readouterr()
    assert code == 3
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_other_metric_versions_are_exit_3(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = make_run(tmp_path / "odd")
    edit_json(Path(odd) / "evaluation/validation/metrics.json", lambda metrics: metrics.update(metric_version=99))
    assert cli.run(["report", "--baseline", str(runs / "a"), "--candidate", odd, "-o", str(tmp_path / "r")]) == 3
    assert "different metric versions (1 and 99)" in capsys.readouterr().err


def test_damage_in_the_middle_of_the_steps_is_exit_3(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = make_run(tmp_path / "odd")
    path = Path(odd) / "step_metrics.csv"
    path.write_text(path.read_text().replace("\n50,", "\nfifty,"))
    assert cli.run(["report", "--baseline", odd, "--candidate", str(runs / "b"), "-o", str(tmp_path / "r")]) == 3
    assert f"{path}:51: could not convert" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_cut_last_step_is_noted_and_reported(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = make_run(tmp_path / "odd")
    path = Path(odd) / "step_metrics.csv"
    path.write_text(path.read_text()[:-4])
    assert cli.run(["report", "--baseline", odd, "--candidate", str(runs / "b"), "-o", str(tmp_path / "r")]) == 0
    assert f"note: {odd}/step_metrics.csv:91: the last line was cut short" in capsys.readouterr().out
    assert "the last line was cut short" in (tmp_path / "r" / "report.md").read_text()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--baseline {runs}/a --candidate {runs}/none", "none: not a run directory"),
        ("--baseline {runs}/a --candidate {runs}/b --split dev", "evaluation/dev: there is no such folder"),
        (
            "--baseline {runs}/a --candidate {runs}/b --candidate {runs}/b2",
            "equally often, at least once each. Found 1 and 2",
        ),
        ("--baseline {runs}/a", "--candidate"),
        ("--baseline {runs}/a --candidate {runs}/b -o {runs}", "should be empty or hold a former report only"),
        ("--baseline {runs}/a --candidate {runs}/b --seed 3", "unknown option --seed"),
    ],
)
def test_wrong_usage_is_exit_2(
    argv: str, words: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(tmp_path):
        assert cli.run(["report", *argv.format(runs=runs).split()]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out.count("Acceptance") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_run_can_be_reported_and_is_marked_everywhere(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = make_run(tmp_path / "odd", Arm(status="running"))
    argv = ["report", "--baseline", str(runs / "a"), "--candidate", odd, "-o", str(tmp_path / "r")]
    assert cli.run([*argv, "--allow-unfinished"]) == 0
    out = capsys.readouterr().out
    assert out.count("UNFINISHED: ") == 2
    assert "unfinished" in out.split("Acceptance")[0]
    for name in ("report.md", "report.html"):
        assert "UNFINISHED: " in (tmp_path / "r" / name).read_text()


@pytest.mark.usefixtures("undrawn")
def test_strange_texts_stay_texts(tmp_path: Path) -> None:
    def change(row: dict[str, object]) -> dict[str, object]:
        return row | {
            "gold": [f"{row['gold'][0]} <script>`|"],
            "project": "p|`<i>",
            "input": "<img src=x> <extra_id_0>",
        }  # type: ignore[index]

    first, second = make_run(tmp_path / "a", Arm(change_row=change)), make_run(tmp_path / "b", Arm(change_row=change))
    path = Path(second) / "evaluation/validation/predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[20:30]:
        row |= {"prediction": row["gold"][0], "input": "<img src=x> \x1b <extra_id_0>"}
    rows[21]["prediction"] = "lone \ud800"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.run(["report", "--baseline", first, "--candidate", second, "-o", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    parsed(page)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x&gt;" in page


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_shows_the_page(written: Shown, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400"]
    subprocess.run(
        [*command, f"--screenshot={shot}", f"file://{written.folder}/report.html"],
        check=True,
        timeout=120,
        capture_output=True,
    )
    pixels = image.imread(io.BytesIO(shot.read_bytes()))[..., :3]
    assert pixels.shape == (2400, 1200, 3)
    quarters = np.array_split(pixels, 4, axis=0)
    assert all(part.std() > 0.03 for part in quarters), "a part of the page is blank"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_further_arms(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "c", Arm(right=range(8), settings=["objective.semantic_loss_scale=3"]))
    both = ["report", "--baseline", str(runs / "a"), "--candidate", str(runs / "b"), "-o", str(tmp_path / "out")]
    assert cli.run([*both, "--arm", f"beta 3={tmp_path / 'c'}"]) == 0
    assert "All arms" in capsys.readouterr().out
    assert "| beta 3 | 1 | 16.67 | -8.33 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("results/c", "--arm: should be NAME=RUN, as in no-beta=results/no-beta-13. Found 'results/c'"),
        ("=results/c", "should be NAME=RUN"),
        ("c=", "should be NAME=RUN"),
        ("baseline=results/c", "baseline has an option of its own (--baseline RUN)"),
        ("c=nowhere", "nowhere: not a run directory"),
    ],
)
def test_arms_that_are_refused(runs: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    assert cli.run(["report", "--baseline", str(runs / "a"), "--candidate", str(runs / "b"), "--arm", text]) == 2
    assert message in " ".join(capsys.readouterr().err.split())

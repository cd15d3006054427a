"""Further arms beside the two: each against the baselines of its seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.analysis.acceptance import acceptance
from distillctl.core.analysis.comparison import Comparison, compare
from distillctl.core.analysis.drawing import to_png
from distillctl.core.analysis.markdown import to_markdown
from distillctl.core.analysis.plots import make_figures
from distillctl.core.analysis.report import build_report, command_line
from distillctl.core.analysis.run_data import RunData, read_run
from distillctl.core.analysis.tables import arms_by_seed_table, arms_table, seeds_table
from distillctl.core.errors import DataError, UsageError
from tests.core.analysis.arms import Arm, make_run


def made(path: Path, right: range, seed: int, **facts: object) -> RunData:
    return read_run(make_run(path, Arm(right=right, seed=seed, **facts)), "validation")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunData]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "a13": made(folder / "a13", range(12), 13),
        "a14": made(folder / "a14", range(16), 14),
        "b13": made(folder / "b13", range(24), 13),
        "b14": made(folder / "b14", range(20), 14, seconds=54.0),
        "c14": made(folder / "c14", range(10), 14, settings=["objective.jsd.temperature=2"]),
    }


def compared(runs: dict[str, RunData], **others: list[str]) -> Comparison:
    named = {name: [runs[run] for run in found] for name, found in others.items()}
    return compare([runs["a13"], runs["a14"]], [runs["b13"], runs["b14"]], "validation", named)


def texts(comparison: Comparison, *, brief: bool = False) -> list[list[str]]:
    table = arms_table(comparison, brief=brief)
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows]


def test_the_candidate_as_another_arm_is_the_candidate_in_any_order(runs: dict[str, RunData]) -> None:
    rows = texts(compared(runs, again=["b13", "b14"], turned=["b14", "b13"]))
    assert [row[0] for row in rows] == ["baseline", "candidate", "again", "turned"]
    assert rows[1][1:] == rows[2][1:] == rows[3][1:]


def test_an_arm_with_fewer_seeds_has_the_baselines_of_its_own(runs: dict[str, RunData]) -> None:
    comparison = compared(runs, warm=["c14"])
    (arm,) = comparison.others
    assert [run.path for run in arm.baselines] == [runs["a14"].path]
    assert arm.differences["f1"].difference == pytest.approx(100 * (10 - 16) / 48)
    row = texts(comparison)[2]
    assert row[:4] == ["warm", "1", "20.83", "-12.50"]
    assert row[-1] == "1.00"  # of the step time of its own baseline


def test_by_seed_is_what_the_seeds_table_says_of_the_candidate(runs: dict[str, RunData]) -> None:
    comparison = compared(runs, again=["b14", "b13"], warm=["c14"])
    table = arms_by_seed_table(comparison)
    assert table is not None
    candidate, again = ([cell.text for cell in row] for row in table.rows)  # warm has one run
    rows = {row[0].text: [cell.text for cell in row[1:5]] for row in seeds_table(comparison).rows}
    for metric, cells in (("F1", candidate[1:4]), ("Valid syntax", candidate[4:7])):
        assert cells == ["13: {}, 14: {}".format(*rows[metric][:2]), *rows[metric][2:]]
    assert again[1:] == candidate[1:]  # in the order of the seeds, whatever that of the command was
    assert candidate[1] == "13: +25.00, 14: +8.33" and candidate[2] == "+16.67"
    assert "### Arms by seed" in to_markdown(build_report(comparison, acceptance(comparison)))


def test_arms_of_one_run_have_no_table_by_seed(runs: dict[str, RunData]) -> None:
    comparison = compared(runs, warm=["c14"])
    assert arms_by_seed_table(comparison) is None
    assert "Arms by seed" not in to_markdown(build_report(comparison, acceptance(comparison)))


def test_the_two_arms_are_as_without_others(runs: dict[str, RunData]) -> None:
    alone, beside = compared(runs), compared(runs, warm=["c14"])
    assert alone.differences == beside.differences
    assert acceptance(alone) == acceptance(beside)
    assert arms_table(alone) is None
    assert "arms.png" not in make_figures(alone)


def test_step_time_is_a_ratio_or_a_dash(runs: dict[str, RunData]) -> None:
    rows = texts(compared(runs, warm=["c14"]))
    assert rows[0][-1] == "1.00"
    assert rows[1][-1] == f"{(45 + 54) / 90:.2f}"
    resumed = replace(runs["c14"], record={**runs["c14"].record, "resumed_at": "2026-01-01"})
    assert texts(compared({**runs, "c14": resumed}, warm=["c14"]))[2][-1] == "-"


def test_brief_is_a_part_of_all(runs: dict[str, RunData]) -> None:
    comparison = compared(runs, warm=["c14"])
    for short, row in zip(texts(comparison, brief=True), texts(comparison), strict=True):
        assert short == [row[place] for place in (0, 1, 2, 3, 4, 6, 9)]


def test_the_report_names_them(runs: dict[str, RunData]) -> None:
    comparison = compared(runs, warm=["c14"])
    text = to_markdown(build_report(comparison, acceptance(comparison)))
    assert "## All arms" in text
    assert "![Difference of each arm from the baseline with its 95 % interval](arms.png)" in text
    assert "| `objective.jsd.temperature` | `1.0` | `2.0` |" in text
    assert command_line(comparison).endswith(f"--arm warm={runs['c14'].path}")
    assert to_png(make_figures(comparison)["arms.png"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [r"$\foo$", "a_$x$", "日本語", "long " * 60])
def test_any_name_is_drawn_as_it_is(runs: dict[str, RunData], name: str) -> None:
    assert to_png(make_figures(compared(runs, **{name: ["c14"]}))["arms.png"]).startswith(b"\x89PNG")


def test_a_seed_that_no_baseline_has(runs: dict[str, RunData], tmp_path: Path) -> None:
    other = made(tmp_path / "c15", range(3), 15)
    with pytest.raises(UsageError, match=r"c15: seed 15, and no baseline has it \(14, 13\)"):
        compared({**runs, "c15": other}, warm=["c15"])


def test_other_samples(runs: dict[str, RunData], tmp_path: Path) -> None:
    other = made(tmp_path / "few", range(3), 14, samples=20)
    with pytest.raises(DataError, match="different sample ids"):
        compared({**runs, "few": other}, warm=["few"])

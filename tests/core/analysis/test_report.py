"""The report: what it says, that it says the same twice, and what an unfinished run does to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.analysis.acceptance import Criterion, acceptance
from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.html import to_html
from distillctl.core.analysis.markdown import to_markdown
from distillctl.core.analysis.names import METRIC_TITLES
from distillctl.core.analysis.report import INPUT_SHOWN, around_mask, build_report, notes_of
from distillctl.core.analysis.report_folder import PICTURES
from distillctl.core.analysis.summary import summary
from distillctl.core.analysis.tables import MOST_GROUPS, groups_table
from distillctl.core.evaluation.corpus_sums import METRICS
from distillctl.core.evaluation.significance import Difference
from tests.core.analysis.arms import Arm, compared
from tests.core.analysis.costs import measurement

BETTER = Arm(right=range(4, 24), terms=("focal", "jsd", "semantic", "contrastive"), seconds=47.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("plain"), [Arm(settings=["objective.semantic_loss_scale=1"])], [BETTER])


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    others = Arm(seed=14, right=range(14)), Arm(seed=14, right=range(22))
    return compared(tmp_path_factory.mktemp("seeds"), [Arm(), others[0]], [BETTER, others[1]])


def markdown(comparison: Comparison) -> str:
    return to_markdown(build_report(comparison, acceptance(comparison)))


def with_cost(comparison: Comparison, objective: object) -> Comparison:
    """The comparison with a measurement in the candidate's run, of these two objectives."""
    measured = measurement(comparison.baselines[0].config["objective"], objective)
    return replace(comparison, candidates=(replace(comparison.candidates[0], overhead=measured),))


def test_what_was_measured_of_the_cost_is_shown(plain: Comparison) -> None:
    assert "## Cost" not in markdown(plain)
    text = markdown(with_cost(plain, plain.candidates[0].config["objective"]))
    assert "Measured by `profile-overhead` (b1/analysis/overhead.json): within the limit of 1.10." in text
    assert "| candidate / cross-entropy | 1.060 (1.060 to 1.060) |" in text
    assert "| without semantic and contrastive | 1.049 " in text
    assert "is not that of the run" not in text


def test_a_cost_of_another_objective_is_marked(plain: Comparison) -> None:
    text = markdown(with_cost(plain, {"other": 1}))
    assert "The objective of the candidate that was measured is not that of the run." in text


def test_every_metric_has_a_title() -> None:
    assert set(METRIC_TITLES) == set(METRICS)


def test_the_report_is_complete(plain: Comparison) -> None:
    text = markdown(plain)
    assert text.startswith("# Loss-Improvements v0.1\n\nOn 48 validation samples of 12 files, F1 goes from 25.00")
    for title in METRIC_TITLES.values():
        assert f"\n| {title} | " in text
    for criterion in acceptance(plain):
        assert f"| {criterion.name} | **{criterion.verdict}** |" in text
    assert all(f"]({name})" in text for name in PICTURES)
    assert "| `objective.semantic_loss_scale` | `1.0` | `5.0` |" in text
    assert f"| directory | `{plain.baselines[0].path}` | `{plain.candidates[0].path}` |" in text
    assert text.count("<details>") == text.count("</details>") == 12 + 4
    assert "### Gained: 12 of 12" in text
    assert "### Lost: 4 of 4" in text
    assert "## Seeds" not in text
    assert "## Notes" not in text
    assert "assert compare-other" not in text  # a kind that does not occur


def test_seeds_stand_beside_each_other(two_seeds: Comparison) -> None:
    text = markdown(two_seeds)
    (row,) = [line for line in text.splitlines() if line.startswith("| F1 | +")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["F1", "+16.67", "+16.67", "+16.67"]
    assert cells[4] == "+16.67 to +16.67"
    assert cells[5].startswith("+4.17 (")
    assert "pair 2 (seeds 14, 14)" in text
    assert "pooled over 2 pairs of runs" in text
    assert "| baseline 1 | baseline 2 | candidate 1 | candidate 2 |" in text


def test_the_same_runs_give_the_same_text(two_seeds: Comparison) -> None:
    assert markdown(two_seeds) == markdown(two_seeds)


def test_no_date_stands_in_a_report(plain: Comparison) -> None:
    assert str(plain.baselines[0].record["started_at"])[:10] not in markdown(plain)


def test_equal_configurations_are_told(tmp_path: Path) -> None:
    assert "None: both arms have the same configuration." in markdown(compared(tmp_path, [Arm()], [Arm()]))


def test_notes_are_shown_once(plain: Comparison) -> None:
    noted = replace(plain.baselines[0], notes=("a/step_metrics.csv:9: the last line was cut short",))
    changed = replace(plain, baselines=(noted, noted), candidates=(noted, noted))
    assert notes_of(changed).count("a/step_metrics.csv:9: the last line was cut short") == 1
    assert "## Notes\n\n- a/step\\_metrics.csv:9: the last line was cut short\n" in markdown(
        replace(plain, baselines=(noted,))
    )


def test_an_unfinished_run_is_marked_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [Arm(status="interrupted")], allow_unfinished=True)
    document = build_report(found, acceptance(found))
    text = to_markdown(document)
    assert "\n\n> **UNFINISHED: " in text
    assert "| metric | baseline | candidate (unfinished) | delta |" in text
    assert "| status | finished | interrupted |" in text
    assert "Not all runs came to their end" in text
    assert "--allow-unfinished" in text
    assert '<p class="mark" role="alert">UNFINISHED: ' in to_html(document, dict.fromkeys(PICTURES, b""))


# --- words ----------------------------------------------------------------------------------------------------------


def criteria(*verdicts: str) -> list[Criterion]:
    return [Criterion(f"C{n}", "r", "m", verdict) for n, verdict in enumerate(verdicts)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("difference", "low", "high", "words"),
    [
        (0.7, 0.1, 1.3, "a gain of 0.70 (95 % interval +0.10 to +1.30, p = 0.040)"),
        (-0.7, -1.3, -0.1, "a loss of 0.70 (95 % interval -1.30 to -0.10, p = 0.040)"),
        (0.7, -0.1, 1.5, "+0.70, which may be chance (95 % interval -0.10 to +1.50, p = 0.040)"),
        (0.7, None, None, "+0.70 (p = 0.040; all samples are of one file, so there is no interval)"),
        (0.0, 0.0, 0.0, "no difference in any resample"),
    ],
)
def test_the_summary_follows_from_the_interval(
    plain: Comparison, difference: float, low: float | None, high: float | None, words: str
) -> None:
    f1 = Difference(25.0, 25.0 + difference, difference, low, high, 0.04, 12)
    changed = replace(plain, differences={**plain.differences, "f1": f1})
    assert f"(candidate): {words}. There is one run per arm" in summary(changed, criteria("met"))


def test_the_summary_counts_the_verdicts(plain: Comparison) -> None:
    assert summary(plain, criteria("met", "met")).endswith("All 2 acceptance criteria are met.")
    assert summary(plain, criteria("met", "not met", "not measured")).endswith(
        "1 of 3 acceptance criteria is met; the others: C1 (not met); C2 (not measured)."
    )


def test_the_summary_of_several_seeds_shows_their_noise(two_seeds: Comparison) -> None:
    text = summary(two_seeds, criteria("met"))
    assert "Over 2 pairs of runs the differences are +16.67, +16.67, mean +16.67" in text
    assert "two baselines differ by +4.17 from each other." in text


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_long_input_is_cut_around_its_mask_and_says_so() -> None:
    assert around_mask("short <extra_id_0>") == "short <extra_id_0>"
    text = "a" * 3000 + "<extra_id_0>" + "b" * 3000
    shown = around_mask(text)
    assert "<extra_id_0>" in shown
    before, after = shown.index("\n"), shown.rindex("\n")
    assert len(shown[before + 1 : after]) == INPUT_SHOWN
    counts = [int("".join(filter(str.isdigit, part))) for part in (shown[:before], shown[after:])]
    assert sum(counts) + INPUT_SHOWN == len(text)
    assert around_mask("<extra_id_0>" + "b" * 3000).startswith("<extra_id_0>")
    assert around_mask("b" * 3000).startswith("b")


def test_the_input_is_shown_where_it_was_stored(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [BETTER])
    run = replace(
        found.candidates[0], inputs={row["id"]: "def test(): <extra_id_0>" for row in found.candidates[0].rows}
    )
    assert "def test(): <extra_id_0>" in markdown(replace(found, candidates=(run,)))
    assert "The input was not stored" in markdown(found)


def test_the_text_fits_a_pull_request(two_seeds: Comparison) -> None:
    long = dict.fromkeys((str(row["id"]) for row in two_seeds.baselines[0].rows), "x" * 9_000 + "<extra_id_0>")
    run = replace(two_seeds.baselines[0], inputs=long)
    text = markdown(replace(two_seeds, baselines=(run, *two_seeds.baselines[1:])))
    assert text.count("characters left out") == 16
    assert len(text) < 65_536


def test_many_groups_are_cut_and_counted(plain: Comparison) -> None:
    group = plain.by_project[0]
    many = [replace(group, name=f"p{n}") for n in range(MOST_GROUPS + 3)]
    table = groups_table(plain, many, "project")
    assert len(table.rows) == MOST_GROUPS
    assert f"Left out: 3 smaller ones with {3 * group.samples} samples in all." in table.caption


def test_other_systems_stand_beside_once_where_they_agree(plain: Comparison) -> None:
    teacher = {"f1": 40.0, "exact_match": 39.5, "valid_syntax": 90.0, "edit_similarity": 70.0, "bleu": 50.0}
    (first,), (second,) = plain.baselines, plain.candidates
    first = replace(first, beside={"teacher": teacher, "student before training": teacher | {"f1": 1.0}})
    second = replace(second, beside={"teacher": teacher, "student before training": {"f1": 2.0}})
    text = markdown(replace(plain, baselines=(first,), candidates=(second,)))
    assert text.count("| teacher | 40.00 | 39.50 | 90.00 | 70.00 | 50.00 |") == 1
    assert "| student before training (baseline) | 1.00 |" in text
    assert "| student before training (candidate) | 2.00 | not measured |" in text
    assert "Beside them" not in markdown(plain)

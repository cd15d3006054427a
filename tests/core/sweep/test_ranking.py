"""The order of grid points: means over seeds, intervals over files, and what cannot be told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distillctl.core.errors import DataError, RunError
from distillctl.core.evaluation.corpus_sums import COLUMNS, f1
from distillctl.core.sweep.ranking import BEST, TIED, WORSE, mean_f1, rank
from tests.core.sweep.sweeps import FILES, SAMPLES, planned, result

HERE = Path("sweep")


def test_the_best_comes_first_and_the_others_are_measured_against_it() -> None:
    even = result(10, uneven=False)
    tied = replace(even, f1=even.f1 - 1 / 2.4, files={**even.files, "file00": (9, 11, 11)})
    ranking = rank(planned(HERE, "beta=3,5,7"), {0: result(4), 1: result(10), 2: tied})
    assert [found.point for found in ranking.ranks] == [(5,), (7,), (3,)]
    assert [found.verdict for found in ranking.ranks] == [BEST, TIED, WORSE]
    assert [found.f1 for found in ranking.ranks] == pytest.approx([50, 49.5833, 20], abs=1e-3)
    assert (ranking.samples, ranking.files) == (FILES * SAMPLES, FILES)
    best, close, worse = ranking.ranks
    assert best.to_best is None and best.low is not None and best.high is not None
    assert best.low < 50 < best.high
    assert worse.to_best is not None and worse.to_best.difference == pytest.approx(-30)
    # The same number fewer in each file: no draw of files gives another difference.
    assert (worse.to_best.low, worse.to_best.high) == pytest.approx((-30, -30))
    assert close.to_best is not None and close.to_best.low is not None and close.to_best.high is not None
    assert close.to_best.low < 0 < close.to_best.high


def test_equal_points_are_in_the_order_of_the_grid_and_tied() -> None:
    ranking = rank(planned(HERE), dict.fromkeys(range(3), result(4)))
    assert [found.point for found in ranking.ranks] == [(3,), (5,), (7,)]
    assert [found.verdict for found in ranking.ranks] == [BEST, TIED, TIED]


def test_a_point_counts_by_the_mean_over_its_seeds() -> None:
    sweep = planned(HERE, "beta=3,5", seeds=2)
    ranking = rank(sweep, {0: result(2), 1: result(5), 2: result(10), 3: result(5)})
    assert [(found.point, found.f1, found.by_seed) for found in ranking.ranks] == [
        ((3,), 30.0, (10.0, 50.0)),
        ((5,), 25.0, (25.0, 25.0)),
    ]


def test_the_mean_over_seeds_is_that_of_the_corpus_scores() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, size=(4, 2, 3)).astype(float)
    expected = []
    for row in counts:
        sums = np.zeros((2, len(COLUMNS)))
        sums[:, [COLUMNS.index(name) for name in ("tp", "fp", "fn")]] = row
        expected.append(f1(sums).mean())
    assert mean_f1(2)(counts.reshape(4, 6)) == pytest.approx(expected)
    assert mean_f1(1)(np.zeros(3)) == 0


def test_a_point_without_all_its_seeds_is_not_ranked() -> None:
    sweep = planned(HERE, "beta=3,5", seeds=2)
    ranking = rank(sweep, {0: result(2), 1: result(19), 2: result(3)})
    assert [found.point for found in ranking.ranks] == [(3,)]
    assert ranking.unranked == (((5,), (95.0,)),)
    with pytest.raises(RunError, match="no grid point has all its seeds"):
        rank(sweep, {1: result(19)})
    with pytest.raises(RunError, match="--retry-failed"):
        rank(sweep, {})


def test_scores_on_other_records_are_not_ranked() -> None:
    with pytest.raises(DataError, match=r"semantic_loss_scale=3, seed=13 and semantic_loss_scale=7, seed=13: scored"):
        rank(planned(HERE), {0: result(2), 1: result(2), 2: result(9, records="others")})


def test_one_file_gives_no_interval() -> None:
    alone = replace(result(2), files={"only": (1, 2, 2)})
    ranking = rank(planned(HERE, "beta=3,5"), {0: alone, 1: alone})
    assert ranking.best.low is None
    assert ranking.ranks[1].verdict == TIED


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data", "other records"),
        ("teacher", "another teacher"),
        ("tokenizer", "another tokenizer"),
        ("encoder", "another encoder"),
    ],
)
def test_trials_that_learned_from_something_else_are_not_ranked(name: str, words: str) -> None:
    """The sweep was stopped, a file was replaced in place, and the same command was given again."""
    made = {"data": "d" * 64, "teacher": "t" * 64, "tokenizer": "k" * 64, "encoder": "e" * 64}
    first, later = replace(result(2), made_from=made), replace(result(9), made_from=made | {name: "0" * 64})
    with pytest.raises(
        DataError, match=rf"scale=5.* and .*scale=7.*: made from {words} \({made[name][:16]} and 0{{16}}\)"
    ):
        rank(planned(HERE), {0: replace(first, made_from={}), 1: first, 2: later})
    assert rank(
        planned(HERE), {0: first, 1: replace(result(4), made_from={}), 2: first}
    ).ranks  # what did not say is not compared


def test_a_grid_may_vary_what_is_learned_from() -> None:
    first, later = (replace(result(n), made_from={"teacher": str(n), "tokenizer": "k"}) for n in (2, 9))
    assert rank(planned(HERE, "teacher.model=one,two"), {0: first, 1: later}).ranks

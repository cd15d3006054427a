"""Every trial's whole configuration, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.config import Config, load_config
from distillctl.core.errors import CollectedUsageError, DataError, UsageError
from distillctl.core.sweep.plan import check_same, plan_sweep
from tests.core.sweep.sweeps import configure, planned

HERE = Path("sweep")


def test_trials_differ_in_the_values_the_seed_and_the_directory_alone() -> None:
    sweep = planned(HERE, "beta=3,5", "training.learning_rate=0.001", seeds=2, fraction=0.1, train_records=1004)
    assert [(trial.point, trial.seed) for trial in sweep.trials] == [
        ((3, 0.001), 13),
        ((5, 0.001), 13),
        ((3, 0.001), 14),
        ((5, 0.001), 14),
    ]
    for trial in sweep.trials:
        config = trial.config
        assert config.objective.semantic_loss_scale == trial.point[0]
        assert config.training.learning_rate == 0.001
        assert config.seed == trial.seed
        assert (config.data.max_train_samples, config.data.sample_seed) == (100, 13)
        assert config.evaluation.split == "dev"
        assert Path(config.output_dir) == HERE / "trials" / trial.name
        alike = {"seed": 13, "output_dir": "x", "objective": Config().objective}
        assert config.model_copy(update=alike) == sweep.trials[0].config.model_copy(update=alike)
    assert len({trial.name for trial in sweep.trials}) == 4
    assert sweep.trials[0].name == "1-semantic_loss_scale=3_learning_rate=0.001-seed=13"


def test_names_are_safe_on_any_file_system() -> None:
    sweep = planned(HERE, "student.model=../../a b:c," + "x" * 300)
    assert sweep.trials[0].name == "1-student.model=.._.._a_b_c-seed=13"
    assert len(sweep.trials[1].name) < 100


@pytest.mark.parametrize(("fraction", "samples"), [(None, 4000), (1.0, 77), (0.0001, 1)])
def test_the_fraction_says_how_many_records(fraction: float | None, samples: int) -> None:
    sweep = planned(HERE, fraction=fraction, train_records=77)
    assert sweep.trials[0].config.data.max_train_samples == samples


def test_a_number_of_records_that_was_chosen_stays_that_of_the_winner() -> None:
    def chosen(values: Mapping[str, Mapping[str, Any]]) -> Config:
        return load_config(settings=["data.max_train_samples=10000"], flags=values)

    part = plan_sweep(
        chosen, ["objective.focal.weight=0.1,0.2"], seeds=1, output=HERE, fraction=0.05, train_records=97000
    )
    assert part.trials[0].config.data.max_train_samples == 4850
    assert part.best_config((0.1,)).data.max_train_samples == 10000
    assert "data.max_train_samples: 10,000 is for the best one's training" in part.notes[0]


def test_the_winner_is_trained_in_full_and_scored_on_validation() -> None:
    def tiny(values: Mapping[str, Mapping[str, Any]]) -> Config:
        return load_config(settings=["evaluation.limit=20", "evaluation.dev_limit=0"], flags=values)

    part = plan_sweep(tiny, ["beta=3,5"], seeds=1, output=HERE, fraction=0.05, train_records=1000)
    assert part.trials[0].config.evaluation.limit == 20
    best = part.best_config((5,))
    assert best.objective.semantic_loss_scale == 5
    assert (best.data.max_train_samples, best.data.sample_seed) == (None, None)
    assert (best.evaluation.split, best.evaluation.limit, best.evaluation.dev_limit) == ("validation", 500, 0)
    assert best.output_dir == str(HERE / "best")
    whole = plan_sweep(tiny, ["beta=3,5"], seeds=1, output=HERE)
    assert whole.best_config((3,)).data.max_train_samples == 4000


@pytest.mark.parametrize(
    ("grid", "options", "words"),
    [
        (["objective.jsd.temperatur=1"], {}, "did you mean objective.jsd.temperature?"),
        (["objective.jsd.temperature=1,-1"], {}, "--grid objective.jsd.temperature should be greater than 0. Found -1"),
        (["training.optimizer=adamw,sgd"], {}, "--grid training.optimizer should be 'adamw' or 'muon'"),
        (["training.per_device_train_batch_size=1,16"], {}, "a batch of one with in-batch negatives"),
        (["beta=3,3.0"], {}, "semantic_loss_scale=3.0 is the same setting as an earlier point"),
        (["beta=3"], {"seeds": 0}, "--seeds: should be at least 1"),
        (["beta=3"], {"seeds": 2**32}, "--seeds"),
        (["beta=3"], {"fraction": 0.0}, "--data-fraction: should be above 0 and at most 1. Found 0"),
        (["beta=3"], {"fraction": 1.5}, "--data-fraction"),
        (["beta=3"], {"fraction": float("nan")}, "--data-fraction"),
        (["data.max_train_samples=10,20"], {"fraction": 0.5}, "--data-fraction: cannot be given while --grid varies"),
        (["beta=" + ",".join(map(str, range(1, 500)))], {"seeds": 3}, "1,497 trials are too many"),
        (["beta=3", "objective.balance=fixed"], {}, "objective.balance: cannot be swept with"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(grid: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_sweep(configure, grid, **{"seeds": 1, "output": HERE, **options})
    assert words in str(caught.value)


def test_a_mistake_in_several_points_is_told_once() -> None:
    with pytest.raises(CollectedUsageError) as caught:
        planned(HERE, "objective.nope=1,2", "objective.focal.gamma=-1,99")
    assert len(caught.value.messages) == 3


@pytest.mark.parametrize("balance", ["fixed", "band"])
def test_a_sweep_over_the_scale_is_one_with_fixed_balance_and_says_so(balance: str) -> None:
    def balanced(values: Mapping[str, Mapping[str, Any]]) -> Config:
        return load_config(settings=[f"objective.balance={balance}"], flags=values)

    sweep = plan_sweep(balanced, ["beta=3,5"], seeds=1, output=HERE)
    assert {trial.config.objective.balance for trial in sweep.trials} == {"fixed"}
    assert sweep.best_config((5,)).objective.balance == "fixed"
    assert [note.split(",")[0] for note in sweep.notes] == ["objective.balance: fixed instead of band"] * (
        balance == "band"
    )
    other = plan_sweep(balanced, ["objective.focal.gamma=1,2"], seeds=1, output=HERE)
    assert other.trials[0].config.objective.balance == balance
    assert other.notes == ()


def test_another_machines_device_and_directory_do_not_make_another_sweep() -> None:
    def elsewhere(values: Mapping[str, Mapping[str, Any]]) -> Config:
        return load_config(settings=["device=cpu", "output_dir=y"], flags=values)

    other = plan_sweep(elsewhere, ["beta=3,5,7"], seeds=1, output=Path("other"))
    assert other.fingerprint == planned(HERE).fingerprint
    check_same(other.definition, planned(HERE).definition, HERE)


@pytest.mark.parametrize(
    ("grid", "options", "words"),
    [
        (["beta=3,5"], {}, "--grid objective.semantic_loss_scale [3, 5, 7] there, [3, 5] here"),
        (["beta=3,5,7"], {"seeds": 2}, "--seeds (from seed) [13] there, [13, 14] here"),
        (["beta=3,5,7"], {"fraction": 0.5, "train_records": 10}, "data.max_train_samples 4000 there, 5 here"),
    ],
)
def test_another_sweep_is_refused_with_what_differs(grid: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        check_same(planned(HERE).definition, planned(HERE, *grid, **options).definition, HERE)
    assert words in str(caught.value)
    assert "choose another -o DIR" in str(caught.value)

"""Reading a run for its scales: the log is enough, its settings are used where they are, bad logs are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillctl.core.analysis.scaling_run import ScalingRun, read_scaling_run
from distillctl.core.errors import DataError, UsageError
from tests.core.analysis.arms import Arm, make_run
from tests.core.analysis.logs import Log, write_log

FIXED = "objective.balance=fixed"


def test_a_log_alone_is_enough(tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", Log(scales={"semantic": 7.0}))
    run = read_scaling_run(path)
    assert (run.path, run.terms, run.beta, run.balance) == (path, ("focal", "jsd", "semantic"), 7.0, "fixed")
    assert (run.config_file, run.share_limit, run.unfinished, run.log_only) == (None, None, None, frozenset())
    assert run.notes == (f"{path}: there is no config.yaml; beta and balance are read from step_metrics.csv",)
    assert run.scaled("semantic") == pytest.approx(7 * 0.2)


def test_settings_are_read_where_they_are(tmp_path: Path) -> None:
    settings = [
        FIXED,
        "objective.semantic_loss_scale=3",
        "objective.jsd.log_only=true",
        "objective.max_auxiliary_share=0.4",
    ]
    path = make_run(tmp_path / "run", Arm(settings=settings, status="interrupted"))
    run = read_scaling_run(path)  # scales of a made run: focal 1, jsd 2, semantic 3
    assert (run.beta, run.balance, run.share_limit, run.unfinished) == (3.0, "fixed", 0.4, "interrupted")
    assert run.log_only == {"jsd"}
    assert run.trained == ("focal", "semantic")
    assert run.config_file == f"{path}/config.yaml"
    assert run.notes == ()


def test_the_log_is_believed_before_the_configuration(tmp_path: Path) -> None:
    run = read_scaling_run(make_run(tmp_path / "run", Arm(settings=[FIXED, "objective.semantic_loss_scale=9"])))
    assert run.beta == 3
    assert run.notes == ("config.yaml says beta 9, step_metrics.csv 3; the log is used",)


def moving(log: Log) -> Log:
    log.scales = {"semantic": np.linspace(5, 8, log.steps)}
    return log


def test_scales_that_move_are_those_of_a_band(tmp_path: Path) -> None:
    run = read_scaling_run(write_log(tmp_path / "run", moving(Log())))
    assert (run.balance, run.beta) == ("band", 5.0)


def test_scales_that_move_under_fixed_are_noted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Arm(settings=[FIXED]))
    write_log(Path(path), moving(Log()))
    run = read_scaling_run(path)
    assert (run.balance, run.beta) == ("fixed", 8.0)
    assert run.notes == ("scale_semantic moves from 5 to 8 although balance is fixed; the last is used",)


def test_under_band_beta_is_where_it_started(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Arm(settings=["objective.balance=band"]))
    run = read_scaling_run(path)
    assert (run.balance, run.beta) == ("band", 5.0)


def test_without_a_semantic_term_there_is_no_beta(tmp_path: Path) -> None:
    run = read_scaling_run(write_log(tmp_path / "run", Log(losses={"focal": 1.0})))
    assert (run.beta, run.pairs) == (None, [])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: there is no such directory\. Give the run directory"):
        read_scaling_run(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        read_scaling_run(str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"not a run directory.*there is no step_metrics\.csv"):
        read_scaling_run(str(tmp_path))


def without(*names: str) -> Any:
    return lambda row: {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["loss_semantic"], "the column loss_semantic of the terms focal, jsd, semantic is missing"),
        (["grad_cos_focal_jsd"], "the column grad_cos_focal_jsd"),
        (["auxiliary_clip"], "the column auxiliary_clip"),
        (["scale_jsd", "weight_jsd"], "the columns scale_jsd, weight_jsd of"),
        (
            [f"{kind}_focal" for kind in ("loss", "scale", "weight", "grad_norm")],
            "loss_focal, scale_focal, weight_focal and 1 more",
        ),
    ],
)
def test_a_missing_column_is_named(names: list[str], words: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", Log(steps=20), without(*names))
    with pytest.raises(DataError, match=rf"step_metrics\.csv:1: .*{words}.*Restore the file"):
        read_scaling_run(path)


def test_a_log_without_terms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step_metrics.csv").write_text("step,loss_total\n1,2\n")
    with pytest.raises(DataError, match="names no loss term"):
        read_scaling_run(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "step", "words"),
    [
        ("loss_jsd", "nan", "15", r":16: loss_jsd is nan"),
        ("scale_semantic", "inf", "15", r":16: scale_semantic is inf"),
        ("weight_focal", "", "15", r":16: weight_focal is blank"),
        ("grad_norm_focal", "nan", "11", r":12: grad_norm_focal is nan"),
        ("grad_norm_focal", "-inf", "11", r":12: grad_norm_focal is -inf"),
        ("grad_norm_focal", "", "11", r":12: grad_norm_focal is blank"),
        ("grad_norm_focal", "0.1", "12", r":13: grad_norm_jsd is blank"),
        ("grad_cos_focal_jsd", "inf", "11", r":12: grad_cos_focal_jsd is inf"),
    ],
)
def test_what_is_no_number_is_named(name: str, value: str, step: str, words: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", Log(steps=30), lambda row: row | ({name: value} if row["step"] == step else {}))
    with pytest.raises(DataError, match=rf"step_metrics\.csv{words}.*(Train again|Restore the file)"):
        read_scaling_run(path)


def test_pairs_are_in_the_order_of_the_columns() -> None:
    run = ScalingRun("r", ("focal", "jsd", "contrastive"), {})
    assert run.pairs == [("focal", "jsd"), ("focal", "contrastive"), ("jsd", "contrastive")]

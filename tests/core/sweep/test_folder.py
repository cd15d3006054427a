"""The folder of a sweep: whose it is, and what lies in it at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillctl.core.config import load_config
from distillctl.core.errors import DataError, UsageError
from distillctl.core.sweep.folder import check_folder, claim_folder, write_outcome
from distillctl.core.sweep.ranking import rank
from tests.core.sweep.sweeps import planned, result


def test_the_same_sweep_joins_and_another_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "sweep"
    assert not check_folder(folder)
    claim_folder(folder, planned(folder))
    assert check_folder(folder)
    before = (folder / "sweep.json").read_bytes()
    claim_folder(folder, planned(folder))
    with pytest.raises(DataError, match=r"holds another sweep: .*\[3, 5, 7\] there, \[4\] here"):
        claim_folder(folder, planned(folder, "beta=4"))
    assert (folder / "sweep.json").read_bytes() == before


def test_what_is_no_sweep_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty, and holds no sweep"):
        claim_folder(tmp_path, planned(tmp_path))
    with pytest.raises(UsageError, match="should be a folder"):
        claim_folder(tmp_path / "notes.txt", planned(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_kill_before_the_record_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / ".sweep.json.0123456789ab.tmp").write_text("{")
    claim_folder(tmp_path, planned(tmp_path))
    assert check_folder(tmp_path)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json: not valid JSON"):
        check_folder(tmp_path, planned(tmp_path))


def test_the_winners_configuration_is_one_that_train_takes(tmp_path: Path) -> None:
    sweep = planned(tmp_path, "beta=3,5", "objective.jsd.weight=[0.7,0.2],0.5", fraction=0.1, train_records=50)
    ranking = rank(sweep, {0: result(3), 1: result(4), 2: result(8)})
    write_outcome(tmp_path, sweep, ranking, b"png")
    config = load_config([tmp_path / "best.yaml"])
    assert config == sweep.best_config((5, [0.7, 0.2]))
    assert config.objective.semantic_loss_scale == 5
    assert (config.evaluation.split, config.data.max_train_samples) == ("validation", None)
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith(
        "# The best of 3 grid points: semantic_loss_scale=5, jsd.weight=[0.7, 0.2]\n# F1 40.00 (95 %"
    )
    assert "\n# Not ranked, because a training of theirs failed: 1\n" in text
    assert (tmp_path / "f1.png").read_bytes() == b"png"
    facts = json.loads((tmp_path / "ranking.json").read_text())
    assert [found["values"]["objective.semantic_loss_scale"] for found in facts["ranking"]] == [5, 3, 3]
    assert facts["ranking"][0]["verdict"] == "best"
    assert facts["without_all_seeds"] == [
        {"values": {"objective.semantic_loss_scale": 5, "objective.jsd.weight": 0.5}, "f1_by_seed": []}
    ]

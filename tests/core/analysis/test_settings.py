"""Provenance, and the differences between configurations."""

from __future__ import annotations

import shutil
from pathlib import Path

from distillctl.core.analysis.run_data import RunData, read_run
from distillctl.core.analysis.settings import (
    odd_ones_out,
    provenance,
    repeated,
    setting_differences,
    unlike_data,
    unlike_pairs,
)
from tests.core.analysis.arms import Arm, make_run


def run(path: Path, arm: Arm) -> RunData:
    return read_run(make_run(path, arm), "validation", allow_unfinished=True)


def test_differences_have_dotted_names_and_both_values(tmp_path: Path) -> None:
    first = run(tmp_path / "a", Arm(settings=["objective.semantic_loss_scale=1", "objective.balance=fixed"]))
    second = run(tmp_path / "b", Arm(settings=["objective.contrastive.weight=0", "data.max_train_samples=9"], seed=14))
    found = {one.name: (one.baseline, one.candidate) for one in setting_differences(first, second)}
    assert found["objective.semantic_loss_scale"] == ("1.0", "5.0")
    assert found["objective.contrastive.weight.start"] == ("0.1", "0.0")
    assert found["seed"] == ("13", "14")
    assert found["data.max_train_samples"][1] == "9"
    assert list(found) == sorted(found)
    assert setting_differences(first, first) == []


def test_runs_of_an_arm_may_differ_in_the_seed_only(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "1", Arm()),
        run(tmp_path / "2", Arm(seed=14)),
        run(tmp_path / "3", Arm(seed=15, settings=["training.learning_rate=0.1"])),
    ]
    assert odd_ones_out(runs[:2], "baseline") == []
    (note,) = odd_ones_out(runs, "baseline")
    assert note == f"the baseline runs {runs[0].path} and {runs[2].path} differ in training.learning_rate"


def test_other_training_data_is_noted(tmp_path: Path) -> None:
    first = run(tmp_path / "1", Arm())
    second = run(tmp_path / "2", Arm(record={"fingerprints": {"data": "x", "teacher": "y"}}))
    assert unlike_data([first, first]) == []
    assert unlike_data([first, second]) == [
        "the runs were trained on different records: their data fingerprints differ",
        "the runs were taught by different teachers: their teacher fingerprints differ",
    ]  # the second does not say what its tokenizer was
    alike = {"data": "d" * 64, "teacher": "e" * 64}
    third = run(tmp_path / "3", Arm(record={"fingerprints": alike | {"tokenizer": "x"}, "bank": {"encoder": "m"}}))
    fourth = run(tmp_path / "4", Arm(record={"bank": {"encoder": "n"}}))
    assert unlike_data([first, third]) == ["the runs have different tokenizers: their tokenizer fingerprints differ"]
    assert unlike_data([third, fourth])[1:] == [
        "the runs looked through different encoders: their encoder fingerprints differ"
    ]


def test_pairs_that_are_no_pairs_are_noted(tmp_path: Path) -> None:
    one, other = run(tmp_path / "1", Arm()), run(tmp_path / "2", Arm())
    later = run(tmp_path / "3", Arm(seed=14))
    assert unlike_pairs([one], [other]) == []
    assert unlike_pairs([one, one], [other, later]) == [
        f"{one.path} and {later.path} are a pair, and their seeds are 13 and 14: they did not see the records in the "
        "same order",
        f"{one.path} is in 2 pairs: the interval over them takes them for independent",
    ]


def test_provenance_names_what_made_the_run(tmp_path: Path) -> None:
    facts = provenance(run(tmp_path / "1", Arm()))
    assert facts["distillctl"] == "0.1.0"
    assert facts["commit"] == "c" * 12
    assert facts["data fingerprint"] == "d" * 12
    assert facts["seed"] == "13"
    assert facts["optimizer steps"] == "90"
    assert facts["decoding"] == "num_beams 1, max_new_tokens 48, bf16 false"
    assert facts["hardware"] == "made"


def test_what_is_unknown_is_a_dash_and_changes_are_told(tmp_path: Path) -> None:
    bare = Arm(
        record={"distillctl": {"version": "0.1.0", "commit": "a" * 40, "dirty": True}, "seeds": {}, "libraries": {}}
    )
    facts = provenance(run(tmp_path / "1", bare))
    assert facts["commit"] == "aaaaaaaaaaaa with local changes"
    assert (facts["seed"], facts["torch"], facts["corpus"]) == ("-", "-", "-")
    installed = run(tmp_path / "2", Arm(record={"distillctl": {"version": "0.1.0", "commit": None, "dirty": None}}))
    assert provenance(installed)["commit"] == "installed package"


def test_a_run_is_the_same_however_its_path_is_written(tmp_path: Path) -> None:
    first = run(tmp_path / "1", Arm())
    again = read_run(f"{tmp_path}/./1", "validation")
    copied = read_run(str(shutil.copytree(tmp_path / "1", tmp_path / "copy")), "validation")
    other = run(tmp_path / "2", Arm(record={"started_at": "2026-01-02T00:00:00+00:00"}))
    assert repeated([first, other], "pairs") == []
    assert repeated([first, again, copied, other], "places of arm x") == [
        f"{one.path} is in 3 places of arm x: the interval over them takes them for independent"
        for one in (first, again, copied)
    ]

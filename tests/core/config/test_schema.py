"""The schema: every field is documented, and values out of range or against each other are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from distillctl.core.config import Config, WeightSchedule, field_paths, load_config
from distillctl.core.config.yaml_text import parse_yaml

CONFIGS = Path(__file__).parents[3] / "configs"
REFERENCE = CONFIGS / "loss-improvements-v1.yaml"


def is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


LEAVES = [
    path
    for path, info in field_paths().items()
    if (not is_section(info.annotation) or info.annotation is WeightSchedule) and not path.endswith((".start", ".end"))
]


@pytest.mark.parametrize("path", list(field_paths()))
def test_every_field_says_what_it_does(path: str) -> None:
    description = field_paths()[path].description
    assert description is not None
    assert len(description) > 15
    assert description.endswith(".")


@pytest.mark.parametrize("file", [REFERENCE.name, "codet5p.yaml"])
@pytest.mark.parametrize("path", LEAVES)
def test_every_field_is_in_the_reference_yaml(path: str, file: str) -> None:
    value: Any = yaml.safe_load((CONFIGS / file).read_text())
    for part in path.split("."):
        assert part in value, f"{path} is missing from {file}"
        value = value[part]


def test_every_field_of_codet5p_has_its_comment_beside_it() -> None:
    lines = (CONFIGS / "codet5p.yaml").read_text().splitlines()
    document = parse_yaml("\n".join(lines), "codet5p.yaml")
    where = {".".join(key): number for key, number in document.lines.items()}
    assert {path for path in LEAVES if not re.search(r" # \S", lines[where[path] - 1])} == set()


def test_the_sections_are_the_ones_others_rely_on() -> None:
    assert list(Config.model_fields) == [
        "seed",
        "device",
        "output_dir",
        "data",
        "student",
        "teacher",
        "encoder",
        "objective",
        "training",
        "logging",
        "evaluation",
        "checkpoints",
    ]


def test_nothing_can_be_changed_afterwards() -> None:
    config = load_config(settings=["data.packages=[numpy]"])
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.objective.jsd.weight.start = 1.0
    assert isinstance(config.data.packages, tuple)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.7), (0.5, 0.45), (1.0, 0.2), (-1.0, 0.7), (7.0, 0.2)])
def test_a_weight_moves_linearly_and_stays_within_its_ends(progress: float, expected: float) -> None:
    assert WeightSchedule(start=0.7, end=0.2).at(progress) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0.4", "[0.4, 0.4]", "{start: 0.4, end: 0.4}"])
def test_a_weight_has_three_spellings(text: str) -> None:
    assert load_config(settings=[f"objective.semantic.weight={text}"]).objective.semantic.weight == (
        WeightSchedule(start=0.4, end=0.4)
    )


def test_active_terms_are_computed_and_trained_terms_reach_the_student() -> None:
    objective = load_config(settings=["objective.contrastive.weight=0", "objective.semantic.log_only=true"]).objective
    assert objective.active_terms == ("focal", "jsd", "semantic")
    assert objective.trained_terms == ("focal", "jsd")
    switched_off_but_logged = load_config(settings=["objective.contrastive={weight: 0, log_only: true}"]).objective
    assert switched_off_but_logged.active_terms == ("focal", "jsd", "semantic", "contrastive")


@pytest.mark.parametrize(
    ("settings", "init"),
    [
        ([], "teacher-layers"),
        (["student.model=Salesforce/codet5p-220m"], "pretrained"),
        (["student.model=Salesforce/codet5p-220m", "student.init=random"], "random"),
        (["student.init=some/folder"], "some/folder"),
    ],
)
def test_first_weights_follow_from_the_model_unless_named(settings: list[str], init: str) -> None:
    assert load_config(settings=settings).student.init == init


def test_the_fingerprint_is_of_what_a_run_does() -> None:
    base = load_config()
    assert load_config(settings=["output_dir=elsewhere"]).fingerprint() == base.fingerprint()
    assert load_config(settings=["seed=14"]).fingerprint() != base.fingerprint()
    assert len(base.fingerprint()) == 64


def test_step_batch_size_is_micro_batches_times_accumulation() -> None:
    settings = ["training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=3"]
    assert load_config(settings=settings).training.step_batch_size == 12

"""What a sweep varies, from the texts of --grid."""

from __future__ import annotations

import pytest

from distillctl.core.errors import CollectedUsageError
from distillctl.core.sweep.grid import Axis, parse_grid, point_key, point_text, points


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("objective.semantic_loss_scale=3,5,7", "objective.semantic_loss_scale", (3, 5, 7)),
        ("beta=3,5.5", "objective.semantic_loss_scale", (3, 5.5)),
        ("objective.beta= 3 , 5", "objective.semantic_loss_scale", (3, 5)),
        ("training.learning_rate=1e-4,5e-4", "training.learning_rate", (1e-4, 5e-4)),
        ("training.optimizer=adamw,muon", "training.optimizer", ("adamw", "muon")),
        ("objective.jsd.weight=[0.7,0.2],0.5", "objective.jsd.weight", ([0.7, 0.2], 0.5)),
        ("objective.max_auxiliary_share=null,0.3", "objective.max_auxiliary_share", (None, 0.3)),
        ("objective.jsd.gating=true,false", "objective.jsd.gating", (True, False)),
        ("student.model=a/b", "student.model", ("a/b",)),
    ],
)
def test_values_are_what_yaml_says(text: str, field: str, values: tuple[object, ...]) -> None:
    assert parse_grid([text]) == (Axis(field, values),)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "--grid: nothing to vary"),
        (["beta"], "should be KEY=V1,V2"),
        (["=3"], "should be KEY=V1,V2"),
        (["a..b=3"], "should be KEY=V1,V2"),
        (["beta="], "--grid beta: has no values"),
        (["beta=3,,5"], "--grid beta:1: not valid YAML"),
        (["beta=3]"], "--grid beta:1: not valid YAML"),
        (["beta=3,5,3"], "--grid beta: 3 is given twice"),
        (["beta=3", "objective.beta=5"], "--grid objective.semantic_loss_scale: is given twice"),
        (["seed=1,2"], "use --seeds N"),
        (["evaluation.limit=1,2"], "all trials are scored in the same way"),
        (["data.mask=one,all"], "scored on different records"),
        (["device=cpu"], "use --device"),
        (["output_dir=a,b"], "own directory"),
    ],
)
def test_what_makes_no_grid_is_told(texts: list[str], words: str) -> None:
    with pytest.raises(CollectedUsageError) as caught:
        parse_grid(texts)
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(CollectedUsageError) as caught:
        parse_grid(["seed=1", "beta=", "data.max_source_length=64"])
    assert len(caught.value.messages) == 2


def test_the_product_moves_the_last_axis_fastest() -> None:
    axes = parse_grid(["beta=3,5", "objective.jsd.weight=[0.7,0.2],0.5"])
    assert list(points(axes)) == [(3, [0.7, 0.2]), (3, 0.5), (5, [0.7, 0.2]), (5, 0.5)]
    assert point_text(axes, (3, [0.7, 0.2])) == "semantic_loss_scale=3, jsd.weight=[0.7, 0.2]"
    assert len({point_key(point) for point in points(axes)} | {point_key((True,)), point_key((1,))}) == 6

"""The composite never trains on a silent or broken term, resumes to the bit, and refuses misuse."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.auxiliary import ShareLimit
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.registry import TERMS, make_term
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.term import LossBatch, StudentOutputs, TermSum
from tests.core.losses.steps import LENGTHS, NAMES, SCHEDULES, make_objective, relative, run_step
from tests.toys import World, make_world


@pytest.fixture
def world() -> World:
    return make_world(LENGTHS)


@dataclass(frozen=True)
class PlantedTerm:
    """Returns the value it was given as a constant or as a wrapped leaf, or a NaN that carries gradient."""

    value: float
    kind: Literal["constant", "leaf", "nan"]
    name: str = "planted"
    group: Literal["primary", "auxiliary"] = "primary"

    def count(self, batch: LossBatch) -> Tensor:
        return batch.valid.sum().float()

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        value = torch.tensor(self.value, dtype=outputs.logits.dtype, requires_grad=self.kind == "leaf")
        if self.kind == "nan":
            value = outputs.logits.sum() * math.nan
        return TermSum(value, self.count(batch))


def planted(kind: Literal["constant", "leaf", "nan"], **settings: Any) -> Objective:
    schedules = {"focal": SCHEDULES["focal"], "planted": LinearSchedule.constant(1.0)}
    return Objective([make_term("focal"), PlantedTerm(3.0, kind)], schedules, **settings)


@pytest.mark.parametrize("separate", [True, False])
def test_a_constant_term_is_named_not_trained_on(world: World, separate: bool) -> None:
    with pytest.raises(RunError, match="'planted' sends no gradient"):
        run_step(planted("constant"), world, separate=separate)
    # log_only is exempt
    _, report = run_step(planted("constant", log_only=["planted"]), world, separate=separate)
    assert report.losses["planted"] == pytest.approx(3.0 / 25)
    # A number wrapped with requires_grad=True has a gradient of zero, and the report says so.
    gradient, report = run_step(planted("leaf"), world, separate=separate)
    expected, _ = run_step(make_objective(names=("focal",)), world)
    assert relative(gradient, expected) < 1e-12
    if report.grad_norms is not None:
        assert report.grad_norms["planted"] == 0


@pytest.mark.parametrize("separate", [True, False])
def test_a_loss_that_is_not_finite_is_named(world: World, separate: bool) -> None:
    objective = planted("nan", share_limit=ShareLimit(0.3))
    with pytest.raises(RunError, match="'planted' is nan"):
        run_step(objective, world, separate=separate)
    assert objective.share_limit is not None
    assert not objective.share_limit.seeded


def test_state_survives_json(world: World) -> None:
    objective = make_objective(beta=7.0, share_limit=ShareLimit(0.3))
    run_step(objective, world)
    state = json.loads(json.dumps(objective.state_dict()))
    resumed = make_objective(beta=5.0, share_limit=ShareLimit(0.3))
    resumed.load_state_dict(state)
    one, other = run_step(objective, world), run_step(resumed, world)
    assert torch.equal(one[0], other[0])
    assert one[1] == other[1]
    with pytest.raises(RunError, match="resume with the run's own config"):
        make_objective().load_state_dict(state)
    with pytest.raises(RunError, match="resume with the run's own config"):
        make_objective(names=("focal",), share_limit=ShareLimit(0.3)).load_state_dict(state)


def test_misuse_is_refused(world: World) -> None:
    objective = make_objective()
    with pytest.raises(RunError, match="begin_step"):
        objective.logit_gradient(world.outputs(), world.batch)
    objective.begin_step(objective.counts(world.batch), 0.0, separate=False)
    with pytest.raises(RunError, match="no micro-batch"):
        objective.end_step()
    objective.begin_step(objective.counts(world.batch), 0.0, separate=False)
    with pytest.raises(RunError, match="should be float32"):
        objective.logit_gradient(world.outputs(world.logits.bfloat16()), world.batch)
    terms = [make_term("focal")]
    bad: list[tuple[Any, ...]] = [
        ([], {}),
        (terms * 2, SCHEDULES),
        (terms, {}),
        (terms, {"focal": SCHEDULES["focal"]}, {"jsd": 1.0}),
        (terms, {"focal": SCHEDULES["focal"]}, {}, ["jsd"]),
        (terms, {"focal": SCHEDULES["focal"]}, {"focal": math.nan}),
    ]
    for arguments in bad:
        with pytest.raises(UsageError):
            Objective(*arguments)


def test_registry_makes_every_term_under_its_own_name() -> None:
    assert tuple(TERMS) == NAMES
    for name in NAMES:
        assert make_term(name).name == name
    assert make_term("contrastive", direction="triplet", temperature=0.2).name == "contrastive"
    with pytest.raises(UsageError, match="Did you mean 'semantic'"):
        make_term("semantics")

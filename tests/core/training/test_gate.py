"""The gate before step 1: silent terms and gradient towards frozen modules are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distillctl.core.errors import RunError
from distillctl.core.losses.registry import TERMS, make_term
from distillctl.core.losses.term import LossBatch, StudentOutputs, Term, TermSum
from distillctl.core.training.gate import check_terms_reach_student
from tests.toys import TinyStudent, World, make_outputs, make_world

Value = Callable[[StudentOutputs], Tensor]


@dataclass(frozen=True)
class Planted:
    """A term that computes what it is told to."""

    value: Value
    name: str = "planted"
    group: Literal["primary", "auxiliary"] = "primary"

    def count(self, batch: LossBatch) -> Tensor:
        return batch.valid.sum().float()

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        return TermSum(self.value(outputs), self.count(batch))


@dataclass
class Bench:
    world: World
    student: TinyStudent
    logits: Tensor
    frozen: dict[str, nn.Module]

    def check(
        self, terms: list[Term], batch: LossBatch | None = None, log_only: tuple[str, ...] = ()
    ) -> dict[str, float]:
        return check_terms_reach_student(
            self.student.parameters(),
            self.logits,
            make_outputs(self.world.encoder),
            terms,
            self.world.batch if batch is None else batch,
            self.frozen,
            log_only,
        )


@pytest.fixture
def bench() -> Bench:
    world = make_world()
    torch.manual_seed(0)
    student = TinyStudent(6, world.logits.shape[-1])
    logits = student(torch.randn(*world.logits.shape[:2], 6, dtype=torch.float64))
    teacher = nn.Linear(2, 2).requires_grad_(False)
    return Bench(world, student, logits, {"teacher": teacher, "encoder": world.encoder})


class NoDoubles(TorchDispatchMode):
    """As on Apple's GPUs: nothing that is float32 becomes float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        assert not isinstance(made, Tensor) or made.dtype != torch.float64, f"{func} makes float64"
        return made


def test_a_gate_on_a_device_without_float64() -> None:
    world = make_world(dtype=torch.float32)
    student = TinyStudent(6, world.logits.shape[-1]).float()
    terms = [make_term(name) for name in TERMS]
    with NoDoubles():
        logits = student(torch.randn(*world.logits.shape[:2], 6))
        outputs = make_outputs(world.encoder)
        norms = check_terms_reach_student(student.parameters(), logits, outputs, terms, world.batch, {})
    assert all(norm > 0 for norm in norms.values())


def test_all_terms_pass_and_leave_no_trace(bench: Bench) -> None:
    norms = bench.check([make_term(name) for name in TERMS])
    assert list(norms) == list(TERMS)
    assert all(norm > 0 for norm in norms.values())
    assert all(parameter.grad is None for parameter in bench.student.parameters())
    assert all(parameter.grad is None for parameter in bench.world.encoder.parameters())
    bench.logits.sum().backward()  # the student's graph is still there


@pytest.mark.parametrize(
    "value",
    [
        lambda outputs: torch.tensor(0.7),
        lambda outputs: torch.tensor(0.7, requires_grad=True),
        lambda outputs: torch.tensor(outputs.logits.detach().sum().item(), requires_grad=True) * 2,
        lambda outputs: outputs.logits.argmax(-1).double().mean().requires_grad_(True),
        lambda outputs: outputs.logits.detach().square().sum(),
        lambda outputs: 0.0 * outputs.logits.sum(),
    ],
)
def test_a_planted_term_without_gradient_is_named(bench: Bench, value: Value) -> None:
    terms = [make_term("focal"), Planted(value)]
    with pytest.raises(RunError, match="'planted' sends no gradient to the student") as caught:
        bench.check(terms)
    assert caught.value.exit_code == 5
    assert "planted" not in bench.check(terms, log_only=("planted",))


def test_values_and_gradients_that_are_not_finite_are_named(bench: Bench) -> None:
    with pytest.raises(RunError, match="'planted' is nan before step 1"):
        bench.check([Planted(lambda outputs: outputs.logits.sum() * torch.nan)])
    with pytest.raises(RunError, match="'planted' gives the student a gradient that is not finite"):
        bench.check([Planted(lambda outputs: (outputs.logits * 0.0).sqrt().sum())])


def test_a_term_with_nothing_to_count_is_named(bench: Bench) -> None:
    same = replace(bench.world.batch, step_gold_keys=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RunError, match="'contrastive' had nothing to count"):
        bench.check([make_term("focal"), make_term("contrastive")], batch=same)


def test_frozen_modules_that_take_gradient_are_named(bench: Bench) -> None:
    terms: list[Term] = [make_term("focal")]
    bench.frozen["teacher"].requires_grad_(True)
    with pytest.raises(RunError, match="teacher should be frozen, but its parameter 'weight'"):
        bench.check(terms)
    bench.frozen["teacher"].requires_grad_(False)
    parameter = next(bench.world.encoder.parameters())
    parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(RunError, match="encoder should be frozen"):
        bench.check(terms)


def test_a_batch_that_carries_gradient_is_named(bench: Bench) -> None:
    teacher_logits = bench.world.batch.teacher_logits
    assert teacher_logits is not None
    batch = replace(bench.world.batch, teacher_logits=teacher_logits.clone().requires_grad_(True))
    with pytest.raises(RunError, match="`teacher_logits` of the batch carries gradient"):
        bench.check([make_term("jsd")], batch=batch)


def test_a_student_without_trainable_parameters_is_refused(bench: Bench) -> None:
    bench.student.requires_grad_(False)
    with pytest.raises(RunError, match="no trainable parameter"):
        bench.check([make_term("focal")])

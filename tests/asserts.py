"""The properties every loss term has, each a named assert that the term's own test file applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from distillctl.core.losses.term import LossBatch, Term
from distillctl.core.training.gate import check_terms_reach_student
from tests.toys import TinyStudent, World, make_outputs, micro_batch, with_top


def value_and_gradient(term: Term, world: World, logits: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """(sum, its gradient at the logits)."""
    leaf = logits.detach().clone().requires_grad_(True)
    value = term(world.outputs(leaf), batch).sum
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_reaches_student(term: Term, world: World) -> None:
    """The term alone moves every parameter of a student, by a finite amount."""
    torch.manual_seed(3)
    student = TinyStudent(6, world.logits.shape[-1], dtype=world.logits.dtype)
    logits = student(torch.randn(*world.logits.shape[:2], 6, dtype=world.logits.dtype))
    norms = check_terms_reach_student(
        student.parameters(),
        logits,
        make_outputs(world.encoder),
        [term],
        world.batch,
        {"encoder": world.encoder},
    )
    assert norms[term.name] > 0
    for parameter in student.parameters():
        (gradient,) = torch.autograd.grad(term(world.outputs(logits), world.batch).sum, [parameter], retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.norm() > 0


def assert_gradcheck(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Analytic and numeric gradient agree, in float64."""
    leaves = [tensor.detach().clone().double().requires_grad_(True) for tensor in inputs]
    assert torch.autograd.gradcheck(function, leaves)


def assert_term_gradcheck(term: Term, world: World) -> None:
    """The same for a whole term, through the soft embedding where it reads the encoder."""
    assert_gradcheck(lambda z: term(world.outputs(z, soft=True), world.batch).sum, world.logits)


def assert_matches_naive(term: Term, world: World, reference: tuple[float, int]) -> None:
    """(sum, count) agree with a plain loop, and ``count`` knows it without the student."""
    value = term(world.outputs(), world.batch)
    assert value.sum.dim() == 0
    assert value.sum.item() == pytest.approx(reference[0], rel=1e-9)
    assert value.count.item() == reference[1]
    assert term.count(world.batch).item() == reference[1]


def assert_ignores_padding(term: Term, world: World) -> None:
    """What stands at padding, and how much padding there is, changes neither value nor gradient."""
    batch, valid = world.batch, world.batch.valid.unsqueeze(-1)
    assert not bool(valid.all()), "the world should have padding"
    value, gradient = value_and_gradient(term, world, world.logits, batch)
    assert_close(gradient * ~valid, torch.zeros_like(gradient), rtol=0, atol=0)

    def noisy(tensor: Tensor) -> Tensor:
        return torch.where(valid, tensor, 50 * torch.randn_like(tensor))

    teacher, gold = batch.teacher_logits, batch.gold_states
    assert teacher is not None
    assert gold is not None
    dirty = replace(batch, teacher_logits=noisy(teacher), gold_states=noisy(gold))
    dirty = with_top(dirty, lambda tensor: torch.where(valid, tensor, 0.5), ["logits"])
    dirty = with_top(dirty, lambda tensor: torch.where(batch.valid, tensor, 3.0), ["log_sum_exp", "tail"])
    dirty_value, dirty_gradient = value_and_gradient(term, world, noisy(world.logits), dirty)
    assert_close(dirty_value, value)
    assert_close(dirty_gradient, gradient)

    wide = _widen(batch, 3)
    wide_value, wide_gradient = value_and_gradient(term, world, _pad(world.logits, 3, 7.0), wide)
    assert_close(wide_value, value)
    assert_close(wide_gradient[:, :-3], gradient)
    assert term.count(wide).item() == term.count(batch).item()


def assert_all_masked_is_differentiable_zero(term: Term, world: World) -> None:
    """A batch without any target: sum 0, count 0, and a gradient of zeros rather than NaN or an error."""
    empty = replace(world.batch, labels=torch.full_like(world.batch.labels, -100))
    value, gradient = value_and_gradient(term, world, world.logits, empty)
    assert value.item() == 0
    assert term.count(empty).item() == 0
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=0)


def assert_micro_batch_split_equal(term: Term, world: World, size: int = 2) -> None:
    """Sums, counts and gradients of the parts add up to those of the whole."""
    value, gradient = value_and_gradient(term, world, world.logits, world.batch)
    values, gradients, count = [], [], 0.0
    for start in range(0, len(world.logits), size):
        rows = slice(start, start + size)
        part = micro_batch(world.batch, rows)
        part_value, part_gradient = value_and_gradient(term, world, world.logits[rows], part)
        values.append(part_value)
        gradients.append(part_gradient)
        count += term.count(part).item()
    assert len(values) > 1
    assert_close(torch.stack(values).sum(), value)
    assert_close(torch.cat(gradients), gradient)
    assert count == term.count(world.batch).item()


def assert_frozen_untouched(term: Term, world: World) -> None:
    """Neither a teacher whose logits still carry a graph nor the encoder gets a gradient or another value."""
    batch = world.batch
    assert batch.teacher_logits is not None
    width = batch.teacher_logits.shape[-1]
    teacher = nn.Linear(width, width, dtype=world.logits.dtype)
    attached = replace(batch, teacher_logits=teacher(batch.teacher_logits))
    frozen = [*teacher.parameters(), *world.encoder.parameters(), world.encoder.table]
    before = [tensor.detach().clone() for tensor in frozen]
    term(world.outputs(world.logits.detach().clone().requires_grad_(True)), attached).sum.backward()
    for tensor, old in zip(frozen, before, strict=True):
        assert tensor.grad is None
        assert_close(tensor.detach(), old, rtol=0, atol=0)


def _pad(tensor: Tensor, extra: int, value: float) -> Tensor:
    """[B,T,...] with ``extra`` more positions of ``value``."""
    return torch.cat([tensor, torch.full_like(tensor[:, :1], value).repeat_interleave(extra, dim=1)], dim=1)


def _widen(batch: LossBatch, extra: int) -> LossBatch:
    assert batch.teacher_logits is not None
    assert batch.token_weights is not None
    assert batch.gold_states is not None
    return replace(
        with_top(batch, lambda tensor: _pad(tensor, extra, 0)),
        labels=_pad(batch.labels, extra, -100),
        teacher_logits=_pad(batch.teacher_logits, extra, 3.0),
        token_weights=_pad(batch.token_weights, extra, 1.0),
        gold_states=_pad(batch.gold_states, extra, 0.0),
    )

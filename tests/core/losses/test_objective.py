"""The composite: one gradient in both modes and under any split, measured exactly, limited, never silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from distillctl.core.encoder.frozen import straight_through_embedding
from distillctl.core.losses.auxiliary import ShareLimit
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.step_report import StepReport
from distillctl.core.losses.term import Places, StudentOutputs
from tests.core.losses.steps import (
    LENGTHS,
    NAMES,
    SCHEDULES,
    direct_total,
    make_objective,
    relative,
    run_step,
)
from tests.host_reads import HostReads
from tests.toys import TinyStudent, World, make_world, micro_batch, outputs_of


@pytest.fixture
def world() -> World:
    return make_world(LENGTHS)


@pytest.mark.parametrize("separate", [True, False])
def test_gradient_through_the_student_equals_autograd_of_the_total(world: World, separate: bool) -> None:
    torch.manual_seed(0)
    student = TinyStudent(6, world.logits.shape[-1])
    features = torch.randn(*world.logits.shape[:2], 6, dtype=torch.float64)
    weights = {name: SCHEDULES[name].at(0.5) for name in NAMES}
    total = direct_total(world, student(features), weights)
    expected = torch.autograd.grad(total, list(student.parameters()))

    objective = make_objective()
    logits = student(features)
    objective.begin_step(objective.counts(world.batch), 0.5, separate)
    logits.backward(objective.logit_gradient(outputs_of(world.encoder, logits), world.batch))
    report = objective.end_step()
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-12)
    assert report.loss_total == pytest.approx(total.item(), rel=1e-9)


@pytest.mark.parametrize("size", [8, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_modes_and_all_splits_give_one_gradient(size: int, dtype: torch.dtype) -> None:
    world = make_world(LENGTHS, dtype=dtype)
    limits = [ShareLimit(0.3), ShareLimit(0.3)]
    for limit in limits:
        limit.observe(1.0, 10.0)
    whole, report = run_step(make_objective(share_limit=limits[0]), world, 8, separate=True)
    split, other = run_step(make_objective(share_limit=limits[1]), world, size, separate=False)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert relative(split, whole) < tolerance
    assert other.losses == pytest.approx(report.losses, rel=tolerance)
    assert other.loss_total == pytest.approx(report.loss_total, rel=tolerance)
    assert other.grad_norm_primary == pytest.approx(report.grad_norm_primary, rel=tolerance)
    assert other.grad_norm_auxiliary == pytest.approx(report.grad_norm_auxiliary, rel=tolerance)
    assert limits[1].clip == pytest.approx(limits[0].clip, rel=tolerance)
    assert (report.auxiliary_clip, other.auxiliary_clip) == pytest.approx((0.03, 0.03))


def test_norms_and_cosines_are_exact_over_micro_batches(world: World) -> None:
    _, report = run_step(make_objective(), world, size=2)
    alone = {}
    for name in NAMES:
        logits = world.logits.clone().requires_grad_(True)
        value = direct_total(world, logits, {name: SCHEDULES[name].at(0.5)})
        (alone[name],) = torch.autograd.grad(value, logits)
    assert report.grad_norms is not None
    assert list(report.grad_norms) == list(NAMES)
    assert len(report.grad_cosines) == 6
    for name in NAMES:
        assert report.grad_norms[name] == pytest.approx(alone[name].norm().item(), rel=1e-9)
    for (a, b), cosine in report.grad_cosines.items():
        expected = (alone[a] * alone[b]).sum() / (alone[a].norm() * alone[b].norm())
        assert cosine == pytest.approx(expected.item(), rel=1e-9)
    primary = (alone["focal"] + alone["jsd"]).norm().item()
    assert report.grad_norm_primary == pytest.approx(primary, rel=1e-9)


def test_the_report_adds_up(world: World) -> None:
    _, report = run_step(make_objective(beta=3.0), world, separate=False)
    assert report.scales == {"focal": 1, "jsd": 1, "semantic": 3, "contrastive": 1}
    assert report.weights == pytest.approx({"focal": 0.3, "jsd": 0.45, "semantic": 0.2, "contrastive": 0.15})
    for name in NAMES:
        expected = report.scales[name] * report.weights[name] * report.losses[name]
        assert report.weighted[name] == pytest.approx(expected)
    assert report.loss_total == pytest.approx(sum(report.weighted.values()))
    assert report.counts == {"focal": 25, "jsd": 25, "semantic": 8, "contrastive": 8}
    assert (report.grad_norms, report.grad_cosines) == (None, {})


@pytest.mark.parametrize("separate", [True, False])
def test_log_only_is_logged_and_changes_nothing(world: World, separate: bool) -> None:
    without, bare = run_step(make_objective(names=("focal", "semantic")), world, separate=separate)
    objective = make_objective(log_only=["jsd", "contrastive"])
    gradient, report = run_step(objective, world, separate=separate)
    assert relative(gradient, without) < 1e-12
    assert report.loss_total == pytest.approx(bare.loss_total)
    assert report.losses["contrastive"] > 0
    assert report.losses["jsd"] > 0
    if report.grad_norms is not None:
        assert report.grad_norms["contrastive"] > 0
        assert report.grad_norm_primary == pytest.approx(report.grad_norms["focal"])


@pytest.mark.parametrize("separate", [True, False])
def test_weight_0_has_a_loss_and_no_gradient(world: World, separate: bool) -> None:
    """The baseline's semantic term starts at 0, and must not spoil the states its neighbour trains on."""
    off = {"semantic": LinearSchedule(0.0, 0.35)}
    gradient, report = run_step(make_objective(schedules=off), world, separate=separate, progress=0.0)
    weights = {"focal": 0.3, "jsd": 0.7, "contrastive": 0.1}
    logits = world.logits.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(direct_total(world, logits, weights), logits)
    assert relative(gradient, expected) < 1e-12
    assert report.losses["semantic"] > 0
    assert report.weighted["semantic"] == 0
    if report.grad_norms is not None:
        assert report.grad_norms["semantic"] == 0
        assert report.grad_cosines["focal", "semantic"] is None


@pytest.mark.parametrize("separate", [True, False])
def test_one_encoder_pass_per_micro_batch(world: World, separate: bool) -> None:
    passes = []
    world.encoder.encoder.register_forward_hook(lambda *_: passes.append(1))
    run_step(make_objective(log_only=["contrastive"]), world, size=4, separate=separate)
    assert len(passes) == 2


@pytest.mark.parametrize(("separate", "expected"), [(False, 2), (True, 4)])
def test_the_encoder_is_passed_backward_once_for_both_terms(world: World, separate: bool, expected: int) -> None:
    """But on gradient steps, which want each term's gradient by itself."""
    passes: list[int] = []
    predicted = world.encoder.states_from_embeddings

    def hooked(embeddings: Tensor, mask: Tensor) -> Tensor:
        states = predicted(embeddings, mask)
        if states.requires_grad:
            states.grad_fn.register_hook(lambda *_: passes.append(1))  # type: ignore[union-attr]
        return states

    world.encoder.states_from_embeddings = hooked  # type: ignore[method-assign]
    run_step(make_objective(), world, size=4, separate=separate)
    assert len(passes) == expected


@pytest.mark.parametrize("separate", [True, False])
def test_no_host_read_per_micro_batch(world: World, separate: bool) -> None:
    table = world.encoder.table
    outputs = StudentOutputs(world.logits, lambda z, mask: straight_through_embedding(z, table))
    objective = make_objective(share_limit=ShareLimit(0.3), log_only=["contrastive"])
    batch = replace(world.batch, targets=Places.of(world.batch.labels))
    objective.begin_step(objective.counts(batch), 0.5, separate)
    with HostReads() as host:
        objective.logit_gradient(outputs, batch)
    assert host.found == []


@pytest.mark.parametrize("separate", [True, False])
def test_a_term_without_anything_to_count_breaks_nothing(world: World, separate: bool) -> None:
    same = torch.zeros(8, dtype=torch.int64)
    world.batch = replace(world.batch, step_gold_keys=same)
    gradient, report = run_step(make_objective(), world, size=2, separate=separate)
    expected, _ = run_step(make_objective(names=("focal", "jsd", "semantic")), world)
    assert relative(gradient, expected) < 1e-12
    assert (report.losses["contrastive"], report.counts["contrastive"]) == (0, 0)


def test_share_limit_acts_one_step_later_on_the_auxiliary_part_only(world: World) -> None:
    objective = make_objective(beta=500.0, share_limit=ShareLimit(0.3))
    first, seed = run_step(objective, world)
    assert seed.auxiliary_clip == 1.0
    assert seed.grad_norm_auxiliary > seed.grad_norm_primary
    second, report = run_step(objective, world)
    assert report.auxiliary_clip == pytest.approx(0.3 * seed.grad_norm_primary / seed.grad_norm_auxiliary)
    primary, _ = run_step(make_objective(names=("focal", "jsd")), world)
    assert relative(second - primary, report.auxiliary_clip * (first - primary)) < 1e-9
    assert (second - primary).norm() == pytest.approx(0.3 * report.grad_norm_primary, rel=1e-9)
    # Norms in the report are unclipped: what the terms ask for, not what they get.
    assert report.grad_norm_auxiliary == pytest.approx(seed.grad_norm_auxiliary)


def test_a_step_may_be_measured_without_being_observed(world: World) -> None:
    objective = make_objective(share_limit=ShareLimit(0.3))
    run_step(objective, world, observe=False)
    assert objective.share_limit is not None
    assert not objective.share_limit.seeded


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [3.0, 5.0, 7.0, 1000.0])
def test_total_gradient_after_scaling_is_within_3x_of_before(progress: float, beta: float) -> None:
    """Request 1.5. Before: scales 1, no contrastive term, no limit. After: beta, four terms, share 0.3."""
    world = make_world((12, 7, 9, 5, 11, 3, 8, 10), seed=4, dtype=torch.float32)
    plain = make_objective(beta=1.0, names=("focal", "jsd", "semantic"))
    before = run_step(plain, world, progress=progress)[0].norm().item()
    objective = make_objective(beta=beta, share_limit=ShareLimit(0.3))
    run_step(objective, world, progress=progress)  # the measurement that seeds the limit
    after = run_step(objective, world, progress=progress)[0].norm().item()
    assert before / 3 <= after <= 3 * before
    if beta == 1000.0:
        unlimited = run_step(make_objective(beta=beta), world, progress=progress)[0].norm().item()
        assert unlimited > 3 * before, "without the limit this beta should break the bound"


def test_ranks_sum_before_anything_is_divided(world: World) -> None:
    """Two ranks with half the step each report what one process with all of it does."""
    _, expected = run_step(make_objective(), world)
    second_rank: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        second_rank.append(tensor)
        return tensor

    _rank_step(world, slice(3, 8), remember)
    report = _rank_step(world, slice(0, 3), lambda tensor: tensor + second_rank[0])
    assert len(second_rank) == 1
    assert report.losses == pytest.approx(expected.losses)
    assert report.grad_norms == pytest.approx(expected.grad_norms)
    assert report.grad_cosines == pytest.approx(expected.grad_cosines)
    assert report.grad_norm_auxiliary == pytest.approx(expected.grad_norm_auxiliary)


def _rank_step(world: World, rows: slice, sum_over_ranks: Any) -> StepReport:
    objective = make_objective(sum_over_ranks=sum_over_ranks)
    objective.begin_step(objective.counts(world.batch), 0.5, separate=True)
    objective.logit_gradient(world.outputs(world.logits[rows]), micro_batch(world.batch, rows))
    return objective.end_step()

"""Jensen-Shannon divergence: three references, its bounds, gating, shared ids, and the shared properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.testing import assert_close

from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.losses.focal import FocalTerm
from distillctl.core.losses.jsd import JsdTerm, jsd_per_token, jsd_top_k, tail_bound
from distillctl.core.losses.term import StudentOutputs, TeacherTop
from tests import naive
from tests.asserts import (
    assert_all_masked_is_differentiable_zero,
    assert_frozen_untouched,
    assert_gradcheck,
    assert_ignores_padding,
    assert_matches_naive,
    assert_micro_batch_split_equal,
    assert_reaches_student,
    assert_term_gradcheck,
)
from tests.toys import VOCAB, World, cached, make_world


def teacher_of(world: World) -> torch.Tensor:
    assert world.batch.teacher_logits is not None
    return world.batch.teacher_logits


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("gating", [True, False])
def test_matches_a_plain_loop(temperature: float, gating: bool) -> None:
    world = make_world()
    reference = naive.jsd(
        world.logits.tolist(), teacher_of(world).tolist(), world.batch.labels.tolist(), temperature, gating
    )
    if gating:
        # The gate is taken in single precision, as a cached log-sum-exp would be.
        value = JsdTerm(temperature, gating=True)(world.outputs(), world.batch)
        assert value.sum.item() == pytest.approx(reference[0], rel=1e-6)
        assert value.count.item() == reference[1]
    else:
        assert_matches_naive(JsdTerm(temperature), world, reference)


def test_matches_scipy() -> None:
    world = make_world()
    p, q = (torch.softmax(z, dim=-1).numpy() for z in (teacher_of(world), world.logits))
    expected = torch.from_numpy(jensenshannon(p, q, axis=-1) ** 2)
    assert_close(jsd_per_token(world.logits, teacher_of(world)), expected)


def test_hand_computed_value() -> None:
    # P = (1, 0), Q = (1/2, 1/2), M = (3/4, 1/4):
    # 0.5 ln(4/3) + 0.5 (0.5 ln(2/3) + 0.5 ln 2)
    teacher = torch.tensor([[[0.0, -torch.inf]]])
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert expected == pytest.approx(0.2158, abs=1e-4)
    assert jsd_per_token(torch.zeros(1, 1, 2), teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_zero_on_identical_symmetric_and_bounded(temperature: float) -> None:
    world = make_world()
    student, teacher = world.logits, teacher_of(world)
    assert jsd_per_token(student, student, temperature).abs().max().item() == 0
    there, back = (jsd_per_token(a, b, temperature) for a, b in ((student, teacher), (teacher, student)))
    assert_close(there, back)
    bound = temperature**2 * math.log(2)
    assert there.min() > 0
    assert there.max() < bound
    apart = jsd_per_token(torch.tensor([[[900.0, 0.0]]]), torch.tensor([[[0.0, 900.0]]]), temperature)
    assert apart.item() == pytest.approx(bound)


def test_identical_logits_have_no_gradient() -> None:
    logits = make_world().logits.requires_grad_(True)
    jsd_per_token(logits, logits.detach()).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0


def test_gradient_matches_plain_autograd_over_the_formula() -> None:
    world = make_world()
    logits = world.logits.requires_grad_(True)
    tau = 2.0
    p, q = torch.softmax(teacher_of(world) / tau, -1), torch.softmax(logits / tau, -1)
    m = (p + q) / 2
    plain = tau**2 * 0.5 * (p * (p / m).log() + q * (q / m).log()).sum()
    (expected,) = torch.autograd.grad(plain, logits)
    (found,) = torch.autograd.grad(jsd_per_token(logits, teacher_of(world), tau).sum(), logits)
    assert_close(found, expected)


@pytest.mark.parametrize("mixture", [0.01, 0.3, 0.9, 0.99])
def test_other_mixtures_match_a_plain_loop_in_both_forms(mixture: float) -> None:
    world = make_world()
    logits, labels = world.logits.tolist(), world.batch.labels.tolist()
    term = JsdTerm(2.0, mixture=mixture)
    expected = naive.jsd(logits, teacher_of(world).tolist(), labels, 2.0, mixture=mixture)
    assert_matches_naive(term, world, expected)
    world = cached(make_world(), 4, 2.0)
    top = top_of(world)
    atoms = [part.tolist() for part in (top.ids, top.logits, top.log_sum_exp, top.tail)]
    assert_matches_naive(term, world, naive.jsd_top_k(logits, *atoms, labels, 2.0, mixture=mixture))
    for shared in (make_world(), world):
        assert_term_gradcheck(term, shared)
        assert_ignores_padding(term, shared)
        assert_micro_batch_split_equal(term, shared)


def test_the_mixtures_ends_are_the_two_directions_of_kl() -> None:
    world = make_world()
    p, q = (torch.log_softmax(z, dim=-1) for z in (teacher_of(world), world.logits))
    forward, reverse = ((p.exp() * (p - q)).sum(-1) / 4, (q.exp() * (q - p)).sum(-1) / 4)
    for mixture, expected in ((1e-8, forward), (1 - 1e-8, reverse)):
        assert_close(jsd_per_token(world.logits, teacher_of(world), mixture=mixture), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mixture", [0.02, 0.5, 0.8])
def test_near_the_teacher_every_mixture_is_an_eighth_of_chi_square(mixture: float) -> None:
    teacher = teacher_of(make_world())
    student = teacher + 1e-3 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0)).double()
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    expected = ((p - q).square() / q).sum(-1) / 8
    assert_close(jsd_per_token(student, teacher, mixture=mixture), expected, rtol=1e-2, atol=1e-12)


def test_mixtures_seen_from_the_other_side_are_each_others() -> None:
    world = make_world()
    there, back = jsd_per_token(world.logits, teacher_of(world), 1.0, 0.2), teacher_of(world)
    assert_close(there, jsd_per_token(back, world.logits, 1.0, 0.8))


@pytest.mark.parametrize("mixture", [0.01, 0.5, 0.99])
def test_extreme_logits_stay_finite(mixture: float) -> None:
    logits = torch.tensor([[[300.0, 0.0, -300.0]]], requires_grad=True)
    value = jsd_per_token(logits, torch.tensor([[[-300.0, -torch.inf, 300.0]]]), mixture=mixture)
    value.sum().backward()
    entropy = -mixture * math.log(mixture) - (1 - mixture) * math.log(1 - mixture)
    assert value.item() == pytest.approx(entropy / (4 * mixture * (1 - mixture)), rel=1e-4)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_shared_vocab_cuts_both_explicitly() -> None:
    world = make_world()
    wider = torch.cat([teacher_of(world), torch.full((*world.logits.shape[:2], 4), 9.0).double()], dim=-1)
    padded = replace(world.batch, teacher_logits=wider)
    expected = JsdTerm()(world.outputs(), world.batch).sum
    assert_close(JsdTerm(shared_vocab=VOCAB)(world.outputs(), padded).sum, expected)
    with pytest.raises(DataError, match="11 wide and teacher logits 15"):
        JsdTerm()(world.outputs(), padded)
    with pytest.raises(DataError, match="at most 11"):
        JsdTerm(shared_vocab=12)(world.outputs(), padded)


def test_nothing_is_learnt_of_padding_whatever_the_teacher_thinks_of_it() -> None:
    """A teacher widened after its training may give ids that are no token most of its mass."""
    world = make_world()
    extra = torch.full((*world.logits.shape[:2], 4), 9.0).double()
    padded = replace(world.batch, teacher_logits=torch.cat([teacher_of(world), extra], dim=-1))
    logits = torch.cat([world.logits, torch.zeros_like(extra)], dim=-1).requires_grad_(True)
    jsd = JsdTerm(shared_vocab=VOCAB)(StudentOutputs(logits), padded)
    assert_close(jsd.sum, JsdTerm()(world.outputs(), world.batch).sum)
    (gradient,) = torch.autograd.grad(jsd.sum, logits)
    assert (gradient[..., VOCAB:] == 0).all()
    # focal, over all logits, is what keeps the student from ever writing one: descent lowers them.
    (gradient,) = torch.autograd.grad(FocalTerm()(StudentOutputs(logits), padded).sum, logits)
    assert (gradient[..., VOCAB:][padded.valid] > 0).all()


def test_shared_properties() -> None:
    world = make_world()
    for term in (JsdTerm(), JsdTerm(temperature=2.0, gating=True), JsdTerm(shared_vocab=VOCAB)):
        assert_reaches_student(term, world)
        assert_term_gradcheck(term, world)
        assert_ignores_padding(term, world)
        assert_all_masked_is_differentiable_zero(term, world)
        assert_micro_batch_split_equal(term, world)
        assert_frozen_untouched(term, world)
    assert_gradcheck(lambda z: jsd_per_token(z, teacher_of(world), 2.0), world.logits)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="temperature"):
        JsdTerm(temperature=0.0)
    with pytest.raises(UsageError, match="shared_vocab"):
        JsdTerm(shared_vocab=0)
    for mixture in (0.0, 1.0):
        with pytest.raises(UsageError, match=r"objective\.jsd\.mixture should be between 0 and 1"):
            JsdTerm(mixture=mixture)
    world = make_world()
    with pytest.raises(RunError, match="'jsd' needs `teacher_logits`"):
        JsdTerm()(world.outputs(), replace(world.batch, teacher_logits=None))


# --- top-k: the form that a teacher cache has ---------------------------------------------------------------


def top_of(world: World) -> TeacherTop:
    assert world.batch.teacher_top is not None
    return world.batch.teacher_top


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("k", [1, 4, VOCAB - 1, VOCAB])
@pytest.mark.parametrize("gating", [True, False])
def test_top_k_matches_a_plain_loop(k: int, temperature: float, gating: bool) -> None:
    world = cached(make_world(), k, temperature)
    top = top_of(world)
    reference = naive.jsd_top_k(
        world.logits.tolist(),
        top.ids.tolist(),
        top.logits.tolist(),
        top.log_sum_exp.tolist(),
        top.tail.tolist(),
        world.batch.labels.tolist(),
        temperature,
        gating,
    )
    assert_matches_naive(JsdTerm(temperature, gating), world, reference)


def test_top_k_hand_computed_value() -> None:
    # S = {0}: P = (1/2, 1/2), Q = (1/5, 4/5), M = (7/20, 13/20)
    expected = 0.25 * math.log(10 / 7) + 0.25 * math.log(10 / 13) + 0.1 * math.log(4 / 7) + 0.4 * math.log(16 / 13)
    assert expected == pytest.approx(0.0507, abs=1e-4)
    student = torch.tensor([[[0.2, 0.2, 0.6]]]).log()
    half = torch.tensor([[math.log(2)]])
    top = TeacherTop(torch.tensor([[[0]]]), torch.zeros(1, 1, 1), half, -half, 1.0, 3)
    assert jsd_top_k(student, top).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_ids_kept_is_the_dense_form_in_value_and_gradient(temperature: float) -> None:
    world = cached(make_world(), VOCAB, temperature)
    # The teacher that the cache remembers: half-precision logits, in id order.
    teacher = torch.zeros_like(world.logits).scatter(-1, top_of(world).ids, top_of(world).logits)
    z = world.logits.requires_grad_(True)
    dense, found = jsd_per_token(z, teacher, temperature), jsd_top_k(z, top_of(world))
    valid = world.batch.valid
    assert_close(found[valid], dense[valid], rtol=1e-6, atol=1e-9)
    (expected,) = torch.autograd.grad(dense[valid].sum(), z)
    (gradient,) = torch.autograd.grad(found[valid].sum(), z)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_top_k_gradient_matches_plain_autograd_over_the_formula() -> None:
    world, tau = cached(make_world(), 3, 2.0), 2.0
    top, z = top_of(world), world.logits.requires_grad_(True)
    q = torch.softmax(z / tau, -1).gather(-1, top.ids)
    p = torch.exp(top.logits / tau - top.log_sum_exp.unsqueeze(-1))
    q = torch.cat([q, 1 - q.sum(-1, keepdim=True)], -1)
    p = torch.cat([p, top.tail.exp().unsqueeze(-1)], -1)
    m = (p + q) / 2
    (expected,) = torch.autograd.grad(tau**2 * 0.5 * (p * (p / m).log() + q * (q / m).log()).sum(), z)
    (found,) = torch.autograd.grad(jsd_top_k(z, top).sum(), z)
    assert_close(found, expected)


@pytest.mark.parametrize(("temperature", "mixture"), [(1.0, 0.5), (2.0, 0.5), (1.0, 0.1), (1.0, 0.9)])
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_the_tail_hides_at_most_its_bound(k: int, temperature: float, mixture: float) -> None:
    for seed in range(5):
        world = cached(make_world(seed=seed), k, temperature)
        top, valid = top_of(world), world.batch.valid
        dense = jsd_per_token(world.logits, teacher_of(world), temperature, mixture)
        hidden = dense - jsd_top_k(world.logits, top, mixture)
        q_tail = 1 - torch.softmax(world.logits / temperature, -1).gather(-1, top.ids).sum(-1)
        bound = tail_bound(top.tail.exp(), q_tail, temperature, mixture)
        assert (hidden[valid] > -1e-3).all()  # what half precision may add
        assert (hidden[valid] <= bound[valid] + 1e-3).all()


def test_the_bound_is_reached_by_tails_that_share_no_id() -> None:
    # S = {0} holds half of both; the other half lies on different ids.
    teacher, student = torch.tensor([[[0.5, 0.5, 0.0]]]).log(), torch.tensor([[[0.5, 0.0, 0.5]]]).log()
    half = torch.tensor(0.5)
    hidden = jsd_per_token(student, teacher)  # the two-atom form of it is 0
    assert hidden.item() == pytest.approx(tail_bound(half, half, 1.0).item(), rel=1e-6)
    assert tail_bound(half * 0, half * 0, 1.0).item() == 0


def test_a_sure_student_and_an_empty_tail_stay_finite() -> None:
    top = TeacherTop(
        torch.tensor([[[2, 0]]]),
        torch.tensor([[[0.0, -700.0]]]),
        torch.zeros(1, 1),
        torch.full((1, 1), -torch.inf),
        1.0,
        4,
    )
    for student in ([300.0, 0.0, -300.0, 0.0], [-300.0, 0.0, 300.0, 0.0], [0.0, 0.0, 0.0, 300.0]):
        z = torch.tensor([[student]], requires_grad=True)
        value = jsd_top_k(z, top)
        value.sum().backward()
        assert 0 <= value.item() <= math.log(2) + 1e-6
        assert z.grad is not None
        assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("k", [2, 5, VOCAB])
def test_top_k_shared_properties(k: int) -> None:
    for term in (JsdTerm(), JsdTerm(temperature=2.0, gating=True), JsdTerm(shared_vocab=VOCAB)):
        world = cached(make_world(), k, term.temperature)
        assert_reaches_student(term, world)
        assert_term_gradcheck(term, world)
        assert_ignores_padding(term, world)
        assert_all_masked_is_differentiable_zero(term, world)
        assert_micro_batch_split_equal(term, world)
        assert_frozen_untouched(term, world)


def test_a_cache_of_another_temperature_or_width_is_refused() -> None:
    world = cached(make_world(), 4, 2.0)
    with pytest.raises(DataError, match=r"made at temperature 2\.0, objective\.jsd\.temperature is 1\.0"):
        JsdTerm()(world.outputs(), world.batch)
    with pytest.raises(DataError, match="is of 11 ids, teacher and student share 10"):
        JsdTerm(2.0, shared_vocab=10)(world.outputs(), world.batch)

"""The fused dense pass: value and gradient of focal + jsd equal to plain autograd over the whole vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distillctl.core.losses import fused
from distillctl.core.losses.focal import FocalTerm
from distillctl.core.losses.fused import log_atoms, row_blocks
from distillctl.core.losses.jsd import JsdTerm
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.step_report import StepReport
from distillctl.core.losses.term import LossBatch, Places, StudentOutputs, TeacherTop
from distillctl.core.teacher.rows import Layout
from tests.asserts import assert_gradcheck
from tests.toys import VOCAB, World, cached, make_world, micro_batch

FOCAL, JSD = 0.3, 0.6
"""Weights of the two terms, which the total must not mix up."""


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that even a toy has several."""
    monkeypatch.setitem(fused.BLOCK_BYTES, "cpu", 300)


# --- the plain reference --------------------------------------------------------------------------------------


def plain_sums(z: Tensor, batch: LossBatch, focal: FocalTerm, jsd: JsdTerm) -> tuple[Tensor, Tensor]:
    """(focal, jsd) of logits [B,T,V] in float64, by autograd over the formulas and nothing else."""
    valid, gold = batch.labels >= 0, batch.labels.clamp(min=0).unsqueeze(-1)
    log_q = torch.log_softmax(z, dim=-1).gather(-1, gold).squeeze(-1)
    weights = torch.ones_like(log_q) if batch.token_weights is None else batch.token_weights.double()
    focals = -weights * focal.alpha * (1 - log_q.exp()) ** focal.gamma * log_q
    return focals[valid].sum(), plain_jsd(z, batch, jsd)[valid].sum()


def plain_jsd(z: Tensor, batch: LossBatch, jsd: JsdTerm) -> Tensor:
    tau, top = jsd.temperature, batch.teacher_top
    z = z[..., : jsd.shared_vocab] / tau
    if top is None:
        assert batch.teacher_logits is not None
        log_p = torch.log_softmax(batch.teacher_logits.double()[..., : jsd.shared_vocab] / tau, dim=-1)
        log_q = torch.log_softmax(z, dim=-1)
        gold = batch.labels.clamp(min=0).unsqueeze(-1)
        gate = log_p.gather(-1, gold).squeeze(-1).exp()
    else:
        log_p = top.logits.double() / tau - top.log_sum_exp.double()[..., None]
        log_q = z.gather(-1, top.ids) - torch.logsumexp(z, -1, keepdim=True)
        gate = (log_p.exp() * (top.ids == batch.labels.unsqueeze(-1))).sum(-1)
        if top.ids.shape[-1] < z.shape[-1]:  # else nothing is left to a tail
            others = torch.ones_like(z).scatter(-1, top.ids, 0.0).log()
            tail = torch.logsumexp(z + others, -1, keepdim=True) - torch.logsumexp(z, -1, keepdim=True)
            log_q = torch.cat([log_q, tail], -1)
            log_p = torch.cat([log_p, top.tail.double()[..., None]], -1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = 0.5 * log_p.exp() * (log_p - log_m) + 0.5 * log_q.exp() * (log_q - log_m)
    losses = tau**2 * parts.sum(-1)
    return losses * gate if jsd.gating else losses


def plain(z: Tensor, batch: LossBatch, focal: FocalTerm, jsd: JsdTerm) -> tuple[dict[str, float], Tensor]:
    """(raw mean losses, gradient of the weighted total at [B,T,V])."""
    leaf = z.detach().double().requires_grad_(True)
    sums = plain_sums(leaf, batch, focal, jsd)
    tokens = int((batch.labels >= 0).sum())
    (gradient,) = torch.autograd.grad((FOCAL * sums[0] + JSD * sums[1]) / tokens, leaf)
    return {"focal": sums[0].item() / tokens, "jsd": sums[1].item() / tokens}, gradient


def step(objective: Objective, parts: list[tuple[StudentOutputs, LossBatch]], separate: bool) -> Any:
    """([gradient per micro-batch], report) of one optimizer step."""
    counts = [objective.counts(batch) for _, batch in parts]
    objective.begin_step({name: sum(c[name] for c in counts) for name in counts[0]}, 0.5, separate)
    return [objective.logit_gradient(*part) for part in parts], objective.end_step()


def objective_of(focal: FocalTerm, jsd: JsdTerm, **options: Any) -> Objective:
    weights = {"focal": LinearSchedule.constant(FOCAL), "jsd": LinearSchedule.constant(JSD)}
    return Objective([focal, jsd], weights, **options)


def target_rows(z: Tensor, batch: LossBatch) -> StudentOutputs:
    places = Places.of(batch.labels)
    return StudentOutputs(places.take(z), None, places)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative; 6e-8 is float32's rounding of the probabilities that a gradient is made of."""
    return ((found.double() - expected).norm() / expected.norm().clamp(min=6e-3)).item()


# --- parity ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    lengths: list[int]
    vocab: int
    shared: int
    k: int
    temperature: float
    gating: bool
    weighted: bool
    sharpness: float
    seed: int

    def world(self) -> tuple[Tensor, LossBatch]:
        """(logits [B,T,V] float32, batch with a teacher's top k)."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (len(self.lengths), max(self.lengths))
        labels = torch.randint(0, self.shared, shape, generator=generator)
        labels[torch.arange(shape[1]) >= torch.tensor(self.lengths).unsqueeze(1)] = -100
        z = self.sharpness * torch.randn(*shape, self.vocab, generator=generator)
        teacher = self.sharpness * torch.randn(*shape, self.vocab, generator=generator)
        weights = 1 + torch.rand(shape, generator=generator) if self.weighted else None
        batch = LossBatch(labels, teacher_logits=teacher, token_weights=weights)
        if self.k > 0:
            layout = Layout(self.k, self.shared, self.temperature)
            flat = layout.top(teacher[..., : self.shared].flatten(0, 1), labels.clamp(min=0).flatten())
            fields = {n: getattr(flat, n).unflatten(0, shape) for n in ("ids", "logits", "log_sum_exp", "tail")}
            top = TeacherTop(**fields, temperature=self.temperature, width=self.shared)
            batch = replace(batch, teacher_logits=None, teacher_top=top)
        return z, batch


@st.composite
def cases(draw: st.DrawFn) -> Case:
    vocab = draw(st.integers(2, 40))
    shared = draw(st.sampled_from([vocab, draw(st.integers(2, vocab))]))
    return Case(
        lengths=draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)),
        vocab=vocab,
        shared=shared,
        k=draw(st.sampled_from([0, shared, draw(st.integers(1, shared))])),  # 0: the live teacher's dense logits
        temperature=draw(st.sampled_from([1.0, 0.5, 2.0])),
        gating=draw(st.booleans()),
        weighted=draw(st.booleans()),
        sharpness=draw(st.sampled_from([0.1, 2.0, 12.0])),
        seed=draw(st.integers(0, 10**6)),
    )


@given(cases())
@settings(deadline=None, max_examples=60)
def test_value_and_gradient_are_those_of_plain_autograd(case: Case) -> None:
    z, batch = case.world()
    focal, jsd = FocalTerm(), JsdTerm(case.temperature, case.gating, case.shared)
    losses, expected = plain(z, batch, focal, jsd)
    for separate in (False, True):
        (gradient,), report = step(objective_of(focal, jsd), [(target_rows(z, batch), batch)], separate)
        assert report.losses == pytest.approx(losses, rel=1e-5, abs=1e-7)
        assert relative(Places.of(batch.labels).spread(gradient), expected) < 1e-5


@given(cases(), st.integers(1, 3))
@settings(deadline=None, max_examples=15)
def test_micro_batches_add_up_to_the_whole_step(case: Case, size: int) -> None:
    z, batch = case.world()
    focal, jsd = FocalTerm(), JsdTerm(case.temperature, case.gating, case.shared)
    losses, expected = plain(z, batch, focal, jsd)
    slices = [slice(start, start + size) for start in range(0, len(z), size)]
    pieces = [(z[rows], micro_batch(batch, rows)) for rows in slices]
    parts = [(target_rows(logits, piece), piece) for logits, piece in pieces]
    gradients, report = step(objective_of(focal, jsd), parts, separate=False)
    assert report.losses == pytest.approx(losses, rel=1e-5, abs=1e-7)
    assert relative(torch.cat(gradients), Places.of(batch.labels).take(expected)) < 1e-5


@pytest.mark.parametrize("sharpness", [30.0, 300.0])
def test_rows_as_sharp_as_float32_allows_stay_exact_and_finite(sharpness: float) -> None:
    case = Case([5, 3, 4], 31, 31, 6, 1.0, False, True, sharpness, 7)
    z, batch = case.world()
    losses, expected = plain(z, batch, FocalTerm(), JsdTerm())
    (gradient,), report = step(objective_of(FocalTerm(), JsdTerm()), [(target_rows(z, batch), batch)], False)
    assert report.losses == pytest.approx(losses, rel=1e-5)
    assert relative(Places.of(batch.labels).spread(gradient), expected) < 1e-5


def test_the_factors_are_each_terms_own() -> None:
    z, batch = Case([4, 2], 17, 17, 5, 1.0, False, True, 2.0, 3).world()
    (both,), report = step(objective_of(FocalTerm(), JsdTerm()), [(target_rows(z, batch), batch)], False)
    alone = {}
    for name, silent in (("focal", "jsd"), ("jsd", "focal")):
        objective = objective_of(FocalTerm(), JsdTerm(), log_only=[silent])
        (alone[name],), logged = step(objective, [(target_rows(z, batch), batch)], False)
        assert logged.losses == pytest.approx(report.losses, rel=1e-6)  # log_only is still right
    assert relative(both, (alone["focal"] + alone["jsd"]).double()) < 1e-6
    doubled = objective_of(FocalTerm(), JsdTerm(), scales={"jsd": 2.0})
    (twice,), _ = step(doubled, [(target_rows(z, batch), batch)], False)
    assert relative(twice, (alone["focal"] + 2 * alone["jsd"]).double()) < 1e-6


# --- the atoms themselves -------------------------------------------------------------------------------------


def test_hand_computed_atoms() -> None:
    z = torch.tensor([math.log(1), math.log(2), math.log(3)])
    assert_close(log_atoms(z, torch.tensor([1])), torch.tensor([math.log(1 / 3), math.log(2 / 3)]))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("width", [VOCAB, VOCAB - 3])
def test_atoms_gradcheck(temperature: float, width: int) -> None:
    ids = torch.tensor([[[0, 3], [5, 1]]]).repeat(2, 1, 1)
    z = make_world((2, 2)).logits
    assert_gradcheck(lambda leaf: log_atoms(leaf, ids, temperature, width), z)


def test_blocks_cover_every_row_once() -> None:
    rows = torch.arange(10)
    blocks = list(row_blocks(torch.zeros(10, 25)))
    assert torch.equal(torch.cat([rows[block] for block in blocks]), rows)
    assert [len(rows[block]) for block in blocks] == [3, 3, 3, 1]
    assert [len(rows[block]) for block in row_blocks(torch.zeros(2, 1000))] == [1, 1]
    assert list(row_blocks(torch.zeros(0, 25))) == []


def test_a_cache_that_lacks_a_gold_id_is_loud() -> None:
    world = cached(make_world(), 3)
    top = world.batch.teacher_top
    assert top is not None
    other = (world.batch.labels.clamp(min=0).unsqueeze(-1) + torch.tensor([1, 2, 3])) % VOCAB
    batch = replace(world.batch, teacher_top=replace(top, ids=other))
    assert FocalTerm()(world.outputs(), batch).sum.isnan()


# --- what it costs --------------------------------------------------------------------------------------------


class DensePasses(TorchDispatchMode):
    """Counts softmaxes of whole rows, and new tensors as large as the logits."""

    def __init__(self, numel: int, width: int) -> None:
        super().__init__()
        self.numel, self.width = numel, width
        self.softmaxes = self.dense = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.softmaxes += "softmax" in str(func) and result.shape[-1] == self.width
            memories = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            self.dense += result.numel() >= self.numel and result.untyped_storage().data_ptr() not in memories
        return result


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(fused.BLOCK_BYTES, "cpu", 16 * 40 * 4)  # 16 rows of 40 logits
    return


def count(objective: Objective, batch: LossBatch, z: Tensor, separate: bool = False) -> tuple[DensePasses, StepReport]:
    outputs = target_rows(z, batch)
    objective.begin_step(objective.counts(batch), 0.5, separate)
    with DensePasses(outputs.given.numel(), outputs.width) as passes:
        objective.logit_gradient(outputs, batch)
    return passes, objective.end_step()


@pytest.mark.usefixtures("one_block")
def test_both_terms_are_one_pass_forward_one_back_and_one_dense_tensor() -> None:
    case = Case([16, 16, 16, 16], 40, 40, 6, 1.0, True, True, 2.0, 1)  # 64 rows are four blocks
    z, batch = case.world()
    passes, _ = count(objective_of(FocalTerm(), JsdTerm(gating=True)), batch, z)
    assert (passes.softmaxes, passes.dense) == (8, 1)
    passes, _ = count(objective_of(FocalTerm(), JsdTerm(gating=True), log_only=["jsd"]), batch, z)
    assert (passes.softmaxes, passes.dense) == (8, 1)  # logging a term costs no pass


def shared_world() -> World:
    return cached(make_world(dtype=torch.float64), 4)


def test_terms_share_what_they_ask_for_alike_and_only_that() -> None:
    world = shared_world()
    outputs = world.outputs(world.logits.requires_grad_(True))
    top = world.batch.top_rows
    assert top is not None
    first = outputs.log_atoms(world.batch, top.ids, 1.0, VOCAB)
    assert outputs.log_atoms(world.batch, top.ids, 1.0, VOCAB) is first
    assert outputs.log_atoms(world.batch, top.ids, 2.0, VOCAB) is not first
    assert outputs.log_atoms(world.batch, top.ids.clone(), 1.0, VOCAB) is not first
    with torch.no_grad():
        assert outputs.log_atoms(world.batch, top.ids, 1.0, VOCAB) is first
        silent = outputs.log_atoms(world.batch, top.ids, 3.0, VOCAB)
    assert not silent.requires_grad
    assert outputs.log_atoms(world.batch, top.ids, 3.0, VOCAB).requires_grad


def test_a_term_of_ones_own_still_sees_every_position() -> None:
    world = make_world((3, 1))
    rows = target_rows(world.logits, world.batch).with_logits_as_leaf()
    valid = world.batch.valid.unsqueeze(-1)
    assert_close(rows.logits, world.logits * valid)
    (gradient,) = torch.autograd.grad((rows.logits * world.logits).sum(), rows.given)
    assert_close(gradient, world.batch.places.take(world.logits))

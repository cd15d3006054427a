r"""Jensen-Shannon divergence of teacher and student, in two forms; :class:`JsdTerm` picks by what the batch carries.

Dense (:func:`jsd_per_token`): every id an atom. Top-k (:func:`jsd_top_k`), of a teacher cache: the kept ids are
atoms, and all others together are one more.

Both have a ``mixture`` mu in (0, 1), the teacher's share of M, which says in which direction they look:

    ``D = [mu KL(P||M) + (1 - mu) KL(Q||M)] / (4 mu (1 - mu))``,  M = mu P + (1 - mu) Q.

At 0.5 it is the Jensen-Shannon divergence; towards 0 it becomes KL(P||Q) / 4, which wants the student to cover all that
the teacher does, towards 1 KL(Q||P) / 4, which wants it to say nothing that the teacher does not. The divisor keeps D
close to one value, chi^2 / 8, where Q is close to P, whatever mu: so weights need no change with it. Lin 1991, eq. 5.1
with two weights; Agarwal et al. 2024, "On-Policy Distillation of Language Models", eq. 1 (their beta is mu).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distillctl.core.errors import DataError, UsageError
from distillctl.core.losses.fused import log_atoms, row_blocks
from distillctl.core.losses.term import (
    Group,
    LossBatch,
    StudentOutputs,
    TeacherTop,
    TermSum,
    require,
    valid_tokens,
)


class _Jsd(torch.autograd.Function):
    """Value and gradient in one pass over blocks of rows, keeping one dense tensor (plain autograd keeps about six)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher: Callable[[slice], Tensor], temperature: float, mixture: float
    ) -> Tensor:
        """[N,V] logits and the teacher's probabilities of a block of rows, which are overwritten."""
        info = torch.finfo(logits.dtype)
        divergence, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
        for rows in row_blocks(logits):
            q, p = torch.softmax(logits[rows] / temperature, dim=-1), teacher(rows)
            # With r = (p - q) / (p + q) and M in the middle ln(p/m) = log1p(r) and ln(q/m) = log1p(-r); elsewhere
            # ln(1 + (2 mu - 1) r) less. Precise where p is close to q, where logarithms of m are not. The clamps
            # only meet atoms whose p or q is below rounding of the other.
            ratio = (p - q).div_((p + q).clamp_(min=info.tiny)).clamp_(min=-1 + info.eps, max=1 - info.eps)
            ln_m = torch.log1p((2 * mixture - 1) * ratio) if mixture != 0.5 else None
            student_part, teacher_part = torch.log1p(-ratio), ratio.log1p_()
            if ln_m is not None:
                student_part.sub_(ln_m)
                teacher_part.sub_(ln_m)
            a = student_part.mul_(q).mul_(0.25 / mixture)  # (1 - mu) of 1 / (4 mu (1 - mu))
            divergence[rows] = (p.mul_(teacher_part).mul_(0.25 / (1 - mixture)) + a).sum(dim=-1)
            torch.sub(a, q.mul_(a.sum(dim=-1, keepdim=True)), out=gradient[rows]).mul_(temperature)
        ctx.save_for_backward(gradient)
        return divergence * temperature**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output.unsqueeze(-1) * gradient, None, None, None


def _divergences(logits: Tensor, teacher: Callable[[slice], Tensor], temperature: float, mixture: float) -> Tensor:
    """:class:`_Jsd` of [...,V] logits -> [...]; ``teacher`` is asked for rows of them flattened to [N,V]."""
    result: Tensor = _Jsd.apply(logits.reshape(-1, logits.shape[-1]), teacher, temperature, mixture)
    return result.reshape(logits.shape[:-1])


def jsd_per_token(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, mixture: float = 0.5) -> Tensor:
    r"""``tau^2 * (0.5 KL(P||M) + 0.5 KL(Q||M))``, M = (P + Q) / 2, in nats; other mixtures: see the module.

    Q = softmax(logits / tau) is the student, P = softmax(teacher_logits / tau) the teacher. The gradient at
    the logits is ``tau * (a_i - q_i * sum(a))`` with ``a_i = q_i ln(q_i / m_i) / (4 mu)``; the teacher gets none.
    Lin 1991, "Divergence Measures Based on the Shannon Entropy", eq. 4.1; tau^2 as in Hinton et al. 2015.

    Args:
        logits: [...,V] float.
        teacher_logits: [...,V], any float dtype; -inf is an atom without mass.
        temperature: tau > 0.
        mixture: mu, the teacher's share of M, in (0, 1).

    Returns:
        [...] in [0, tau^2 ln 2]; of another mixture up to tau^2 H(mu) / (4 mu (1 - mu)), H the binary entropy.
        P = (1, 0), Q = (0.5, 0.5), tau = 1: 0.2158.
    """
    teacher = teacher_logits.detach().reshape(-1, teacher_logits.shape[-1])

    def probabilities(rows: slice) -> Tensor:
        return torch.softmax(teacher[rows].to(logits.dtype) / temperature, dim=-1)

    return _divergences(logits, probabilities, temperature, mixture)


def jsd_top_k(logits: Tensor, teacher: TeacherTop, mixture: float = 0.5) -> Tensor:
    r""":func:`jsd_per_token` over the atoms S, the ids that the teacher's cache keeps, and one tail atom T.

    T has the mass of all other ids: the dense form over the k + 1 atoms, into which
    :func:`~distillctl.core.losses.fused.log_atoms` merges the student's logits. The gradient at the logits is
    ``tau * (a_i - q_i * sum(a))`` with ``a_i = q_i [ln(q_i / m_i) - ln(q_T / m_T)] / (4 mu)`` on S and 0 elsewhere.
    Merging atoms never raises the divergence; :func:`tail_bound` says by how much it may lower it. With k = V nothing
    is left to the tail, whose parts are then 0: the dense form.

    Args:
        logits: [...,V] float, V = ``teacher.width``.
        teacher: the cached distributions, [...,k], at their own temperature tau.
        mixture: mu, as there.

    Returns:
        [...], bounded as there. P = (0.5, 0.3 + 0.2), Q = (0.2, 0.2 + 0.6), S = {0}, tau = 1: 0.0507.
    """
    return _of_atoms(log_atoms(logits, teacher.ids, teacher.temperature), teacher, mixture)


def _of_atoms(student: Tensor, teacher: TeacherTop, mixture: float) -> Tensor:
    """:func:`jsd_top_k` of the student's log-probabilities of the atoms, [...,k + 1]."""
    p_top, p_tail = (p.detach().to(student.dtype) for p in _probabilities(teacher))
    p = torch.cat([p_top, p_tail.unsqueeze(-1)], dim=-1).reshape(-1, student.shape[-1])
    return _divergences(student, lambda rows: p[rows].clone(), 1.0, mixture) * teacher.temperature**2


def _probabilities(teacher: TeacherTop) -> tuple[Tensor, Tensor]:
    """([...,k] of the kept ids, [...] of the tail)."""
    scaled = teacher.logits / teacher.temperature
    return torch.exp(scaled - teacher.log_sum_exp.unsqueeze(-1)), torch.exp(teacher.tail)


def tail_bound(p_tail: Tensor, q_tail: Tensor, temperature: float, mixture: float = 0.5) -> Tensor:
    """The most that merging the tail into one atom can hide of each token's divergence, in nats.

    ``tau^2 m_T H(mu p_T / m_T) / (4 mu (1 - mu))``, m_T = mu p_T + (1 - mu) q_T, H the binary entropy: the tail's own
    divergence is at most that of two distributions that share no id, for every way to spread p_T and q_T.

    Args:
        p_tail, q_tail: mass of the tail, teacher and student, any one shape.
        temperature: tau > 0.
        mixture: mu, the teacher's share of M, in (0, 1).
    """
    m = mixture * p_tail + (1 - mixture) * q_tail
    share = mixture * p_tail / m.clamp(min=torch.finfo(m.dtype).tiny)
    entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    return temperature**2 * m * entropy / (4 * mixture * (1 - mixture))


def teacher_gold_probability(teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """[...] the teacher's probability of the gold token at the loss's temperature (of id 0 at padding).

    At the loss's temperature, not at 1, because that is the log-sum-exp a teacher cache stores.
    """
    scaled = teacher_logits.detach().float() / temperature
    gold = scaled.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.exp(gold - torch.logsumexp(scaled, dim=-1))


def top_gold_probability(teacher: TeacherTop, labels: Tensor) -> Tensor:
    """[...] the same of a cached teacher, which keeps the gold id of every token (something finite at padding)."""
    p_top, _ = _probabilities(teacher)
    return (p_top * (teacher.ids == labels.unsqueeze(-1))).sum(dim=-1)


@dataclass(frozen=True)
class JsdTerm:
    """Sum of :func:`jsd_per_token`, or of :func:`jsd_top_k` of a cached teacher, over valid tokens; counts these.

    Args:
        temperature: tau > 0.
        gating: multiply each token's divergence by the teacher's probability of the gold token, so that a
            teacher that is wrong about a token teaches little there. The count stays the number of valid
            tokens: gating lowers the term, it does not move its weight to other tokens.
        shared_vocab: number of leading ids that teacher and student share; both are cut to it and
            renormalised. None says that both have the same width, and a difference is an error, never a
            silent cut.
        mixture: mu, the teacher's share of M, in (0, 1): the divergence's direction, see the module.

    Raises:
        UsageError: temperature or shared_vocab is not positive, or mixture is out of range.
        DataError: the widths do not fit each other or shared_vocab, or a cache was made at another temperature.
    """

    temperature: float = 1.0
    gating: bool = False
    shared_vocab: int | None = None
    mixture: float = 0.5
    name: ClassVar[str] = "jsd"
    group: ClassVar[Group] = "primary"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"objective.jsd.temperature should be > 0. Found {self.temperature}.")
        if self.shared_vocab is not None and self.shared_vocab < 1:
            raise UsageError(f"shared_vocab should be >= 1 or None. Found {self.shared_vocab}.")
        if not 0 < self.mixture < 1:
            raise UsageError(f"objective.jsd.mixture should be between 0 and 1. Found {self.mixture}.")

    def count(self, batch: LossBatch) -> Tensor:
        return valid_tokens(batch)

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        if batch.top_rows is not None:
            return self._from_cache(outputs, batch, batch.top_rows)
        teacher_rows = require(batch.teacher_rows, "teacher_logits", self.name).detach()
        student, teacher = self._shared(outputs.rows(batch), teacher_rows)
        losses = jsd_per_token(student, teacher, self.temperature, self.mixture)
        if self.gating:
            losses = losses * teacher_gold_probability(teacher, batch.gold, self.temperature)
        return TermSum(losses.sum(), self.count(batch))

    def _from_cache(self, outputs: StudentOutputs, batch: LossBatch, teacher: TeacherTop) -> TermSum:
        if teacher.temperature != self.temperature:
            raise DataError(
                f"The teacher cache was made at temperature {teacher.temperature}, objective.jsd.temperature is "
                f"{self.temperature}: capture it anew."
            )
        width = outputs.width if self.shared_vocab is None else self.shared_vocab
        if teacher.width != width:
            raise DataError(
                f"The teacher cache is of {teacher.width} ids, teacher and student share {width}: capture it anew."
            )
        losses = _of_atoms(outputs.log_atoms(batch, teacher.ids, teacher.temperature, width), teacher, self.mixture)
        if self.gating:
            losses = losses * top_gold_probability(teacher, batch.gold)
        return TermSum(losses.sum(), self.count(batch))

    def _shared(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        widths = (student.shape[-1], teacher.shape[-1])
        if self.shared_vocab is None:
            if widths[0] != widths[1]:
                raise DataError(
                    f"Student logits are {widths[0]} wide and teacher logits {widths[1]}: check that the "
                    "tokenizers agree and pass the number of shared ids as shared_vocab."
                )
            return student, teacher
        if self.shared_vocab > min(widths):
            raise DataError(
                f"shared_vocab should be at most {min(widths)}, the narrower of student ({widths[0]}) and "
                f"teacher ({widths[1]}) logits. Found {self.shared_vocab}."
            )
        return student[..., : self.shared_vocab], teacher[..., : self.shared_vocab]

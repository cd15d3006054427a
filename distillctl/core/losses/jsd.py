"""Jensen-Shannon divergence of teacher and student, dense form: a live teacher, every id an atom, no tail.

The top-k + tail form that reads a teacher cache belongs beside :func:`jsd_per_token` as a second pure
function with the same return value; :class:`JsdTerm` then picks by what the batch carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distillctl.core.errors import DataError, UsageError
from distillctl.core.losses.term import (
    Group,
    LossBatch,
    StudentOutputs,
    TermSum,
    require,
    valid_tokens,
)


class _DenseJsd(torch.autograd.Function):
    """Value and gradient in one pass, keeping one dense tensor (plain autograd keeps about six)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        q = torch.softmax(logits / temperature, dim=-1)
        p = torch.softmax(teacher_logits / temperature, dim=-1)
        info = torch.finfo(q.dtype)
        # ln(p/m) = log1p(r) and ln(q/m) = log1p(-r), r = (p - q) / (p + q): precise where p is close to q,
        # where logarithms of m are not. The clamps only meet atoms whose p or q is below rounding of the
        # other.
        ratio = (p - q).div_((p + q).clamp_(min=info.tiny)).clamp_(min=-1 + info.eps, max=1 - info.eps)
        student_part = q * torch.log1p(-ratio)
        divergence = 0.5 * (p.mul_(ratio.log1p_()) + student_part).sum(dim=-1)
        a = student_part.mul_(0.5)
        ctx.save_for_backward((a - q * a.sum(dim=-1, keepdim=True)).mul_(temperature))
        return divergence * temperature**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output.unsqueeze(-1) * gradient, None, None


def jsd_per_token(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""``tau^2 * (0.5 KL(P||M) + 0.5 KL(Q||M))``, M = (P + Q) / 2, in nats.

    Q = softmax(logits / tau) is the student, P = softmax(teacher_logits / tau) the teacher. The gradient at
    the logits is ``tau * (a_i - q_i * sum(a))`` with ``a_i = 0.5 q_i ln(q_i / m_i)``; the teacher gets none.
    Lin 1991, "Divergence Measures Based on the Shannon Entropy", eq. 4.1; tau^2 as in Hinton et al. 2015.

    Args:
        logits: [B,T,V] float.
        teacher_logits: [B,T,V], any float dtype; -inf is an atom without mass.
        temperature: tau > 0.

    Returns:
        [B,T] in [0, tau^2 ln 2]. P = (1, 0), Q = (0.5, 0.5), tau = 1: 0.2158.
    """
    teacher = teacher_logits.detach().to(logits.dtype)
    result: Tensor = _DenseJsd.apply(logits, teacher, temperature)
    return result


def teacher_gold_probability(teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """[B,T] the teacher's probability of the gold token at the loss's temperature (of id 0 at padding).

    At the loss's temperature, not at 1, because that is the log-sum-exp a teacher cache stores.
    """
    scaled = teacher_logits.detach().float() / temperature
    gold = scaled.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.exp(gold - torch.logsumexp(scaled, dim=-1))


@dataclass(frozen=True)
class JsdTerm:
    """Sum of :func:`jsd_per_token` over valid tokens; counts valid tokens.

    Args:
        temperature: tau > 0.
        gating: multiply each token's divergence by the teacher's probability of the gold token, so that a
            teacher that is wrong about a token teaches little there. The count stays the number of valid
            tokens: gating lowers the term, it does not move its weight to other tokens.
        shared_vocab: number of leading ids that teacher and student share; both are cut to it and
            renormalised. None says that both have the same width, and a difference is an error, never a
            silent cut.

    Raises:
        UsageError: temperature or shared_vocab is not positive.
        DataError: the widths do not fit each other or shared_vocab.
    """

    temperature: float = 1.0
    gating: bool = False
    shared_vocab: int | None = None
    name: ClassVar[str] = "jsd"
    group: ClassVar[Group] = "primary"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"objective.jsd.temperature should be > 0. Found {self.temperature}.")
        if self.shared_vocab is not None and self.shared_vocab < 1:
            raise UsageError(f"shared_vocab should be >= 1 or None. Found {self.shared_vocab}.")

    def count(self, batch: LossBatch) -> Tensor:
        return valid_tokens(batch)

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        teacher_logits = require(batch.teacher_logits, "teacher_logits", self.name).detach()
        student, teacher = self._shared(outputs.logits, teacher_logits)
        weights = batch.valid.to(student.dtype)
        if self.gating:
            weights = weights * teacher_gold_probability(teacher, batch.labels, self.temperature)
        return TermSum((jsd_per_token(student, teacher, self.temperature) * weights).sum(), self.count(batch))

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

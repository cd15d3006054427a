"""The composite objective: the one place that divides, weighs, limits and measures the terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, get_args

import torch
from torch import Tensor

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.auxiliary import ShareLimit
from distillctl.core.losses.balance import BandBalance
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.step_report import StepReport, check_finite
from distillctl.core.losses.term import Group, LossBatch, StudentOutputs, Term
from distillctl.core.phases import OBJECTIVE, UNTIMED, Phases

GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass
class _Step:
    """One optimizer step in progress. Sums stay on the device until ``end_step`` reads them once."""

    counts: dict[str, Tensor]
    weights: dict[str, float]
    clip: float
    separate: bool
    sums: dict[str, Tensor] = field(default_factory=dict)
    dots: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    group_squares: dict[str, Tensor] = field(default_factory=dict)


class Objective:
    r"""``total = sum_c scale_c * weight_c(progress) * sum_c / count_c`` and its gradient at the logits.

    One optimizer step is ``begin_step``, ``logit_gradient`` per micro-batch (the caller then runs
    ``outputs.given.backward(gradient)``), ``end_step`` before the optimizer's own step. Ordinary steps take two
    gradients, primary and auxiliary; ``separate`` steps take each term's alone and measure norms and cosines.
    The gradient handed out is the same in both.

    Args:
        terms: at least one, names distinct.
        schedules: weight of each term over whole-run progress 0..1.
        scales: factor of each term, 1 where absent (semantic: beta).
        log_only: names that are computed and logged but never enter gradient or total.
        share_limit: limits the auxiliary gradient, see :class:`ShareLimit`; None leaves it alone.
        sum_over_ranks: sums a 1-d tensor over all ranks; called once per step.
        balance: corrects ``self.scales`` between steps, see :class:`BandBalance`; None keeps them fixed.

    Raises:
        UsageError: terms are missing or doubled, a term has no schedule, or a name is unknown.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        schedules: Mapping[str, LinearSchedule],
        scales: Mapping[str, float] | None = None,
        log_only: Collection[str] = (),
        share_limit: ShareLimit | None = None,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        balance: BandBalance | None = None,
    ) -> None:
        self.terms = tuple(terms)
        self.names = tuple(term.name for term in terms)
        self.schedules = dict(schedules)
        self.scales = {name: float((scales or {}).get(name, 1.0)) for name in self.names}
        self.log_only = frozenset(log_only)
        self.share_limit = share_limit
        self.balance = balance
        self._sum_over_ranks = sum_over_ranks
        self._step: _Step | None = None
        self.phases: Phases = UNTIMED  # is told of each term; a profile of a training listens
        self._check({*(scales or {}), *log_only, *(balance.base if balance is not None else {})})

    def _check(self, named: set[str]) -> None:
        if not self.terms or len(set(self.names)) != len(self.names):
            raise UsageError(f"An objective should have terms with distinct names. Found {list(self.names)}.")
        if set(self.schedules) != set(self.names):
            raise UsageError(
                f"Every term should have a weight schedule. Found terms {sorted(self.names)} and schedules "
                f"{sorted(self.schedules)}."
            )
        if named - set(self.names):
            raise UsageError(
                f"scales, log_only or balance name no term of {list(self.names)}: {sorted(named - set(self.names))}."
            )
        if not all(math.isfinite(scale) and scale >= 0 for scale in self.scales.values()):
            raise UsageError(f"A scale should be finite and >= 0. Found {self.scales}.")

    def counts(self, batch: LossBatch) -> dict[str, Tensor]:
        """0-d count per term of one micro-batch, before any forward; the caller sums them over the step."""
        return {term.name: term.count(batch) for term in self.terms}

    def begin_step(self, counts: Mapping[str, Tensor], progress: float, separate: bool) -> None:
        """Start an optimizer step.

        Args:
            counts: per term, summed over all micro-batches and ranks of the step.
            progress: whole-run progress 0..1.
            separate: take each term's gradient by itself and measure it.
        """
        self._step = _Step(
            counts={name: counts[name] for name in self.names},
            weights={name: self.schedules[name].at(progress) for name in self.names},
            clip=1.0 if self.share_limit is None else self.share_limit.clip,
            separate=separate,
        )

    def logit_gradient(self, outputs: StudentOutputs, batch: LossBatch) -> Tensor:
        """One micro-batch's part of the gradient of the step's total at ``outputs.given``, of its shape.

        Ready for ``outputs.given.backward(gradient)``. Cut off from the student's graph; never synchronises
        with the host.

        Raises:
            RunError: no step was begun, the logits are half precision, or a term's sum carries no gradient.
        """
        step = self._current()
        if outputs.given.dtype in (torch.float16, torch.bfloat16):
            raise RunError(f"Student logits should be float32: run the LM head in it. Found {outputs.given.dtype}.")
        leaf = outputs.with_logits_as_leaf()
        with torch.enable_grad():
            take = self._separate_gradients if step.separate else self._joint_gradients
            groups = take(step, leaf, batch)
        self._log_silent(step, leaf, batch)
        for group, gradient in groups.items():
            _add(step.group_squares, group, _dot(gradient, gradient))
        primary = groups["primary"].contiguous() if "primary" in groups else torch.zeros_like(leaf.given)
        # Into the primary gradient, which nobody needs any more, and not into one more dense tensor.
        return primary.add_(groups["auxiliary"], alpha=step.clip) if "auxiliary" in groups else primary

    def _joint_gradients(self, step: _Step, leaf: StudentOutputs, batch: LossBatch) -> dict[str, Tensor]:
        """One gradient per group: no more encoder passes than the sum of all terms would cost."""
        gradients: dict[str, Tensor] = {}
        for group in GROUPS:
            terms = [term for term in self.terms if term.group == group and self._trains(step, term.name)]
            if terms:
                keep = group != GROUPS[-1]
                gradients[group] = self._gradient(step, terms, leaf, batch, keep)
        return gradients

    def _separate_gradients(self, step: _Step, leaf: StudentOutputs, batch: LossBatch) -> dict[str, Tensor]:
        """Each term's own gradient, and their dot products; each is let go once its group's sum holds it."""
        terms = [term for group in GROUPS for term in self.terms if term.group == group]
        terms = [term for term in terms if self._factor(step, term.name) > 0]
        taken: dict[str, Tensor] = {}
        for term in terms:
            taken[term.name] = self._gradient(step, [term], leaf, batch, keep=term is not terms[-1])
            for name, other in taken.items():
                _add(step.dots, self._pair(name, term.name), _dot(taken[term.name], other))
        gradients: dict[str, Tensor] = {}
        for term in terms:
            mine = taken.pop(term.name)
            if term.name not in self.log_only:
                gradients[term.group] = gradients[term.group] + mine if term.group in gradients else mine
        return gradients

    def _gradient(
        self, step: _Step, terms: Sequence[Term], leaf: StudentOutputs, batch: LossBatch, keep: bool
    ) -> Tensor:
        """Of the terms' weighted sum at the leaf. ``keep`` where a later one may share the encoder pass."""
        value = torch.stack([self._weighted(step, term, leaf, batch) for term in terms]).sum()
        if not value.requires_grad:
            return torch.zeros_like(leaf.given)
        with self.phases.phase(OBJECTIVE):  # each term's own part of it is told from inside, by _weighted
            (gradient,) = torch.autograd.grad(value, leaf.given, retain_graph=keep, allow_unused=True)
        return torch.zeros_like(leaf.given) if gradient is None else gradient

    def _log_silent(self, step: _Step, leaf: StudentOutputs, batch: LossBatch) -> None:
        """Loss of the terms whose gradient nobody takes; last, to reuse the states made with gradient."""
        with torch.no_grad():
            for term in self.terms:
                taken = self._factor(step, term.name) > 0 if step.separate else self._trains(step, term.name)
                if not taken:
                    with self.phases.phase(term.name):
                        value = term(leaf, batch).sum
                    _add(step.sums, term.name, value)

    def _weighted(self, step: _Step, term: Term, leaf: StudentOutputs, batch: LossBatch) -> Tensor:
        with self.phases.phase(term.name):
            value = term(leaf, batch).sum
        self.phases.backward_of(term.name, value)
        if not value.requires_grad and term.name not in self.log_only:
            raise RunError(
                f"Loss term '{term.name}' sends no gradient to the student (its sum is a constant): compute "
                "it from logits or hidden states, or set its log_only."
            )
        _add(step.sums, term.name, value.detach())
        return value * (self._factor(step, term.name) / step.counts[term.name].to(value).clamp(min=1))

    def _factor(self, step: _Step, name: str) -> float:
        return self.scales[name] * step.weights[name]

    def _trains(self, step: _Step, name: str) -> bool:
        return name not in self.log_only and self._factor(step, name) > 0

    def _pair(self, a: str, b: str) -> tuple[str, str]:
        """The key of a pair, in the objective's order."""
        return (a, b) if self.names.index(a) <= self.names.index(b) else (b, a)

    def _current(self) -> _Step:
        if self._step is None:
            raise RunError("Objective: call begin_step before logit_gradient and end_step.")
        return self._step

    def end_step(self, observe: bool = True, rebalance: bool = True) -> StepReport:
        """Reduce over ranks, read once, check, and let the share limit and the balance see the step.

        Call it before the optimizer's step, so that a step that is not finite changes no parameter.

        Args:
            observe: False leaves the share limit's running norms as they are.
            rebalance: False leaves the balance and with it the scales as they are.

        Raises:
            RunError: no step was begun, or a loss or gradient is not finite; the term is named.
        """
        step, self._step = self._current(), None
        report = self._report(step, *self._read(step))
        check_finite(report)
        if observe and self.share_limit is not None:
            self.share_limit.observe(report.grad_norm_primary, report.grad_norm_auxiliary)
        if rebalance and self.balance is not None:
            began = self.balance.observe(report.losses, report.counts)
            self.scales |= self.balance.scales
            report = replace(report, rebalanced=began)
        return report

    def _read(self, step: _Step) -> tuple[dict[str, float], dict[Any, float]]:
        """(counts, everything that was accumulated), with one reduction over ranks and one host read.

        Every rank packs the same keys in the same order, whatever terms its own micro-batches happened to
        touch.
        """
        pairs = [(a, a) for a in self.names] + list(combinations(self.names, 2)) if step.separate else []
        keys: list[Any] = [*self.names, *pairs, *GROUPS]
        found: dict[Any, Tensor] = {**step.sums, **step.dots, **step.group_squares}
        if not step.sums:
            raise RunError("Objective: end_step came without a logit_gradient: the step had no micro-batch.")
        zero = torch.zeros_like(next(iter(step.sums.values())))
        local = torch.stack([found.get(key, zero) for key in keys])
        counts = torch.stack([step.counts[name].to(local) for name in self.names])
        values = torch.cat([self._sum_over_ranks(local), counts]).tolist()
        totals = dict(zip(keys, values[: len(keys)], strict=True))
        return dict(zip(self.names, values[len(keys) :], strict=True)), totals

    def _report(self, step: _Step, counts: dict[str, float], totals: dict[Any, float]) -> StepReport:
        losses = {name: totals[name] / max(counts[name], 1.0) for name in self.names}
        weighted = {name: self._factor(step, name) * losses[name] for name in self.names}
        norms = {name: _root(totals[name, name]) for name in self.names} if step.separate else None
        cosines: dict[tuple[str, str], float | None] = {}
        if norms is not None:
            for a, b in combinations(self.names, 2):
                scale = norms[a] * norms[b]
                cosines[a, b] = max(-1.0, min(1.0, totals[a, b] / scale)) if scale > 0 else None
        return StepReport(
            counts=counts,
            losses=losses,
            scales=dict(self.scales),
            weights=dict(step.weights),
            weighted=weighted,
            loss_total=sum(value for name, value in weighted.items() if name not in self.log_only),
            grad_norms=norms,
            grad_cosines=cosines,
            grad_norm_primary=_root(totals["primary"]),
            grad_norm_auxiliary=_root(totals["auxiliary"]),
            auxiliary_clip=step.clip,
        )

    def state_dict(self) -> dict[str, Any]:
        """Scales, the share limit's running norms and the balance, JSON-able."""
        limit = None if self.share_limit is None else self.share_limit.state_dict()
        balance = None if self.balance is None else self.balance.state_dict()
        return {"scales": dict(self.scales), "share_limit": limit, "balance": balance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            RunError: the state belongs to an objective with other terms, or with or without a share limit or balance.
        """
        theirs = (sorted(state["scales"]), state["share_limit"] is not None, state.get("balance") is not None)
        mine = (sorted(self.names), self.share_limit is not None, self.balance is not None)
        if theirs != mine:
            raise RunError(
                f"(terms, share limit, balance) of the checkpoint's objective are {theirs}, this run's {mine}: resume "
                "with the run's own config."
            )
        self.scales = {name: float(state["scales"][name]) for name in self.names}
        if self.share_limit is not None:
            self.share_limit.load_state_dict(state["share_limit"])
        if self.balance is not None:
            self.balance.load_state_dict(state["balance"])


def _add(into: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    into[key] = into[key] + value if key in into else value


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _root(square: float) -> float:
    """Square root that lets NaN and infinity through, to be reported by name."""
    return math.sqrt(square) if square >= 0 else math.nan

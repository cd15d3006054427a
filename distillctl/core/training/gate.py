"""The gate before step 1: every active term provably trains the student, and nothing frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from distillctl.core.errors import NotFiniteError, RunError
from distillctl.core.losses.term import LossBatch, StudentOutputs, Term


def check_terms_reach_student(
    parameters: Iterable[nn.Parameter],
    logits: Tensor,
    make_outputs: Callable[[Tensor], StudentOutputs],
    terms: Sequence[Term],
    batch: LossBatch,
    frozen: Mapping[str, nn.Module],
    log_only: Collection[str] = (),
) -> dict[str, float]:
    """Refuse a run in which an active term is silent.

    Each term that is not ``log_only``, alone and unweighted, must give the student's parameters a finite,
    non-zero gradient; frozen modules must be unable to get one. The student's ``.grad`` stays as it is.

    Args:
        parameters: the student's trainable parameters.
        logits: student logits, [B,T,V] or [R,V], attached to the student's graph, which stays usable. Under
            data-parallel training take them from the unwrapped module.
        make_outputs: what the training loop makes from logits; called once per term, so that terms cannot
            lean on each other's graph.
        terms: all terms of the objective.
        batch: a real micro-batch, with everything that the terms need.
        frozen: modules by name ("teacher", "encoder").
        log_only: names of the terms that are exempt.

    Returns:
        Norm of each checked term's gradient at the student's parameters, of its mean over the batch.

    Raises:
        RunError: naming the term or the frozen module, and what to do.
    """
    student = [parameter for parameter in parameters if parameter.requires_grad]
    if not student:
        raise RunError("The student has no trainable parameter: unfreeze it.")
    _check_frozen(frozen)
    _check_batch(batch)
    norms: dict[str, float] = {}
    for term in terms:
        if term.name not in log_only:
            norms[term.name] = _term_norm(term, make_outputs(logits), batch, student)
    _check_frozen(frozen)
    return norms


def _term_norm(term: Term, outputs: StudentOutputs, batch: LossBatch, student: list[nn.Parameter]) -> float:
    value, count = term(outputs, batch)
    if count.item() <= 0:
        raise RunError(
            f"Loss term '{term.name}' had nothing to count in the first batch: a contrastive term needs two "
            "different golds in an optimizer step, a token term needs targets. Raise the batch size or set "
            "its weight to 0."
        )
    if not torch.isfinite(value).item():
        raise NotFiniteError(
            f"Loss term '{term.name}' is {value.item()} before step 1: look at the first batch and the models."
        )
    if not value.requires_grad:
        raise RunError(_silent(term.name))
    found = torch.autograd.grad(value / count, student, retain_graph=True, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    if not gradients:
        raise RunError(_silent(term.name))
    # In float32: Apple's GPUs have no wider numbers, and what float32 loses no optimizer would see.
    norm = math.hypot(*(gradient.float().norm().item() for gradient in gradients))
    if not math.isfinite(norm):
        raise NotFiniteError(
            f"Loss term '{term.name}' gives the student a gradient that is not finite before step 1: look at "
            "the first batch, its temperature and the models' precision."
        )
    if norm == 0:
        raise RunError(_silent(term.name))
    return norm


def _silent(name: str) -> str:
    return (
        f"Loss term '{name}' sends no gradient to the student, so training on it would do nothing: compute "
        "it from logits or hidden states, or set its log_only."
    )


def _check_frozen(frozen: Mapping[str, nn.Module]) -> None:
    for name, module in frozen.items():
        for parameter_name, parameter in module.named_parameters():
            if parameter.requires_grad or parameter.grad is not None:
                raise RunError(
                    f"The {name} should be frozen, but its parameter '{parameter_name}' takes gradient: call "
                    "requires_grad_(False) on it, and do not share it with the student."
                )


def _check_batch(batch: LossBatch) -> None:
    for item in fields(batch):
        tensor = getattr(batch, item.name)
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            raise RunError(f"`{item.name}` of the batch carries gradient: make it under torch.no_grad().")

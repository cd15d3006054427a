r"""One dense pass for all token terms: the student's logits, merged into the few atoms that the terms look at.

focal and jsd depend on a row of logits z [V] only through a few kept ids S (the gold one; those of a teacher's cache)
and through the log-sum-exp of all. So a row becomes the log-probabilities of k + 1 atoms at temperature tau,

    ln q_i = z_i / tau - lse(z / tau)  for i in S,        ln q_T = ln sum_{i not in S} q_i  for the tail T,

on which the terms are plain functions of [R,k + 1]. With g the gradient at them and G the sum of g, it goes back as

    dz_i = (g_i - q_i G) / tau  for i in S,        dz_i = q_i (g_T / q_T - G) / tau  for the others:

one softmax of z for both terms together. Where the two want the same atoms (jsd at temperature 1 over the whole
vocabulary), :meth:`~distillctl.core.losses.term.StudentOutputs.log_atoms` makes them once, and autograd adds the terms'
small gradients before the dense one is made. At another temperature there are two passes and two dense gradients.

Cost: forward reads the logits; backward reads them again and writes the gradient, the only dense tensor that is made.
Plain cross-entropy does no less: it writes a log-softmax, reads it again, and writes the gradient. Both go in blocks of
rows that stay in the processor's cache: of 512 x 32,100 on one CPU core forward took 13 ms in blocks of 2 MiB and 41 ms
all at once; backward took 40 ms, 29 of them the first touch of the gradient's memory (2026-11-24).

``torch.compile`` is off, by measurement: of the dense losses in eager PyTorch it makes 0.21 x their time (g++, one CPU
core), this function is 0.07 x; and it would compile anew for every number of target tokens. See
tests/benchmarks/objective_speed.py ``--compile``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = {"cpu": 2 * 2**20}
"""Of a block of rows: a core's cache on a CPU; elsewhere what a kernel should have to do at least."""
_OTHER_BLOCK_BYTES = 64 * 2**20


def row_blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of [N,V] that together are ``BLOCK_BYTES``, one row at least."""
    row_bytes = max(1, logits.shape[-1] * logits.element_size())
    rows = max(1, BLOCK_BYTES.get(logits.device.type, _OTHER_BLOCK_BYTES) // row_bytes)
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


class _LogAtoms(torch.autograd.Function):
    """The log-probabilities of each row's atoms; see the module."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float, width: int) -> Tensor:
        log_atoms = logits.new_empty(len(logits), ids.shape[-1] + 1)
        q_tail = logits.new_empty(len(logits), 1)
        for rows in row_blocks(logits):
            z, kept = logits[rows, :width], ids[rows]
            q = _softmax(z, temperature)
            # Relative to the largest id: q of a kept one may be too small for its logarithm.
            top, q_top = z.amax(dim=-1, keepdim=True), q.amax(dim=-1, keepdim=True)
            log_atoms[rows, :-1] = (z.gather(-1, kept) - top) / temperature + q_top.log()
            # Summed, not 1 - sum(q_S), which is rounding where the student is sure of itself.
            q_tail[rows] = q.scatter_(-1, kept, 0.0).sum(dim=-1, keepdim=True)
        # Never 0: with nothing left (k = V), or too little for the number format, T is an atom that no term notices.
        q_tail.clamp_(min=torch.finfo(q_tail.dtype).tiny)
        log_atoms[:, -1:] = q_tail.log()
        ctx.save_for_backward(logits, ids, log_atoms, q_tail)
        ctx.temperature, ctx.width = temperature, width
        return log_atoms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        logits, ids, log_atoms, q_tail = ctx.saved_tensors
        total = grad_output.sum(dim=-1, keepdim=True)
        at_kept = (grad_output[:, :-1] - log_atoms[:, :-1].exp() * total) / ctx.temperature
        per_q = (grad_output[:, -1:] / q_tail - total) / ctx.temperature
        gradient = torch.empty_like(logits)
        gradient[:, ctx.width :] = 0.0
        for rows in row_blocks(logits):
            out = gradient[rows, : ctx.width]
            torch.mul(_softmax(logits[rows, : ctx.width], ctx.temperature), per_q[rows], out=out)
            out.scatter_(-1, ids[rows], at_kept[rows])
        return gradient, None, None, None


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def log_atoms(logits: Tensor, ids: Tensor, temperature: float = 1.0, width: int | None = None) -> Tensor:
    r"""Log-probabilities of the ids, and last that of all other ids together, under softmax(logits / tau).

    Args:
        logits: [...,V] float.
        ids: [...,k] int64, distinct in each row.
        temperature: tau > 0.
        width: number of leading ids that take part, all by default; the others get no gradient.

    Returns:
        [...,k + 1], nats; the last one not below that of the smallest normal number. z = (ln 1, ln 2, ln 3),
        S = {1}, tau = 1: (ln 1/3, ln 2/3).
    """
    flat = logits.reshape(-1, logits.shape[-1])
    width = logits.shape[-1] if width is None else width
    result: Tensor = _LogAtoms.apply(flat, ids.reshape(-1, ids.shape[-1]), temperature, width)
    return result.reshape(*ids.shape[:-1], ids.shape[-1] + 1)

r"""One dense pass for all token terms: the student's logits, merged into the few columns that the terms read.

focal and jsd depend on a row of logits z [V] only through a few columns S (the gold id; the ids that a teacher's cache
keeps) and through the log-sum-exp of all others,

    r(z) = tau * ln sum_{i not in S} exp(z_i / tau).

So a row is merged into the k + 1 columns (z_S, r), on which the terms are plain functions:
softmax((z_S, r) / tau) has the student's probabilities q_i of the kept ids and, last, that of the tail,
q_T = sum_{i not in S} q_i; logsumexp((z_S, r) / tau) is that of z / tau. The gradient goes back the same way: with g
the gradient at the merged columns,

    dz_i = g_i   for i in S,        dz_i = g_r * dr/dz_i = g_r * q_i / q_T   otherwise,

one softmax of z for both terms together. Where the two want the same columns (jsd at temperature 1 over the whole
vocabulary), :meth:`~distillctl.core.losses.term.StudentOutputs.columns` makes them once, and autograd adds the terms'
small gradients before the dense one is made.

Cost: forward reads the logits once; backward reads them once and writes the gradient, the only dense tensor that is
made, so what plain cross-entropy does to memory (it writes a log-softmax more). Both go in blocks of rows that stay in
the processor's cache: of 512 x 32,100 on one CPU core in blocks of 2 MiB forward took 13 ms, all rows at once 41 ms
(2026-11-24). ``torch.compile`` is not used: see tests/benchmarks/objective_speed.py, which also measures that.
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


class _MergedColumns(torch.autograd.Function):
    """(z_S, r) of each row; see the module."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float, width: int) -> Tensor:
        tiny = torch.finfo(logits.dtype).tiny
        merged = logits.new_empty(len(logits), ids.shape[-1] + 1)
        q_tail = logits.new_empty(len(logits), 1)
        for rows in row_blocks(logits):
            z = logits[rows, :width]
            q = torch.softmax(z if temperature == 1 else z / temperature, dim=-1)
            # From the largest column: of the others q may be 0.
            log_sum_exp = z.amax(dim=-1, keepdim=True) / temperature - q.amax(dim=-1, keepdim=True).log()
            # Summed, not 1 - sum(q_S), which is rounding where the student is sure of itself. Never 0: with nothing
            # left (k = V), or too little for the number format, the tail is an atom that no term notices.
            tail = q.scatter_(-1, ids[rows], 0.0).sum(dim=-1, keepdim=True).clamp_(min=tiny)
            merged[rows, :-1] = z.gather(-1, ids[rows])
            merged[rows, -1:] = temperature * (log_sum_exp + tail.log())
            q_tail[rows] = tail
        ctx.save_for_backward(logits, ids, q_tail)
        ctx.temperature, ctx.width = temperature, width
        return merged

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        logits, ids, q_tail = ctx.saved_tensors
        per_q = grad_output[:, -1:] / q_tail
        gradient = torch.empty_like(logits)
        gradient[:, ctx.width :] = 0.0
        for rows in row_blocks(logits):
            z, out = logits[rows, : ctx.width], gradient[rows, : ctx.width]
            scaled = z if ctx.temperature == 1 else z / ctx.temperature
            torch.mul(torch.softmax(scaled, dim=-1), per_q[rows], out=out)
            out.scatter_(-1, ids[rows], grad_output[rows, :-1])
        return gradient, None, None, None


def merge_columns(logits: Tensor, ids: Tensor, temperature: float = 1.0, width: int | None = None) -> Tensor:
    r"""The columns ``ids`` of the logits, and as one more all the others: ``tau ln sum exp(z_i / tau)``.

    Args:
        logits: [...,V] float.
        ids: [...,k] int64, distinct in each row.
        temperature: tau > 0, at which the others are summed.
        width: number of leading ids that take part, all by default; the others get no gradient.

    Returns:
        [...,k + 1]. z = (ln 1, ln 2, ln 3), S = {1}, tau = 1: (ln 2, ln 4).
    """
    width = logits.shape[-1] if width is None else width
    flat = logits.reshape(-1, logits.shape[-1])
    result: Tensor = _MergedColumns.apply(flat, ids.reshape(-1, ids.shape[-1]), temperature, width)
    return result.reshape(*logits.shape[:-1], -1)

"""One row per target token: what of the teacher's distribution a cache keeps, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.core.losses.term import TeacherTop

LOWEST_HALF = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class Layout:
    """The fixed-width row of a cache of ``top_k`` of ``width`` ids at ``temperature``.

    k ids (uint16 where they fit, else uint32), their logits minus the token's largest (float16), the log-sum-exp of
    the logits over the temperature and the log-mass of the tail (float32 each): 264 bytes at k = 64.

    With k = V there is no tail and nothing to name: a row is all logits in id order, float32 - half precision moves
    the loss by more than 1e-5, and such a cache is made to equal a live teacher.
    """

    top_k: int
    width: int
    temperature: float

    @property
    def is_dense(self) -> bool:
        """True where every id is kept."""
        return self.top_k == self.width

    @property
    def dtype(self) -> np.dtype[np.void]:
        """A row, little-endian and packed."""
        if self.is_dense:
            return np.dtype([("logits", "<f4", (self.width,))])
        ids = "<u2" if self.width <= 2**16 else "<u4"
        return np.dtype(
            [
                ("ids", ids, (self.top_k,)),
                ("logits", "<f2", (self.top_k,)),
                ("log_sum_exp", "<f4"),
                ("tail", "<f4"),
            ]
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a target token."""
        return self.dtype.itemsize

    def pack(self, logits: Tensor, labels: Tensor) -> np.ndarray:
        """Rows of N tokens. [N,width] float32, [N] gold ids -> [N] of ``dtype``."""
        rows = np.zeros(len(labels), self.dtype)
        if self.is_dense:
            rows["logits"] = (logits - logits.amax(dim=-1, keepdim=True)).cpu().numpy()
            return rows
        top = self.top(logits, labels)
        rows["ids"] = top.ids.cpu().numpy()
        rows["logits"] = top.logits.cpu().numpy()  # exact: they are rounded to half precision already
        rows["log_sum_exp"] = top.log_sum_exp.cpu().numpy()
        rows["tail"] = top.tail.cpu().numpy()
        return rows

    def top(self, logits: Tensor, labels: Tensor) -> TeacherTop:
        """What a cache would give for some tokens: [N,width] float32, [N] gold ids -> a TeacherTop of shape [N].

        The gold id takes the k-th place where it is not among the first k. The log-sum-exp is of the rounded logits
        and the exact tail, so that the kept ids and the tail add up to 1.
        """
        z = logits - logits.amax(dim=-1, keepdim=True)
        values, ids = z.topk(self.top_k, dim=-1)
        gold = labels.unsqueeze(-1)
        last = torch.where((ids == gold).any(dim=-1, keepdim=True), ids[:, -1:], gold)
        ids = torch.cat([ids[:, :-1], last], dim=-1)
        values = z.gather(-1, ids).clamp(min=LOWEST_HALF).half().float()
        rest = torch.logsumexp(z.scatter(-1, ids, -torch.inf) / self.temperature, dim=-1)
        total = torch.logaddexp(torch.logsumexp(values / self.temperature, dim=-1), rest)
        return TeacherTop(ids, values, total, rest - total, self.temperature, self.width)

    def unpack(self, rows: np.ndarray, device: torch.device) -> TeacherTop:
        """Rows as a loss reads them: [...] of ``dtype`` -> a TeacherTop of that shape. Not for a dense layout."""
        return TeacherTop(
            torch.from_numpy(rows["ids"].astype(np.int32)).to(device).long(),
            torch.from_numpy(rows["logits"].copy()).to(device).float(),
            torch.from_numpy(rows["log_sum_exp"].astype(np.float32)).to(device),
            torch.from_numpy(rows["tail"].astype(np.float32)).to(device),
            self.temperature,
            self.width,
        )

    def unpack_dense(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """[...] of ``dtype`` -> logits [...,width] float32. For a dense layout only."""
        return torch.from_numpy(rows["logits"].astype(np.float32)).to(device)

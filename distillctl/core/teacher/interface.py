"""What the training loop asks of a teacher, wherever its outputs come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.losses.term import LossBatch


class Teacher(Protocol):
    """Says what the teacher makes of a micro-batch's gold targets."""

    @property
    def model(self) -> Any | None:
        """The frozen model that is run; None where its outputs are read."""

    @property
    def has_tail(self) -> bool:
        """Whether ids are left to a tail, of which ``teacher_tail_mass`` then is the teacher's probability."""

    def guide(
        self, batch: LossBatch, examples: Sequence[Example], input_ids: Tensor, attention_mask: Tensor
    ) -> LossBatch:
        """The batch with ``teacher_logits`` or ``teacher_top`` set, on the device of its labels.

        Args:
            batch: B examples; its labels [B,T] are those of ``examples``, padded.
            examples: the examples of the batch, in its order.
            input_ids, attention_mask: [B,S] int64, their padded inputs.
        """
        ...

"""A teacher that is run on every micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.losses.term import LossBatch, Places
from distillctl.core.models.head import head_at, run_head_in_float32
from distillctl.core.models.loading import freeze
from distillctl.core.models.vocabulary import special_ids


def shift_right(labels: Tensor, start_id: int, padding_id: int) -> Tensor:
    """Decoder inputs for teacher forcing: labels moved one place right behind the start id. [B,T] -> [B,T]"""
    shifted = torch.empty_like(labels)
    shifted[:, 0] = start_id
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted < 0, padding_id)


def forced_logits(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    places: Places,
    start_id: int,
    padding_id: int,
) -> Tensor:
    """A model's logits of the R target tokens, the gold targets being its decoder inputs.

    [B,S], [B,S], [B,T] -> [R,V] float32. Padding does not reach the LM head where the model is known to allow it.
    """
    with head_at(model, places.flat) as at_places:
        outputs = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=shift_right(labels, start_id, padding_id),
            use_cache=False,
        )
    logits: Tensor = outputs.logits
    return (logits.squeeze(0) if at_places else places.take(logits)).float()


class LiveTeacher:
    """Runs a frozen encoder-decoder model beside the student."""

    has_tail = False

    def __init__(self, model: Any) -> None:
        self.model = freeze(model)
        run_head_in_float32(model)
        self._start, self.padding_id = special_ids(model, "teacher")

    def guide(
        self, batch: LossBatch, examples: Sequence[Example], input_ids: Tensor, attention_mask: Tensor
    ) -> LossBatch:
        """The batch with the teacher's logits."""
        return replace(batch, teacher_logits=self.logits(input_ids, attention_mask, batch.labels, batch.places))

    @torch.no_grad()
    def logits(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, places: Places | None = None) -> Tensor:
        """Teacher-forced logits of the R target tokens. [B,S], [B,S], [B,T] -> [R,V] float32"""
        places = Places.of(labels) if places is None else places
        return forced_logits(self.model, input_ids, attention_mask, labels, places, self._start, self.padding_id)

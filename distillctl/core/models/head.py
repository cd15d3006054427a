"""The LM head of a model that is trained or captured: in float32, and at target tokens only.

The head is the largest product of a forward pass, and what it makes of padding is thrown away. Its forward is replaced
on the instance: so the weights keep their names, and the model is still called through whatever wraps it (data
parallelism, precision), with all that its own forward does to the decoder's states (T5 scales them before a tied head)
and to the logits (BART adds a bias).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn import functional

# Their forward does nothing to the logits but what works token by token (read in transformers 4.41 and 5.23, tested).
ROW_WISE_FAMILIES = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "plbart", "pegasus"})


class Float32Head:
    """Stands in for an LM head's ``forward``: computes in float32 whatever autocast says.

    bf16 logits cost up to 23 % gradient error in the Jensen-Shannon term; the head is one product of many.

    Args:
        head: a linear layer.

    Attributes:
        places: positions [R] in the flattened [B,T] that logits [1,R,V] are made of; None makes all, [B,T,V].
    """

    def __init__(self, head: nn.Linear) -> None:
        self.head = head
        self.places: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.places is not None:
            hidden = hidden.flatten(0, 1).index_select(0, self.places).unsqueeze(0)
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.head.bias is None else self.head.bias.float()
            return functional.linear(hidden.float(), self.head.weight.float(), bias)


def run_head_in_float32(model: Any) -> None:
    """Makes a model's LM head a :class:`Float32Head`, in place."""
    head = model.get_output_embeddings()
    head.forward = Float32Head(head)


@contextmanager
def float32_head(model: Any) -> Iterator[None]:
    """While open, a model's LM head is a :class:`Float32Head`, be it one already or not."""
    head = model.get_output_embeddings()
    if isinstance(head.forward, Float32Head) or not isinstance(head, nn.Linear):  # FSMT's is an embedding
        yield
        return
    run_head_in_float32(model)
    try:
        yield
    finally:
        del head.forward


@contextmanager
def head_at(model: Any, places: Tensor) -> Iterator[bool]:
    """While open, a model's head sees the given positions only. Says whether it does: other families take all.

    Args:
        model: as it is called, wrapped or not.
        places: [R] int64 positions in the flattened [B,T].
    """
    plain = extract_model_from_parallel(model)
    head = plain.get_output_embeddings().forward
    if not isinstance(head, Float32Head) or plain.config.model_type not in ROW_WISE_FAMILIES:
        yield False
        return
    head.places = places
    try:
        yield True
    finally:
        head.places = None

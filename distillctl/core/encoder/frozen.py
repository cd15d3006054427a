"""The frozen encoder that reads what the student predicts, and lets gradient through to the student's logits.

Shapes: B examples, T target positions, V student vocabulary (logit width), D encoder width.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from distillctl.core.errors import DataError


class _StraightThroughEmbedding(torch.autograd.Function):
    """Forward ``E[argmax z]``, backward that of ``softmax(z) @ E`` (Bengio et al. 2013, straight-through).

    Written out, the forward pass needs no [B*T,V] x [V,D] product at all, and only the logits are kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(logits, table)
        return table[logits.argmax(dim=-1)].to(logits.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        logits, table = ctx.saved_tensors
        q = torch.softmax(logits, dim=-1)
        gradient = grad_output.to(q.dtype) @ table.to(q.dtype).T
        # In place, and the mean as a product of matrices: of [B,T,V] there are two tensors here and not five.
        mean = (q.unsqueeze(-2) @ gradient.unsqueeze(-1)).squeeze(-1)
        return gradient.sub_(mean).mul_(q), None


def straight_through_embedding(logits: Tensor, table: Tensor) -> Tensor:
    """``table[argmax logits]`` whose gradient at the logits is that of ``softmax(logits) @ table``.

    Args:
        logits: [...,V] float.
        table: [V,D]; gets no gradient.

    Returns:
        [...,D] in the logits' dtype.
    """
    result: Tensor = _StraightThroughEmbedding.apply(logits, table.detach())
    return result


class FrozenEncoder(nn.Module):
    """An HF encoder (T5 encoder stack, RobertaModel ...) behind a table of the student's tokens.

    Predicted and gold tokens take the same path: table rows as ``inputs_embeds``, the states out. No special
    tokens are added: what the labels hold (their end token, say) is what the encoder reads. T5 does not scale
    embeddings at the encoder's input, and RoBERTa adds its positions to ``inputs_embeds`` itself, so the
    table holds plain rows of the encoder's input embedding.

    Always in eval mode, whatever ``train()`` is called on a parent; every parameter is frozen in place.

    Args:
        encoder: returns ``last_hidden_state`` for ``inputs_embeds`` and ``attention_mask``.
        table: [V,D'] from :meth:`distillctl.core.encoder.alignment.VocabularyMap.table`; D' is D but for encoders that
            widen their embeddings themselves (ALBERT, ELECTRA).
        own_tokenizer: the encoder's, where it is not the student's.
    """

    table: Tensor

    def __init__(self, encoder: nn.Module, table: Tensor, own_tokenizer: Any = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.own_tokenizer = own_tokenizer
        self.register_buffer("table", table.detach(), persistent=False)

    @property
    def width(self) -> int:
        """D, the width of a state."""
        return int(getattr(getattr(self.encoder, "config", None), "hidden_size", self.table.shape[-1]))

    @property
    def longest(self) -> int | None:
        """Most tokens that the encoder can read at once; None where nothing limits it (T5)."""
        return longest_input(self.encoder)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: dropout in the encoder would make gold states depend on the draw."""
        return super().train(False)

    def states_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encoder states of given input embeddings.

        Args:
            embeddings: [B,T,D] float; what stands at masked positions has no influence.
            mask: [B,T] bool, True at valid positions.

        Returns:
            [B,T,D] float32 (float64 for float64 input), 0 at masked positions. Differentiable in the
            embeddings.
        """
        hidden = ~mask.unsqueeze(-1)
        # An example without any valid token would give attention nothing to look at (NaN in some kernels):
        # let it look at its blanked positions, whose states are zeroed below.
        attention = (mask | ~mask.any(dim=1, keepdim=True)).long()
        output = self.encoder(inputs_embeds=embeddings.masked_fill(hidden, 0.0), attention_mask=attention)
        return _in_float32(output.last_hidden_state).masked_fill(hidden, 0.0)

    @torch.no_grad()
    def natural_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States of tokens of the encoder's own vocabulary, as it reads them without any table.

        Args:
            ids: [B,T] int64, of ``own_tokenizer``.
            mask: [B,T] bool, True at valid positions, one a row at least.

        Returns:
            [B,T,D] float32, 0 at masked positions.
        """
        output = self.encoder(input_ids=ids, attention_mask=mask.long())
        return _in_float32(output.last_hidden_state).masked_fill(~mask.unsqueeze(-1), 0.0)

    @torch.no_grad()
    def gold_states(self, labels: Tensor) -> Tensor:
        """States [B,T,D] float32 of gold tokens ([B,T] int64, negative at padding), without gradient.

        Raises:
            DataError: a label lies outside the table.
        """
        largest = int(labels.max()) if labels.numel() else -1
        if largest >= len(self.table):
            raise DataError(
                f"Label id {largest} lies outside the encoder's table of {len(self.table)} student tokens: "
                "align the encoder with the tokenizer that made the labels."
            )
        mask = labels >= 0
        return self.states_from_embeddings(self.table[torch.where(mask, labels, 0)], mask)

    def predicted_states(
        self, logits: Tensor, mask: Tensor, soft: bool = False, places: Tensor | None = None
    ) -> Tensor:
        """States of the predicted tokens, differentiable at the logits.

        Args:
            logits: [B,T,V] float, V the table's length; or, with ``places``, [R,V] of the valid positions alone.
            mask: [B,T] bool, True at valid positions.
            places: [R] int64, where the valid positions are in the flattened [B,T].
            soft: read ``softmax(logits) @ table`` instead of the straight-through ``table[argmax]``:
                differentiable in the usual sense, which straight-through is not by construction. For gradient
                checks.

        Returns:
            [B,T,D] float32, 0 at masked positions.

        Raises:
            DataError: logits and table differ in width.
        """
        if logits.shape[-1] != len(self.table):
            raise DataError(
                f"Student logits are {logits.shape[-1]} wide, the encoder's table has {len(self.table)} "
                "rows: build the table with rows = the student's logit width."
            )
        if soft:
            embeddings = torch.softmax(logits, dim=-1) @ self.table.to(logits.dtype)
        else:
            embeddings = straight_through_embedding(logits, self.table)
        if places is not None:
            blank = embeddings.new_zeros(mask.numel(), embeddings.shape[-1])
            embeddings = blank.index_copy(0, places, embeddings).unflatten(0, mask.shape)
        return self.states_from_embeddings(embeddings, mask)


def _in_float32(states: Tensor) -> Tensor:
    return states.float() if states.dtype in (torch.float16, torch.bfloat16) else states


def longest_input(encoder: nn.Module) -> int | None:
    """Most tokens that an encoder with learned positions can read at once; None of one without.

    RoBERTa counts positions from behind its padding id: 514 of them read 512 tokens.
    """
    for name, module in encoder.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", None)  # of BART
            first = offset if offset is not None else 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - int(first)
    return None


def teacher_encoder(teacher: Any) -> nn.Module:
    """The encoder stack of an HF encoder-decoder model (shared with it, not copied).

    Raises:
        DataError: the model has no encoder.
    """
    config = getattr(teacher, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        raise DataError(
            f"The teacher ({type(teacher).__name__}) is no encoder-decoder model, so its encoder cannot be "
            "used: name an encoder model as `encoder`."
        )
    encoder: nn.Module = teacher.get_encoder()
    return encoder

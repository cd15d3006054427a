"""A T5's starting weights with copying built in: heads that match tokens, instead of hours of waiting for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distillctl.core.errors import UsageError

# Relative-position buckets 0, 1, 2 of T5 are the offsets 0, -1, -2, in the encoder and in the decoder.
_BEFORE, _TWO_BEFORE = 1, 2
# Attention logit of the looked-for position over every other: e^10 against 200 positions leaves 1 % to them.
_SURE = 10.0
_NOISE = 0.1


@torch.no_grad()
def start_with_induction_heads(model: Any) -> None:
    """Rewrites a newly drawn T5 in place so that, before any training, it goes on with what stood in its input.

    An induction head (Olsson et al. 2022, "In-context Learning and Induction Heads") finds what came before in the
    text and predicts what followed there. It takes two layers that only make sense together, so plain training on
    short targets waits long for it. Starting weights that already have the structure of trained ones are mimetic
    initialisation (Trockman & Kolter 2023, "Mimetic Initialization of Self-Attention Layers"). Here:

    - The width is divided: the first half holds the token's own code, a quarter that of the token before, a quarter
      that of the one before it. Embeddings are drawn in the first half; the rest of them is nearly 0.
    - Heads 0 and 1 of the first layer of both stacks look one and two tokens back, by their relative-position bias,
      and write what they find into the quarters.
    - Heads 0 and 1 of the decoder's cross-attention look for the source position whose token before is the decoder's
      current one (first layer), whose two tokens before are the decoder's last two (last layer), and write the
      token at that position.
    - All other ways into the residual stream start at 0 and are learned (as in ReZero, Bachlechner et al. 2021).

    Raises UsageError for a model that is no T5, has fewer than two heads, or an untied head.
    """
    config = model.config
    if config.model_type != "t5" or not config.tie_word_embeddings or config.num_heads < 2:
        raise UsageError(
            "student.init=induction builds its heads into a T5 with tied embeddings and at least two attention heads; "
            f"found model_type {config.model_type}, {getattr(config, 'num_heads', '?')} heads. Use random"
        )
    width, head = int(config.d_model), int(config.d_kv)
    half, quarter = width // 2, width // 4
    for name, weight in model.named_parameters():
        if name.endswith((".o.weight", ".wo.weight")):
            weight.zero_()
    own, before, two_before = slice(0, half), slice(half, half + quarter), slice(half + quarter, half + 2 * quarter)
    tokens = model.get_input_embeddings().weight
    tokens[:, half:] *= _NOISE
    encoder = [block.layer[0].SelfAttention for block in model.encoder.block]
    decoder = [block.layer[0].SelfAttention for block in model.decoder.block]
    cross = [block.layer[1].EncDecAttention for block in model.decoder.block]
    code = nn.init.orthogonal_(torch.empty(half, half))
    short = code[: min(head, quarter)]  # the code of a token in a quarter

    for attention in (encoder[0], decoder[0]):
        bias = attention.relative_attention_bias.weight
        for index, (bucket, place) in enumerate(((_BEFORE, before), (_TWO_BEFORE, two_before))):
            bias[:, index] = 0.0
            bias[bucket, index] = _SURE
            _write(attention, index, head, own, short * 0.5**0.5, place, torch.eye(quarter)[:, : len(short)])

    # RMS-normed inputs have entries of size 1, so a token's short code has a squared norm of about len(short)
    whole = torch.eye(len(short))
    part = torch.eye(len(short))[: len(short) // 2]
    rest = torch.eye(len(short))[len(short) // 2 :]
    scale = (2 * _SURE / len(short)) ** 0.5
    # what is found must outweigh the current token, which is in the residual stream too
    alone = 1.0 if len(cross) > 1 else 3.0
    for index in (0, 1):
        values = code[index * head : (index + 1) * head]
        first = cross[0]
        _look(first, index, head, [(own, scale * short)], [(before, scale * whole)])
        _write(first, index, head, own, values, own, alone * values.T)
        if len(cross) > 1:
            last = cross[-1]
            looked = [(own, scale * part @ short), (before, scale * rest)]
            found = [(before, scale * part), (two_before, scale * rest)]
            _look(last, index, head, looked, found)
            _write(last, index, head, own, values, own, 2 * values.T)


def _look(
    attention: Any,
    index: int,
    head: int,
    query: list[tuple[slice, torch.Tensor]],
    key: list[tuple[slice, torch.Tensor]],
) -> None:
    """Sets a head's queries and keys: each part (rows, its columns) reads one range of the width."""
    for projection, parts in ((attention.q, query), (attention.k, key)):
        rows = projection.weight[index * head : (index + 1) * head]
        rows.zero_()
        start = 0
        for columns, matrix in parts:
            rows[start : start + len(matrix), columns][:, : matrix.shape[1]] = matrix
            start += len(matrix)


def _write(
    attention: Any, index: int, head: int, source: slice, values: torch.Tensor, place: slice, out: torch.Tensor
) -> None:
    """Sets what a head reads, ``values`` [rows, source], and where it writes it, ``out`` [place, rows]."""
    rows = attention.v.weight[index * head : (index + 1) * head]
    rows.zero_()
    rows[: len(values), source] = values
    columns = attention.o.weight[:, index * head : (index + 1) * head]
    columns[place, : out.shape[1]] = out

"""From a Hugging Face configuration to the shape that estimates are made of; no weights are read or made."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM

from distillctl.core.models.loading import quiet_transformers
from distillctl.core.planning.estimate import Shape, Stack

# What families call the same thing; the first that is there counts.
_LAYERS = {
    "encoder": ("encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_WIDTH = ("d_model", "hidden_size")
_HEADS = {
    "encoder": ("encoder_attention_heads", "num_heads", "num_attention_heads"),
    "decoder": ("decoder_attention_heads", "num_heads", "num_attention_heads"),
}
_FEED_FORWARD = {
    "encoder": ("encoder_ffn_dim", "d_ff", "intermediate_size"),
    "decoder": ("decoder_ffn_dim", "d_ff", "intermediate_size"),
}


def sequence_shape(config: Any) -> Shape | None:
    """The shape of an encoder-decoder model (T5, BART and what names its parts alike); None of any other."""
    stacks = [_stack(config, name) for name in ("encoder", "decoder")]
    encoder, decoder = stacks
    if encoder is None or decoder is None:
        return None
    with torch.device("meta"), quiet_transformers():
        model = AutoModelForSeq2SeqLM.from_config(config)
    return Shape(_parameters(model), int(model.get_output_embeddings().weight.shape[0]), encoder, decoder)


def encoder_shape(config: Any, trusted_revision: str | None = None) -> Shape | None:
    """The shape of the encoder that a configuration describes, of an encoder-decoder's its encoder; None if unknown.

    Code that the model brings is run of ``trusted_revision`` alone, as it is when the model is loaded.
    """
    stack = _stack(config, "encoder")
    if stack is None:
        return None
    with torch.device("meta"), quiet_transformers():
        code = {} if trusted_revision is None else {"trust_remote_code": True, "code_revision": trusted_revision}
        model = AutoModel.from_config(config, **code)
        model = model.get_encoder() if getattr(config, "is_encoder_decoder", False) else model
    return Shape(_parameters(model), 0, stack)


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _stack(config: Any, name: str) -> Stack | None:
    values = config.to_dict()
    width, heads = _first(values, _WIDTH), _first(values, _HEADS[name])
    feed_forward = _first(values, _FEED_FORWARD[name])
    layers = _first(values, _LAYERS[name])
    if width is None or heads is None or feed_forward is None or layers is None:
        return None
    head_width = values.get("d_kv") or width // heads
    gated = bool(getattr(config, "is_gated_act", False))
    return Stack(layers, width, heads, heads * head_width, feed_forward, 3 if gated else 2)


def _first(values: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := values.get(name), int)), None)

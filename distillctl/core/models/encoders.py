"""The frozen encoder by name: any model that gives a state per token, and sees both sides of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from distillctl.core.errors import DataError
from distillctl.core.models.loading import load_config, load_weights

_NAME_ANOTHER = "Name an encoder such as microsoft/codebert-base"
_PROBED = 4  # tokens


def load_encoder(name: str, trusted_revision: str | None = None) -> Any:
    """A frozen encoder by name, in float32: the encoder stack of an encoder-decoder, else the whole model.

    Of T5 the decoder is not even read. A pooler is left out: it is no part of the states of tokens, and where the
    weights lack it, it is random. A model that returns something else than states (CodeT5+ embedding: one projected
    vector) is read before that, at its encoder stack.

    Args:
        name: a directory or hub name.
        trusted_revision: the commit (hex) of a hub model whose own code may run.

    Raises:
        UsageError: the name leads nowhere.
        DataError: a damaged model, or one that cannot be read through: a decoder, one that takes no embeddings.
    """
    config = load_config(name, "encoder", trusted_revision)
    who = f"encoder {name!r}"
    if config.model_type in _DECODERS and not getattr(config, "is_encoder_decoder", False):
        raise DataError(
            f"{who} is a {config.model_type} model, a decoder: a token's state knows nothing of what "
            f"follows. {_NAME_ANOTHER}"
        )
    own_class = config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    model = load_weights(AutoModelForTextEncoding if own_class else AutoModel, name, "encoder", trusted_revision)
    stack = getattr(model, "get_encoder", lambda: model)()
    if _gives_states(stack):  # RoBERTa's reads what its embeddings have made, and is no model by itself
        model = stack
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None
    check_encoder(model, who)
    return model


_DECODERS = (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    - MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.keys()
)


def input_embeddings(model: Any) -> Tensor:
    """[V',D] what the model reads for each of its tokens: its embedding's weight, scaled where the model scales it."""
    embedding = model.get_input_embeddings()
    weight: Tensor = embedding.weight
    if type(embedding) is nn.Embedding:
        scale = float(getattr(model, "embed_scale", 1.0))  # Pegasus and Marian scale behind it, and token ids alone
        return weight if scale == 1.0 else weight.detach() * scale
    with torch.no_grad():
        scaled: Tensor = embedding(torch.arange(len(weight), device=weight.device))
    return scaled


def check_encoder(model: Any, who: str) -> None:
    """Refuses (DataError) what the losses cannot read through: see :func:`load_encoder`. Reads a few tokens twice."""
    if not _gives_states(model):
        raise DataError(
            f"{who}: {type(model).__name__} gives no state per token for input embeddings (inputs_embeds), through "
            f"which the gradient has to go. {_NAME_ANOTHER}"
        )
    embeddings = input_embeddings(model)
    first = torch.arange(_PROBED, device=embeddings.device).clamp(max=len(embeddings) - 1)
    last = torch.tensor([0, 0, 0, 1], device=first.device) * (len(embeddings) - 1 - first)
    with torch.no_grad():
        before, after = _states(model, embeddings[first]), _states(model, embeddings[first + last])
    if torch.equal(before[:, :-1], after[:, :-1]):
        raise DataError(
            f"{who}: {type(model).__name__} reads as a decoder does: a token's state knows nothing of what follows. "
            f"{_NAME_ANOTHER}"
        )


@torch.no_grad()
def _gives_states(model: Any) -> bool:
    """Does it take input embeddings, and give a state for each of them?"""
    takes_embeddings = "inputs_embeds" in inspect.signature(model.forward).parameters
    if not takes_embeddings or not hasattr(model, "get_input_embeddings"):
        return False
    states = _states(model, input_embeddings(model)[:1])
    width = getattr(model.config, "hidden_size", None)
    return isinstance(states, Tensor) and states.shape[:2] == (1, 1) and width in (None, states.shape[-1])


def _states(model: Any, embeddings: Tensor) -> Any:
    """What it gives as states of tokens; None where it gives something else. [T,D] -> [1,T,D]"""
    batch = embeddings.detach().unsqueeze(0)
    mask = torch.ones(batch.shape[:2], dtype=torch.long, device=batch.device)
    output = model(inputs_embeds=batch, attention_mask=mask)
    return getattr(output, "last_hidden_state", None)

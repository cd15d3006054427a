"""Loads models and tokenizers by name, with one clear error where that cannot be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from distillctl.core.errors import DataError, UsageError

EMBEDDED = "embedded"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
)
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def embedded_teacher_path() -> Path:
    """Directory of the teacher that ships with the package."""
    return Path(str(resources.files("distillctl") / "assets" / "teacher"))


def model_path(name: str) -> str:
    """The directory or hub name that a configured model name stands for."""
    return str(embedded_teacher_path()) if name == EMBEDDED else name


def _not_loadable(name: str, role: str, error: Exception) -> UsageError:
    reason = str(error).strip().split("\n")[0][:200]
    return UsageError(
        f"{role} {name!r} can be loaded neither from a local directory nor from the hub ({reason}). "
        f"Give a directory made by save_pretrained, a reachable hub name, or {EMBEDDED!r}"
    )


def _check_local(path: str, name: str, role: str, needs_weights: bool) -> None:
    """What from_pretrained would explain badly: a directory without a model, or with pickled weights only."""
    directory = Path(path)
    if not directory.exists():
        looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
        if looks_local:
            raise UsageError(f"{role} {name!r}: no such directory")
        return
    if not directory.is_dir():
        raise UsageError(f"{role} {name!r}: should be a directory made by save_pretrained. Found a file")
    if not (directory / "config.json").is_file():
        raise UsageError(f"{role} {name!r}: the directory holds no config.json, so it is no model directory")
    if needs_weights and not any((directory / file).is_file() for file in WEIGHT_FILES):
        if any((directory / file).is_file() for file in _PICKLED_WEIGHTS):
            raise UsageError(
                f"{role} {name!r}: holds pickled weights only, which can run code when loaded. "
                "Convert it with save_pretrained(..., safe_serialization=True)"
            )
        raise UsageError(f"{role} {name!r}: the directory holds no model.safetensors")


def load_tokenizer(name: str, role: str = "tokenizer") -> Any:
    """The fast tokenizer of a model name. Raises UsageError when there is none to be had."""
    path = model_path(name)
    _check_local(path, name, role, needs_weights=False)
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, ImportError) as error:
        raise _not_loadable(name, role, error) from error


def load_config(name: str, role: str) -> Any:
    """The Hugging Face configuration of a model name."""
    path = model_path(name)
    _check_local(path, name, role, needs_weights=False)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise _not_loadable(name, role, error) from error


def load_seq2seq(name: str, role: str) -> Any:
    """An encoder-decoder model in float32, by name. Only safetensors weights are read.

    Raises UsageError for a name that leads nowhere, DataError for a model that is no encoder-decoder.
    """
    config = load_config(name, role)
    if not getattr(config, "is_encoder_decoder", False):
        raise DataError(
            f"{role} {name!r} is a {config.model_type} model, not an encoder-decoder. "
            "distillctl distils encoder-decoder models such as CodeT5+ 220M and 770M"
        )
    return _load(AutoModelForSeq2SeqLM, name, role)


def load_encoder(name: str) -> Any:
    """A frozen encoder by name (e.g. CodeBERT): the encoder stack of the model, in float32."""
    config = load_config(name, "encoder")
    model = _load(AutoModel, name, "encoder")
    return model.get_encoder() if getattr(config, "is_encoder_decoder", False) else model


def _load(factory: Any, name: str, role: str) -> Any:
    path = model_path(name)
    _check_local(path, name, role, needs_weights=True)
    try:
        with quiet_transformers():
            # float() and not a dtype argument: its name differs between the supported versions of transformers
            return factory.from_pretrained(path, use_safetensors=True).float()
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise _not_loadable(name, role, error) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its bars and notes (unused pooler weights, shards): distillctl has its own, fewer ones."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def run_head_in_float32(model: Any) -> None:
    """Makes a model's LM head compute in float32 whatever autocast says.

    bf16 logits cost up to 23 % gradient error in the Jensen-Shannon term; the head is one product of many.
    """
    head = model.get_output_embeddings()

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            bias = head.bias.float() if getattr(head, "bias", None) is not None else None
            return functional.linear(hidden.float(), head.weight.float(), bias)

    # On the instance: the module stays in place, and so do the names of its weights when the model is saved.
    head.forward = forward


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients: what a teacher and an encoder are in."""
    model.requires_grad_(False)
    return model.eval()


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Writes a model and its tokenizer as Hugging Face directories are: safetensors and JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(directory, safe_serialization=True)
        tokenizer.save_pretrained(directory)


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over a model's parameters by name: what run.json calls the teacher."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (hex) over a tokenizer's tokens and ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()

"""Loads models and tokenizers by name, with one clear error where that cannot be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import huggingface_hub.errors
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.models.hub import NETWORK_ERRORS, check_hub_name
from distillctl.core.models.portable import make_tokenizer_portable
from distillctl.core.models.special_tokens import spelled_out

EMBEDDED = "embedded"
MOST_LAYERS, WIDEST = 1_000, 2**24
"""A config.json that asks for more is damaged or hostile, and building it would eat all memory first."""
_SIZE = re.compile(r"layers$|heads$|size$|^d_")
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
)
_WEIGHT_FILE = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")
_UNSAFE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_NOT_THE_MODEL = (
    *("_name_or_path", "_commit_hash", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache"),
    *("dropout_rate", "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
)
"""Of a config: where it lies, what wrote it, and what changes nothing that the model says."""

_NOT_SAFE = re.compile(r"cannot be loaded with `safetensors`|safetensors conversion")
"""What transformers says of a hub model without safetensors; a download that broke off may name the file, too."""
_CONVERT = (
    "pytorch_model.bin, which can run code when loaded. Convert it once, outside distillctl, with "
    "from_pretrained(NAME).save_pretrained(DIRECTORY, safe_serialization=True): the README's section CodeT5+ says how"
)
# One of these says what the tokenizer is; without any, transformers makes up an empty one of the model's family.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
# What from_pretrained raises. The last one, for a config.json with a value of a wrong type, is new.
_LOADING_ERRORS: tuple[type[Exception], ...] = (
    *NETWORK_ERRORS,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    getattr(huggingface_hub.errors, "StrictDataclassError", ValueError),
)


def embedded_teacher_path() -> Path:
    """Directory of the teacher that ships with the package."""
    return Path(str(resources.files("distillctl") / "assets" / "teacher"))


def model_path(name: str) -> str:
    """The directory or hub name that a configured model name stands for."""
    return str(embedded_teacher_path()) if name == EMBEDDED else name


def looks_local(name: str) -> bool:
    """Can a model name only be a path, and no hub name?"""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _not_loadable(name: str, role: str, error: Exception) -> UsageError | DataError:
    # Whatever else went wrong while its weights were fetched, transformers wraps in one message about their names.
    told = error.__cause__ if str(error).startswith("Can't load the model") and error.__cause__ else error
    reason = " ".join(str(told).split())[:200] or type(told).__name__
    if "ignore_mismatched_sizes" in reason:
        reason = "the weights have other shapes than config.json says"
    if "trust_remote_code" in reason:
        reason = "it would execute code of its own, which is off"
        if not Path(model_path(name)).is_dir():
            return UsageError(
                f"{role} {name!r}: {reason}. If you trust it, allow the code of one commit of it: --trust-remote-code "
                "ROLE=COMMIT (teacher, encoder or student; 40 hex digits), or --set ROLE.trusted_revision=COMMIT"
            )
    if _NOT_SAFE.search(str(error)) and not Path(model_path(name)).is_dir():
        return UsageError(f"{role} {name!r}: the hub has no safetensors of it at hand, only {_CONVERT}")
    if Path(model_path(name)).is_dir():
        return DataError(f"{role} {name!r}: a file in this directory is damaged or does not fit the others: {reason}")
    return UsageError(
        f"{role} {name!r}: no such directory, and the hub does not give it ({reason}). "
        f"Give a directory made by save_pretrained, a hub name, or {EMBEDDED!r}"
    )


def _check_name(
    name: str, role: str, needs_weights: bool = False, needs_tokenizer: bool = False, revision: str | None = None
) -> None:
    """What from_pretrained would explain badly or late: see the messages."""
    path = model_path(name)
    directory = Path(path)
    try:
        there, is_directory = directory.exists(), directory.is_dir()
    except OSError as error:  # a name longer than the file system takes
        raise UsageError(f"{role} {name[:80]!r}: cannot be a directory: {error.strerror}") from error
    if not there:
        if looks_local(path):
            raise UsageError(f"{role} {name!r}: no such directory")
        check_hub_name(name, role, revision)
        return
    if revision is not None:
        raise UsageError(
            f"{role} {name!r}: a directory has no commit, so none of its code can be trusted by one: leave out "
            "trusted_revision (--trust-remote-code), or name a hub model"
        )
    if not is_directory:
        raise UsageError(f"{role} {name!r}: should be a directory made by save_pretrained. Found a file")
    if not (directory / "config.json").is_file():
        raise UsageError(f"{role} {name!r}: the directory holds no config.json, so it is no model directory")
    if needs_tokenizer and not any((directory / file).is_file() for file in _TOKENIZER_FILES):
        raise UsageError(
            f"{role} {name!r}: the directory holds no tokenizer (tokenizer.json). "
            "Save the model's own one there with tokenizer.save_pretrained"
        )
    if needs_weights and not any((directory / file).is_file() for file in WEIGHT_FILES):
        if any((directory / file).is_file() for file in _UNSAFE_WEIGHTS):
            raise UsageError(f"{role} {name!r}: holds no safetensors but {_CONVERT}")
        raise UsageError(f"{role} {name!r}: the directory holds no model.safetensors")
    if needs_weights:
        _check_weight_index(directory, f"{role} {name!r}")


def _check_weight_index(directory: Path, who: str) -> None:
    """An index of weight files may name files of its own directory only, and safetensors only."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        strange = [file for file in files if not _WEIGHT_FILE.fullmatch(file)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{who}: {index.name} is damaged: {' '.join(str(error).split())[:100]}") from error
    if strange:
        raise DataError(f"{who}: {index.name} names {strange[0]!r}, which is no safetensors file of this directory")


def _check_tokenizer_file(name: str, role: str) -> None:
    """A damaged tokenizer.json makes some versions of tokenizers raise a bare Exception, which nobody can catch."""
    file = Path(model_path(name)) / "tokenizer.json"
    if not file.is_file():
        return
    try:
        whole = "model" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{role} {name!r}: tokenizer.json is damaged: {error}") from error
    if not whole:
        raise DataError(f"{role} {name!r}: tokenizer.json is damaged: it holds no model")


class _BareErrors:
    """The tokenizers library raises Exception itself for a damaged file: exactly that, nothing below it, is data."""

    def __init__(self, who: str) -> None:
        self._who = who

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self._who}: a tokenizer file is damaged: {reason}") from error


def _trust(revision: str | None) -> dict[str, Any]:
    """Code that comes with a model never runs, unless exactly this commit of it was allowed."""
    if revision is None:
        return {"trust_remote_code": False}
    return {"trust_remote_code": True, "revision": revision, "code_revision": revision}


def load_tokenizer(name: str, role: str = "tokenizer", trusted_revision: str | None = None) -> Any:
    """The fast tokenizer of a model name. Raises UsageError when there is none to be had."""
    _check_name(name, role, needs_tokenizer=True, revision=trusted_revision)
    _check_tokenizer_file(name, role)
    try:
        with quiet_transformers(), _BareErrors(f"{role} {name!r}"):
            path = model_path(name)
            tokens = spelled_out(path, trusted_revision)
            return AutoTokenizer.from_pretrained(path, **_trust(trusted_revision), **tokens)
    except _LOADING_ERRORS as error:
        raise _not_loadable(name, role, error) from error


def load_config(name: str, role: str, trusted_revision: str | None = None) -> Any:
    """The Hugging Face configuration of a model name. Raises DataError for a shape that no model has."""
    _check_name(name, role, revision=trusted_revision)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(model_path(name), **_trust(trusted_revision))
        for field, value in config.to_dict().items():
            limit = MOST_LAYERS if field.endswith("layers") else WIDEST
            if isinstance(value, int) and value > limit and _SIZE.search(field):
                raise DataError(f"{role} {name!r}: config.json says {field} {value:,}: no model is that large")
    except _LOADING_ERRORS as error:
        raise _not_loadable(name, role, error) from error
    return config


def load_seq2seq(name: str, role: str, trusted_revision: str | None = None) -> Any:
    """An encoder-decoder model in float32, by name. Only safetensors weights are read.

    ``trusted_revision`` (a commit, hex) lets the code that a hub model brings along run, of that commit alone.

    Raises UsageError for a name that leads nowhere, DataError for a damaged model or one that is no encoder-decoder.
    """
    config = load_config(name, role, trusted_revision)
    if not getattr(config, "is_encoder_decoder", False):
        raise DataError(
            f"{role} {name!r} is a {config.model_type} model, not an encoder-decoder. "
            "distillctl distils encoder-decoder models such as CodeT5+ 220M and 770M"
        )
    encoder_layers, decoder_layers = (config.to_dict().get(count) for count in ("num_layers", "num_decoder_layers"))
    if deeper_than_cache(config, encoder_layers, decoder_layers):
        raise DataError(
            f"{role} {name!r}: a {config.model_type} decoder of {decoder_layers} layers behind an encoder of "
            f"{encoder_layers} cannot generate in transformers"
        )
    return load_weights(AutoModelForSeq2SeqLM, name, role, trusted_revision)


def deeper_than_cache(config: Any, encoder_layers: int | None, decoder_layers: int | None) -> bool:
    """Whether it is a T5 with more layers to decode than to encode.

    transformers 5 makes the cache of its decoder as deep as the encoder: such a model could not write.
    """
    return "num_decoder_layers" in config.to_dict() and (decoder_layers or 0) > (encoder_layers or 0)


def load_weights(factory: Any, name: str, role: str, trusted_revision: str | None) -> Any:
    """A model in float32 by one of transformers' Auto classes: from safetensors, and none of its tensors missing."""
    _check_name(name, role, needs_weights=True, revision=trusted_revision)
    try:
        with quiet_transformers():
            model, found = factory.from_pretrained(
                model_path(name), use_safetensors=True, output_loading_info=True, **_trust(trusted_revision)
            )
    except _LOADING_ERRORS as error:
        raise _not_loadable(name, role, error) from error
    # transformers fills what is missing with random weights. A pooler is no part of an encoder's states.
    missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)
    if missing:
        raise DataError(
            f"{role} {name!r}: the weights lack {len(missing)} of the tensors that config.json asks for "
            f"({missing[0]}, ...): they belong to another configuration, or the file is incomplete"
        )
    # float() and not a dtype argument: its name differs between the supported versions of transformers
    return model.float()


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


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients: what a teacher and an encoder are in."""
    model.requires_grad_(False)
    return model.eval()


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Writes a model and its tokenizer as Hugging Face directories are: safetensors and JSON.

    Raises RunError where they cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            # In one file, which checkpoints are read from: transformers 4 would cut it after 5 GB.
            model.save_pretrained(directory, safe_serialization=True, max_shard_size=2**50)
            tokenizer.save_pretrained(directory)
        make_tokenizer_portable(directory)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{directory}: the model cannot be written: {error}. Free some space there") from error


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over a model's parameters by name: what run.json calls the teacher."""
    return tensors_fingerprint(model.state_dict())


def settings_fingerprint(model: Any) -> str:
    """SHA-256 (hex) over a model's config and generation config, but for where it lies and what wrote it."""
    values = [settings.to_dict() for settings in (model.config, model.generation_config)]
    kept = [{name: value for name, value in each.items() if name not in _NOT_THE_MODEL} for each in values]
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def tensors_fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over tensors by name: their shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (hex) over a tokenizer's tokens and ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()

"""CodeT5+ 770M, 220M and CodeBERT as directories, in the file layout of the hub's repositories, with random weights.

What the hub has (read in November 2026): ``Salesforce/codet5p-770m`` and ``-220m`` hold T5 weights in float16, their
tied embeddings once, and the files of a RoBERTa tokenizer without a tokenizer.json; ``microsoft/codebert-base`` holds a
RobertaModel in float32 with a pooler that nothing needs. Their main branches have ``pytorch_model.bin`` only; the
safetensors lie in the pull requests of the hub's conversion bot.

The real vocabularies are not at hand here: byte-level BPEs of the same sizes, special tokens at the same ids, are
trained on other texts. Weights are drawn as the architectures draw them.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import RobertaConfig, RobertaModel, T5Config, T5ForConditionalGeneration

from distillctl.core.data.records import Record
from distillctl.core.data.source_files import read_source
from distillctl.core.profiling.codet5p import ENCODER, FAMILY, STUDENT, TEACHER, VOCABULARY
from tests.tiny import tiny_records

TEACHER_NAME, STUDENT_NAME = "Salesforce/codet5p-770m", "Salesforce/codet5p-220m"
ENCODER_NAME = "microsoft/codebert-base"
T5_FILES = {
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
}
ENCODER_FILES = T5_FILES - {"added_tokens.json"}
FIRST = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
"""The last ids of CodeT5+: 32,000 is <extra_id_99>, 32,099 is <extra_id_0>."""
ENCODER_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
ENCODER_LAST = ("<|endoftext|>", "madeupword0000", "madeupword0001", "madeupword0002", "<mask>")
BYTES = 256
MERGES = VOCABULARY - len(FIRST) - BYTES - len(SENTINELS)
ENCODER_MERGES = ENCODER["vocab_size"] - len(ENCODER_FIRST) - BYTES - len(ENCODER_LAST)
TIED = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True)
class Checkpoints:
    """The three directories, named below one folder as they are on the hub."""

    folder: Path

    @property
    def teacher(self) -> Path:
        return self.folder / TEACHER_NAME

    @property
    def student(self) -> Path:
        return self.folder / STUDENT_NAME

    @property
    def encoder(self) -> Path:
        return self.folder / ENCODER_NAME

    @property
    def flags(self) -> tuple[str, ...]:
        """Of ``distillctl train``."""
        named = (("--student", self.student), ("--teacher", self.teacher), ("--encoder", self.encoder))
        return tuple(str(part) for pair in named for part in pair)


@dataclass(frozen=True)
class Bpe:
    """A byte-level BPE: its tokens in the order in which they get ids, and its merges."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]

    @classmethod
    def trained(cls, texts: Iterable[str], merges: int) -> Bpe:
        """The same for the same texts. Raises ValueError where they are too few for so many merges."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=BYTES + merges, special_tokens=[], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        found = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
        if len(found) < merges:
            raise ValueError(f"the texts give {len(found):,} merges, and {merges:,} are wanted: give more texts")
        return cls(tuple(sorted(model["vocab"], key=model["vocab"].__getitem__)), found)


def long_records() -> list[Record]:
    """The tiny corpus with tests of more than 512 tokens and assertions of more than 128."""
    return [_long(record, number) for number, record in enumerate(tiny_records())]


def _long(record: Record, number: int) -> Record:
    name, mask = f"value_{number}", "    <extra_id_0>"
    setup = "".join(f"    {name}_{i} = compute_{i}({name}, {i * number})\n" for i in range(80))
    items = ", ".join(f"{name}_{i}" for i in range(40))
    return replace(
        record,
        focal_method=record.focal_method + setup,
        test_method_masked=record.test_method_masked.replace(mask, setup + mask),
        assertions=(f"assert [{items}] == {list(range(number, number + 40))}",),
    )


def library_sources() -> Iterator[str]:
    """The source files of Python's standard library, always in the same order."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts)
    return (text for text in map(read_source, files) if text)


def full_size_vocabularies() -> tuple[Bpe, Bpe]:
    """Of CodeT5+'s and CodeBERT's sizes, both from :func:`library_sources`: quicker than two of their own."""
    whole = Bpe.trained(library_sources(), ENCODER_MERGES)
    return Bpe(whole.tokens[: BYTES + MERGES], whole.merges[:MERGES]), whole


def write_checkpoints(
    folder: Path,
    bpe: Bpe,
    encoder_bpe: Bpe,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> Checkpoints:
    """Writes the three directories below ``folder``.

    Args:
        folder: gets ``Salesforce/codet5p-770m`` and so on; what lies there already is overwritten.
        bpe, encoder_bpe: of CodeT5+ and of CodeBERT; :data:`MERGES` and :data:`ENCODER_MERGES` make the real sizes.
        layers: of every stack, at full width; None is what the models have.
        dtype: of the T5 weights.
        seed: of all weights.
    """
    made = Checkpoints(folder)
    for name, shape in ((TEACHER_NAME, TEACHER), (STUDENT_NAME, STUDENT)):
        torch.manual_seed(seed)
        tokens = (*FIRST, *bpe.tokens, *SENTINELS)
        config = t5_config(name, shape if layers is None else {**shape, "num_layers": layers}, len(tokens), dtype)
        _write_t5(folder / name, tokens, bpe.merges, config, dtype)
    torch.manual_seed(seed)
    _write_encoder(made.encoder, encoder_bpe, {} if layers is None else {"num_hidden_layers": layers})
    return made


def t5_config(name: str, shape: dict[str, Any], size: int, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """What config.json of a CodeT5+ says, for a vocabulary of ``size``."""
    return {
        "_name_or_path": name,
        **FAMILY,
        **shape,
        "vocab_size": size,
        "num_decoder_layers": shape["num_layers"],
        "architectures": ["T5ForConditionalGeneration"],
        "dense_act_fn": "relu",
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": False,
        "layer_norm_epsilon": 1e-6,
        "model_type": "t5",
        "n_positions": 512,
        "output_past": True,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": "4.21.3",
        "use_cache": True,
    }


def _write_t5(
    folder: Path, tokens: tuple[str, ...], merges: tuple[str, ...], config: dict[str, Any], dtype: torch.dtype
) -> None:
    _write_vocabulary(folder, tokens, merges)
    _write_json(folder / "added_tokens.json", {})
    roles = {role: _added(token, lstrip=token == "<mask>") for role, token in _ROLES.items()}
    sentinels = [_added(token, lstrip=True) for token in SENTINELS]
    _write_json(folder / "special_tokens_map.json", roles | {"additional_special_tokens": sentinels})
    typed = {role: {**token, "__type": "AddedToken"} for role, token in roles.items()}
    rest = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "errors": "replace"}
    _write_json(folder / "tokenizer_config.json", typed | rest | {"model_max_length": 512})
    (folder / "config.json").write_text(config_text(config), encoding="utf-8")
    model = T5ForConditionalGeneration(T5Config(**config))
    _write_weights(folder, model, dtype, without=TIED)


def encoder_config(changes: dict[str, Any], size: int) -> dict[str, Any]:
    """What CodeBERT's config.json says, for a vocabulary of ``size``."""
    return {
        **ENCODER,
        **changes,
        "vocab_size": size,
        "architectures": ["RobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "model_type": "roberta",
        "output_past": True,
    }


def config_text(config: dict[str, Any]) -> str:
    """A config.json as transformers wrote it then."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _write_encoder(folder: Path, bpe: Bpe, changes: dict[str, Any]) -> None:
    tokens = (*ENCODER_FIRST, *bpe.tokens, *ENCODER_LAST)
    config = encoder_config(changes, len(tokens))
    _write_vocabulary(folder, tokens, bpe.merges)
    _write_json(folder / "special_tokens_map.json", _ROLES)
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 512})
    (folder / "config.json").write_text(config_text(config), encoding="utf-8")
    _write_weights(folder, RobertaModel(RobertaConfig(**config)), torch.float32, without=set())


def _write_vocabulary(folder: Path, tokens: tuple[str, ...], merges: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges)) + "\n", encoding="utf-8")


def _added(token: str, lstrip: bool) -> dict[str, Any]:
    return {"content": token, "single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": True}


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def _write_weights(folder: Path, model: nn.Module, dtype: torch.dtype, without: set[str]) -> None:
    weights = model.to(dtype).state_dict()
    kept = {name: tensor.contiguous() for name, tensor in weights.items() if name not in without}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})

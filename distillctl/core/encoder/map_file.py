"""The vocabulary map on disk: made once for a pair of tokenizers, read by every later run.

What is kept is the map and not the table E that is made of it. The map depends on the two tokenizers alone, so one
file of 400 KB serves every encoder and every checkpoint with that tokenizer, where E is 99 MB at 32,100 x 768 and of
one weight matrix. To make E of the map is one indexed mean, 0.18 s where reading and hashing that file is 0.12 s. For
32,100 and 50,265 tokens the map is made in 1.2 s and opened in 0.14 s, most of which is the fingerprint of the
tokenizers (``python tests/benchmarks/vocabulary_map.py``, one core, processor time on a busy machine, 2026-11-25).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distillctl.core.data.corpus import cache_directory
from distillctl.core.encoder.alignment import VocabularyMap, align_vocabularies, same_vocabulary
from distillctl.core.encoder.spelling import rules_of
from distillctl.core.errors import DataError, RunError
from distillctl.core.progress import Reporter
from distillctl.core.store.files import to_json, write_atomically, writing
from distillctl.core.store.identity import name_of

ALGORITHM = 2
"""Part of the name: raise it when :func:`align_vocabularies` may give another map for the same tokenizers."""
_TENSORS = ("counts", "matches", "pieces")
_ABOUT = "about"


@dataclass(frozen=True)
class MapIdentity:
    """All that decides what a map is.

    Attributes:
        student, encoder: SHA-256 (hex) of each tokenizer's tokens, ids, merges, normalisation and special roles.
        algorithm: version of how they are aligned.
    """

    student: str
    encoder: str
    algorithm: int = ALGORITHM


def open_map(student_tokenizer: Any, encoder_tokenizer: Any, reporter: Reporter) -> VocabularyMap:
    """The map of two tokenizers, from the user's cache where it is there and whole.

    A damaged file is told and made anew: that takes a second, and whatever depends on the map names its table.
    Processes that do this at the same time write the same bytes, each under a name of its own, and none waits. The same
    vocabulary needs no file, and slow tokenizers, which do not tell their rules, have none.

    Args:
        student_tokenizer, encoder_tokenizer: HF tokenizers.
        reporter: hears of the work, and of a file that is damaged or cannot be written.

    Raises:
        DataError: the file is there and cannot be read.
    """
    tokenizers = (student_tokenizer, encoder_tokenizer)
    if same_vocabulary(*tokenizers) or not all(tokenizer.is_fast for tokenizer in tokenizers):
        return align_vocabularies(*tokenizers)
    identity = MapIdentity(_fingerprint(student_tokenizer), _fingerprint(encoder_tokenizer))
    path = cache_directory() / "alignments" / f"{name_of(asdict(identity))}.safetensors"
    found = _read(path, identity, reporter)
    if found is None:
        with reporter.task("aligning the vocabularies"):
            found = align_vocabularies(*tokenizers)
        _write(path, identity, found, reporter)
    return found


def _fingerprint(tokenizer: Any) -> str:
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(f"{json.dumps(roles, sort_keys=True)}\n{rules_of(tokenizer)}".encode()).hexdigest()


def _write(path: Path, identity: MapIdentity, found: VocabularyMap, reporter: Reporter) -> None:
    tensors = {name: getattr(found, name) for name in _TENSORS}
    about = asdict(identity) | {"encoder_ids": found.encoder_ids, "sha256": _sha256(tensors, found.encoder_ids)}
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        # In one text: safetensors writes several in any order, and the same map should be the same bytes.
        write_atomically(path, save(tensors, {_ABOUT: to_json(about, indent=None)}))
    except RunError as error:  # this run has its map
        reporter.note(f"{error}. Without it the next run aligns the vocabularies again")


def _read(path: Path, identity: MapIdentity, reporter: Reporter) -> VocabularyMap | None:
    """The map; None where there is no file, or a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        encoder_ids = about["encoder_ids"]
        if about["sha256"] != _sha256(tensors, encoder_ids):
            raise ValueError("not the bytes that were written")
        if about != about | asdict(identity):
            raise ValueError("a map of other tokenizers")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}. Delete it, and it is made anew") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reporter.note(f"{path}: damaged ({' '.join(str(error).split())[:100]}): the vocabularies are aligned anew")
        return None
    return VocabularyMap(tensors["pieces"], tensors["counts"], tensors["matches"], encoder_ids)


def _sha256(tensors: Mapping[str, Tensor], encoder_ids: int) -> str:
    digest = hashlib.sha256(str(encoder_ids).encode())
    for name in _TENSORS:
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()

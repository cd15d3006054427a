"""Special tokens as CodeT5's and CodeT5+'s files spell them, for every supported version of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import AddedToken

FILE = "special_tokens_map.json"
_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized")


def spelled_out(path: str, revision: str | None = None) -> dict[str, Any]:
    """Keyword arguments for ``AutoTokenizer.from_pretrained``: additional special tokens that are objects in the file.

    transformers 5 takes such a list for texts and fails, or forgets it, and then a mask is cut into pieces.

    Args:
        path: a directory or hub name.
        revision: commit of the hub name; None is its main branch.

    Raises ValueError, TypeError, AttributeError or OSError for a file that is damaged or cannot be had.
    """
    file = _find(path, revision)
    if file is None:
        return {}
    listed = json.loads(file.read_text(encoding="utf-8")).get("additional_special_tokens") or []
    if not any(isinstance(token, dict) for token in listed):
        return {}
    return {"additional_special_tokens": [_token(token) for token in listed]}


def _find(path: str, revision: str | None) -> Path | None:
    if Path(path).is_dir():
        file = Path(path) / FILE
        return file if file.is_file() else None
    # What is in the cache is not asked for: where the hub is out of reach, that takes half a minute of retries.
    cached = huggingface_hub.try_to_load_from_cache(path, FILE, revision=revision)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None  # else the cache knows that there is none
    try:
        return Path(huggingface_hub.hf_hub_download(path, FILE, revision=revision))
    except EntryNotFoundError:  # also where the hub is out of reach, and the cache has other files of the model alone
        return None


def _token(token: str | dict[str, Any]) -> AddedToken:
    fields = {"content": token} if isinstance(token, str) else {key: token[key] for key in _FIELDS if key in token}
    return AddedToken(**fields, special=True)

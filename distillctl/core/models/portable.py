"""Tokenizer files as every supported version of transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path

NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def make_tokenizer_portable(directory: Path) -> None:
    """Rewrites a saved fast tokenizer so that transformers 4.41 to 5 load it alike.

    transformers 5 names a class that 4 does not know, and a list that 4.47 and later take for a mapping; the
    tokenizers library since 0.20 writes merges as pairs, which 0.19 (of transformers 4.41) refuses. The older
    spelling of each means the same to all of them.
    """
    config_file, tokenizer_file = directory / "tokenizer_config.json", directory / "tokenizer.json"
    if not config_file.is_file() or not tokenizer_file.is_file():
        return
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in (NEW_CLASS, OLD_CLASS):
        config["tokenizer_class"] = OLD_CLASS
        # Else the old class also makes token_type_ids, which encoder-decoder models refuse in generate().
        config.setdefault("model_input_names", ["input_ids", "attention_mask"])
    # Of what version 5 adds, paths and flags of the moment of loading do not belong into a file.
    for name in ("backend", "is_local", "local_files_only"):
        config.pop(name, None)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _join_merges(tokenizer_file)


def _join_merges(file: Path) -> None:
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    merges = tokenizer["model"].get("merges")
    # A token that holds a space could not be told from two: then only the new spelling is right.
    if not merges or any(isinstance(pair, str) or " " in pair[0] or " " in pair[1] for pair in merges):
        return
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
    file.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False), encoding="utf-8")

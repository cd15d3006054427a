"""A saved tokenizer is written as transformers 4 and 5 both read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import (
    AutoTokenizer,
)

from distillctl.core.models.loading import (
    embedded_teacher_path,
    load_tokenizer,
    save_model,
)
from distillctl.core.models.portable import make_tokenizer_portable
from tests.tiny import Tiny, tiny_teacher
from tests.tokenizers import metaspace_words


def test_a_saved_tokenizer_is_written_for_old_and_new_readers(tiny: Tiny, tmp_path: Path) -> None:
    save_model(tiny_teacher(tiny.tokenizer), tiny.tokenizer, tmp_path / "model")
    config = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    # A list under this name is taken for a mapping by transformers 4.47 and later 4.x.
    assert "extra_special_tokens" not in config
    assert config["additional_special_tokens"] == [f"<extra_id_{i}>" for i in range(8)]
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    merges = json.loads((tmp_path / "model/tokenizer.json").read_text())["model"]["merges"]
    assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "def test_push():\n    x = 12 <extra_id_0>\t</s> é"
    assert again(text).input_ids == tiny.tokenizer(text).input_ids
    assert again.decode(again(text).input_ids) == text
    assert again.all_special_tokens == tiny.tokenizer.all_special_tokens
    assert set(again(text)) == {"input_ids", "attention_mask"}


def test_a_tokenizer_that_is_saved_twice_stays_the_same(tiny: Tiny, tmp_path: Path) -> None:
    save_model(tiny_teacher(tiny.tokenizer), load_tokenizer(str(tiny.teacher)), tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "again" / name).read_text()) == json.loads((tiny.teacher / name).read_text())


def test_tokenizers_of_other_kinds_keep_their_class(tmp_path: Path) -> None:
    make_tokenizer_portable(tmp_path)
    metaspace_words(["a", "b"]).save_pretrained(tmp_path)  # words have no merges
    before = (tmp_path / "tokenizer.json").read_bytes()
    make_tokenizer_portable(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "RobertaTokenizer", "backend": "tokenizers", "extra_special_tokens": ["x"]}')
    make_tokenizer_portable(tmp_path)
    assert json.loads(config.read_text()) == {
        "tokenizer_class": "RobertaTokenizer",
        "additional_special_tokens": ["x"],
    }


def test_merges_whose_tokens_hold_a_space_stay_pairs(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.teacher, tmp_path / "model")
    file = tmp_path / "model/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = [["a", " b"], ["c", "d"]]
    file.write_text(json.dumps(content))
    make_tokenizer_portable(tmp_path / "model")
    assert json.loads(file.read_text())["model"]["merges"] == [["a", " b"], ["c", "d"]]


def test_the_tokenizer_of_the_package_is_readable_by_all_supported_versions() -> None:
    config = json.loads((embedded_teacher_path() / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(config.get("extra_special_tokens"), list)

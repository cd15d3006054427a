"""Additional special tokens that a file spells out as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from distillctl.core.models.special_tokens import FILE, spelled_out

OBJECT = {"content": "<extra_id_1>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": True}


def folder(path: Path, tokens: Any) -> str:
    (path / FILE).write_text(json.dumps({"eos_token": "</s>", "additional_special_tokens": tokens}))
    return str(path)


@pytest.mark.parametrize("tokens", [[], None, ["<extra_id_0>"]])
def test_what_transformers_reads_itself_is_left_to_it(tmp_path: Path, tokens: Any) -> None:
    assert spelled_out(folder(tmp_path, tokens)) == {}
    (tmp_path / FILE).unlink()
    assert spelled_out(str(tmp_path)) == {}


def test_objects_become_tokens_with_all_they_say(tmp_path: Path) -> None:
    found = spelled_out(folder(tmp_path, [{**OBJECT, "__type": "AddedToken"}, "<extra_id_0>"]))
    first, second = found["additional_special_tokens"]
    assert (first.content, first.lstrip, first.rstrip, first.normalized, first.special) == (
        "<extra_id_1>",
        True,
        False,
        True,
        True,
    )
    assert (second.content, second.lstrip, second.special) == ("<extra_id_0>", False, True)


def test_a_hub_models_file_is_asked_for_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, [OBJECT])
    asked: list[Any] = []

    def download(name: str, file: str, revision: str | None) -> str:
        asked.append((name, file, revision))
        return f"{place}/{file}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(spelled_out("some/model", "abc")["additional_special_tokens"]) == 1
    assert asked == [("some/model", FILE, "abc")]


@pytest.mark.parametrize("kind", [EntryNotFoundError, LocalEntryNotFoundError])
def test_a_hub_model_without_the_file_has_none(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str, revision: str | None) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert spelled_out("some/model") == {}


@pytest.mark.parametrize("there", [True, False])
def test_what_the_cache_knows_is_not_asked_for(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / FILE
    file.write_text(json.dumps({"additional_special_tokens": [{"content": "<m>", "lstrip": True}]}))
    known = str(file) if there else object()  # of a file that the hub does not have, the cache keeps that
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *call, **more: known)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *call, **more: pytest.fail("asked"))
    found = spelled_out("somebody/model").get("additional_special_tokens", [])
    assert [token.content for token in found] == (["<m>"] if there else [])

"""A hub name is looked up in the cache and asked for once: an unreachable hub is told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import T5Config

from distillctl.core.errors import UsageError
from distillctl.core.models.hub import check_hub_name
from distillctl.core.models.loading import (
    load_config,
    load_seq2seq,
    load_tokenizer,
)


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("unreachable_hub")
@pytest.mark.parametrize("load", [load_seq2seq, load_config, load_tokenizer])
def test_an_unreachable_hub_is_told_at_once(load: Callable[[str, str], Any]) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"student 'nobody/nothing': there is no such directory, it is not in the"):
        load("nobody/nothing", "student")
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("unreachable_hub")
def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", lambda *call, **more: pytest.fail("asked"))
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        check_hub_name("nobody/nothing", "teacher")


@pytest.mark.usefixtures("unreachable_hub")
def test_what_the_hub_could_not_have_is_told_as_such() -> None:
    with pytest.raises(UsageError, match="no hub name looks like this"):
        check_hub_name("not a name", "teacher")


@pytest.mark.usefixtures("unreachable_hub")
def test_a_cached_model_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, **more: f"/cache/{name}/{file}")
    check_hub_name("nobody/nothing", "teacher")


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.usefixtures("unreachable_hub")
@pytest.mark.parametrize("commit", [None, COMMIT])
def test_a_models_own_code_runs_only_of_the_commit_that_was_allowed(
    commit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def look(name: str, file: str, **more: Any) -> str:
        asked.append(more)
        return f"/cache/{name}/{file}"

    def load(name: str, **options: Any) -> Any:
        asked.append(options)
        raise OSError("enough")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    monkeypatch.setattr("distillctl.core.models.loading.spelled_out", lambda path, revision: {"asked_of": revision})
    for owner in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"distillctl.core.models.loading.{owner}.from_pretrained", load)
    for loader in (load_config, load_tokenizer):
        with pytest.raises(UsageError, match="the hub does not give it"):
            loader("somebody/model", "teacher", commit)
    trust = {"trust_remote_code": False} if commit is None else {"trust_remote_code": True, "revision": COMMIT}
    code = {} if commit is None else {"code_revision": COMMIT}
    look_first, special_tokens = {"revision": commit}, {"asked_of": commit}
    assert asked == [look_first, trust | code, look_first, trust | code | special_tokens]


def test_a_directory_has_no_commit_to_trust(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a directory has no commit"):
        load_seq2seq(str(tmp_path), "teacher", COMMIT)


@pytest.mark.parametrize(
    ("why", "cause", "says"),
    [
        (
            "a/b does not appear to have a file named model.safetensors and thus cannot be loaded with `safetensors`.",
            None,
            "the hub has no safetensors of it at hand, only pytorch_model.bin",
        ),
        (
            "Can't load the model for 'a/b'. ... a directory containing a file named model.safetensors.",
            ConnectionError("connection reset"),
            r"the hub does not give it \(connection reset\)",
        ),
        ("503 Server Error for https://hub/model.safetensors", None, r"the hub does not give it \(503 Server Error"),
    ],
)
def test_weights_that_did_not_arrive_are_not_taken_for_pickled_ones(
    why: str, cause: Exception | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **options: Any) -> Any:
        raise OSError(why) from cause

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, **more: "/cache")
    monkeypatch.setattr("distillctl.core.models.loading.load_config", lambda *named: T5Config())
    monkeypatch.setattr("distillctl.core.models.loading.AutoModelForSeq2SeqLM.from_pretrained", fail)
    with pytest.raises(UsageError, match=says):
        load_seq2seq("a/b", "teacher")


@pytest.mark.usefixtures("unreachable_hub")
def test_code_that_was_not_allowed_says_how_to_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **options: Any) -> Any:
        raise ValueError("Loading it requires you to execute code; set the option `trust_remote_code=True`")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, **more: "/cache")
    monkeypatch.setattr("distillctl.core.models.loading.AutoConfig.from_pretrained", refuse)
    with pytest.raises(UsageError, match=r"code of its own, which is off.*--trust-remote-code ROLE=COMMIT"):
        load_config("somebody/model", "encoder")

"""Where the models of a run are, and what would have to be downloaded; the hub is played."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from distillctl.core.config import load_config
from distillctl.core.errors import UsageError
from distillctl.core.planning import sources
from distillctl.core.planning.sources import Source, find_sources
from tests.tiny import Tiny

HUB = ["student.model=some/student", "teacher.model=some/teacher"]


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is cached, and nobody may be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def places(*settings: str) -> dict[str, str]:
    return {role: source.place for role, source in find_sources(load_config(settings=settings)).items()}


def test_the_package_and_directories_are_here(tiny: Tiny) -> None:
    assert places() == {"teacher": "package"}
    teacher = str(tiny.teacher)
    assert places(f"teacher.model={teacher}", f"encoder.model={teacher}") == {
        "teacher": "directory",
        "encoder": "directory",
    }
    assert places(f"student.init={teacher}") == {"teacher": "package", "student": "directory"}
    found = find_sources(load_config(settings=[f"student.model={teacher}"]))["student"]
    assert found.is_here and found.to_fetch == 0 and found.config.d_model == 16


def test_an_encoder_that_no_term_reads_is_not_looked_for() -> None:
    off = ["objective.semantic.weight=0", "objective.contrastive.weight=0", "encoder.model=some/encoder"]
    assert "encoder" not in places(*off)
    assert places("encoder.model=some/encoder")["encoder"] == "out of reach"


def test_a_name_that_leads_nowhere_is_refused() -> None:
    for setting in ("teacher.model=./nowhere", "encoder.model=/no/such/place"):
        with pytest.raises(UsageError, match="no such directory"):
            find_sources(load_config(settings=[setting]))
    with pytest.raises(UsageError, match="no hub name looks like this"):
        find_sources(load_config(settings=["teacher.model=not a name"]))


def test_out_of_reach_the_published_shapes_are_known_and_others_are_not() -> None:
    found = find_sources(load_config(["codet5p"]))
    assert [source.place for source in found.values()] == ["out of reach"] * 3
    assert found["student"].config.d_model == 768 and found["teacher"].config.d_model == 1024
    assert found["encoder"].config.hidden_size == 768
    assert sum(source.to_fetch or 0 for source in found.values()) == pytest.approx(2.42e9, rel=0.01)
    assert {source.note for source in found.values()} == {"HF_HUB_OFFLINE is set"}
    unknown = find_sources(load_config(settings=HUB))["student"]
    assert (unknown.config, unknown.to_fetch, unknown.is_here) == (None, None, False)


def snapshot(hub: Path, name: str, tiny: Tiny, *files: str) -> Path:
    """A model in the hub's local cache."""
    repo = hub / f"models--{name.replace('/', '--')}"
    commit = "a" * 40
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    for file in files:
        shutil.copy(tiny.teacher / file, folder / file)
    return folder


def test_weights_in_the_hub_cache_are_here_and_a_configuration_alone_is_not(
    tiny: Tiny, empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "load_config", lambda name, *rest: SimpleNamespace(loaded=name))
    snapshot(empty_hub_cache, "some/student", tiny, "config.json", "model.safetensors")
    only = snapshot(empty_hub_cache, "some/teacher", tiny, "config.json")
    found = find_sources(load_config(settings=HUB))
    assert found["student"].place == "hub cache" and found["student"].is_here
    assert found["teacher"].place == "out of reach"
    assert found["teacher"].config.loaded == str(only)


@pytest.mark.parametrize("init", ["random", "induction", "teacher-layers"])
def test_of_a_student_that_lends_its_shape_no_weights_are_wanted(
    init: str, tiny: Tiny, empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["student.model=some/student", f"student.init={init}"]
    snapshot(empty_hub_cache, "some/student", tiny, "config.json")
    student = find_sources(load_config(settings=settings))["student"]
    assert (student.place, student.to_fetch, student.config.d_model) == ("hub cache", 0, 16)
    online(monkeypatch, {"model.safetensors": 90})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(empty_hub_cache / "another"))
    student = find_sources(load_config(settings=settings))["student"]
    assert (student.is_here, student.to_fetch, student.config.loaded) == (True, 0, "some/student")


def online(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int] | Exception) -> None:
    """A hub that answers, with files of these sizes."""

    def model_info(self: HfApi, name: str, **more: Any) -> Any:
        if isinstance(sizes, Exception):
            raise sizes
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()])

    monkeypatch.setattr(sources, "hub_obstacle", lambda: None)
    monkeypatch.setattr(sources, "load_config", lambda name, *rest: SimpleNamespace(loaded=name))
    monkeypatch.setattr(HfApi, "model_info", model_info)


def student_of(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int] | Exception) -> Source:
    online(monkeypatch, sizes)
    return find_sources(load_config(settings=HUB))["student"]


def test_the_hub_is_asked_for_sizes_and_weights_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = student_of(monkeypatch, {"config.json": 9, "a-1.safetensors": 40, "a-2.safetensors": 50, "x.bin": 7})
    assert (found.place, found.to_fetch, found.note) == ("hub", 90, "")
    assert found.config.loaded == "some/student"


def test_pickled_weights_alone_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = student_of(monkeypatch, {"pytorch_model.bin": 50, "rust_model.ot": 60})
    assert found.to_fetch == 50
    assert "no safetensors" in found.note
    assert student_of(monkeypatch, {"config.json": 3}).to_fetch is None


class Broken(HfHubHTTPError.__bases__[0]):  # type: ignore[misc,name-defined]
    """What the hub's client raises when a connection breaks; no OSError where the client is built on httpx."""


@pytest.mark.parametrize("error", [OSError("timed\n out"), Broken("timed\n out")])
def test_a_hub_that_does_not_say_a_size_ends_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found = student_of(monkeypatch, error)
    assert (found.place, found.to_fetch) == ("hub", None)
    assert found.note == "the hub does not say its size: timed out"

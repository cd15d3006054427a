"""Fixtures that whole test packages share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.analysis import drawing
from distillctl.core.run_dir import directory
from distillctl.core.training.loop import Trainer
from distillctl.core.training.stepper import Stepper
from tests.runs import EPOCHS, Make, StopAt, run_config
from tests.tiny import Tiny, make_tiny, make_trainer


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What was imported and collected stays: no garbage collection need look through it, as every training asks for."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that no process is left with it at the end while the others have nothing to do."""
    items.sort(key=lambda item: not item.nodeid.endswith("test_static_check[types]"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither find nor leave anything in the user's cache; the checkout and the libraries are asked once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("git_state", "library_versions"):
            patch.setattr(directory, name, cache(getattr(directory, name)))
        yield


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """Plots of few pixels, where what a test is about is not on them: drawing them is most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DPI", 40)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A corpus, a tokenizer and a teacher, made once; tests never write to them."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def uninterrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of six steps, in one go; tests never write to it."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run_config(tiny.config(path, *EPOCHS))
    return path


@pytest.fixture
def make(tiny: Tiny, tmp_path: Path) -> Make:
    """Makes a trainer in a run directory of that name."""

    def trainer(name: str, *settings: str, score_dev: Callable[[Any], float] | None = None) -> Trainer:
        return make_trainer(tiny.config(tmp_path / name, *settings), score_dev)

    return trainer


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> StopAt:
    """Does something once, right after a step (counted from 1) is done and before it is logged."""

    def plant(at: int, act: Callable[[], None]) -> None:
        original = Stepper.take
        done: list[int] = []

        def step(self: Stepper, number: int) -> dict[str, float | int | None]:
            row = original(self, number)
            if number + 1 == at and not done:
                done.append(at)
                act()
            return row

        monkeypatch.setattr(Stepper, "take", step)

    return plant

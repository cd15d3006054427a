"""Fixtures that whole test packages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.training.loop import Trainer
from distillctl.core.training.stepper import Stepper
from tests.runs import EPOCHS, Make, StopAt, run_config
from tests.tiny import Tiny, make_tiny, make_trainer


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither find nor leave anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
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

"""A plan of models that are here: checked as a training would, and nothing captured or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BartConfig, T5Config

from distillctl.core.errors import UsageError
from distillctl.core.planning import forecast
from distillctl.core.planning import plan as planning
from distillctl.core.planning.plan import plan
from distillctl.core.planning.sources import Source
from distillctl.core.planning.throughput import Throughput
from tests.runs import Notes
from tests.tiny import Tiny

CACHED = ("teacher.mode=cached", "teacher.top_k=32")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "measure_throughput", lambda *args: Throughput(1e9, 1e-9, "a stopwatch"))


def cells(found: planning.Plan, title: str) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in found.tables[title].rows}


def test_a_plan_has_its_tables_and_nothing_to_remark(tiny: Tiny, tmp_path: Path) -> None:
    found = plan(tiny.config(tmp_path / "run", *CACHED), Notes())
    assert list(found.tables) == ["Tokens", "Models", "Memory of one process", "Time"]
    assert found.notes == []
    assert cells(found, "Models")["student"][:2] == ["from the teacher (teacher-layers)", "directory"]
    assert cells(found, "Models")["encoder"][0] == "the teacher's own"
    assert cells(found, "Time")["teacher cache"][0] == "48 examples"
    assert found.facts["examples of a step"] == "8 (8 at once x 1)"
    assert found.facts["weights"] == "focal 0.05, jsd 1 -> 0.7, semantic 0.05 -> 0.35, contrastive 0.1 -> 0.2"
    assert list(tmp_path.iterdir()) == []


def test_a_large_teacher_is_not_run_for_a_plan(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "LONG_WORK", 1.0)
    monkeypatch.setattr(
        "distillctl.core.teacher.opening.FidelityProbe", lambda *args: pytest.fail("the teacher was run")
    )
    found = plan(tiny.config(tmp_path / "run", *CACHED), Notes())
    assert str(found.facts["teacher cache"]).startswith("not looked at")
    assert cells(found, "Time")["teacher cache"][0] == "48 examples"


def test_what_is_to_be_downloaded_is_not_loaded(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reachable hub the tokenizer is fetched, and the weights are not."""
    local = planning.find_sources

    def in_the_hub(config: Any) -> dict[str, Source]:
        found = local(config)
        return {role: Source(role, s.name, "hub", s.config, 7_000_000, "a remark") for role, s in found.items()}

    monkeypatch.setattr(planning, "find_sources", in_the_hub)
    monkeypatch.setattr(planning, "load_models", lambda config: pytest.fail("weights were loaded"))
    found = plan(tiny.config(tmp_path / "run", *CACHED), Notes())
    assert cells(found, "Models")["teacher"][-1] == "0.01 GB"
    assert found.notes == [f"teacher {str(tiny.teacher)!r}: a remark"]
    assert f"the tokenizer of {tiny.teacher}" in found.tables["Tokens"].caption
    assert cells(found, "Time")["embedding bank"][0].endswith(" golds")
    assert "teacher cache" not in found.facts


def test_a_device_that_is_not_there_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device=cuda:77"):
        plan(tiny.config(tmp_path / "run", "device=cuda:77"), Notes())


def test_too_much_for_this_machine_is_said_with_what_would_fit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(tmp_path / "run")
    monkeypatch.setattr(planning, "process_bytes", lambda device: 0)
    caption = plan(config, Notes()).tables["Memory of one process"].caption
    assert "it fits" in caption and "A GPU of 8 GB has room for it" in caption
    monkeypatch.setattr(forecast, "device_bytes", lambda device: 1_200_000)
    caption = plan(config, Notes()).tables["Memory of one process"].caption
    assert "it does not fit; per_device_train_batch_size=" in caption
    monkeypatch.setattr(forecast, "device_bytes", lambda device: 3 * 2**30)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun says it
    assert "1.5 GiB here (cpu): it fits" in plan(config, Notes()).tables["Memory of one process"].caption


@pytest.mark.parametrize(
    ("student", "chosen", "drops"),
    [
        (T5Config(), None, True),
        (T5Config(dropout_rate=0.0), None, False),
        (BartConfig(), None, True),
        (BartConfig(dropout=0.0, attention_dropout=0.1), None, True),
        (BartConfig(dropout=0.0), None, False),
        (BartConfig(), 0.0, False),
        (BartConfig(dropout=0.0), 0.2, True),
        (None, None, False),
    ],
)
def test_what_a_model_drops_is_known_of_every_family(student: object, chosen: float | None, drops: bool) -> None:
    assert forecast.has_dropout(student, chosen) == drops

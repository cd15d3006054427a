"""Golds first and remembered, every system on the same samples, each text once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.data.records import Record
from distillctl.core.errors import DataError
from distillctl.core.execution import execute as execution
from distillctl.core.execution.execute import execute
from distillctl.core.execution.gold_cache import GoldCache
from distillctl.core.execution.outcomes import EMPTY, ERROR, FAILED, NOT_PLACED, PASSED, Verdict, is_stored_execution
from distillctl.core.execution.placing import Place, package_files
from distillctl.core.execution.sandbox import Isolation
from distillctl.core.execution.session import Limits, Session
from tests.core.execution.shelf import install_shelf, skip_without_sandbox

LIMITS = Limits(30.0, Isolation(sandboxed=True))
RIGHT, HOLLOW, WRONG = "assert shelf.count() == 3", "assert size == size", "assert size == 4"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Record]]:
    with pytest.MonkeyPatch.context() as patch:
        yield install_shelf(tmp_path_factory.mktemp("installed") / "site", patch)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test remembers its own golds."""
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts of every run that is asked for."""
    texts: list[str] = []
    original = Session.run

    def run(session: Session, place: Place, text: str, **options: Any) -> Verdict:
        texts.append(text)
        return original(session, place, text, **options)

    monkeypatch.setattr(Session, "run", run)
    return texts


def test_all_systems_run_on_the_samples_whose_gold_passes(records: dict[str, Record], asked: list[str]) -> None:
    skip_without_sandbox()
    names = ["test_fixture@0", "test_wrong@0", "test_skipped@0"]
    chosen = [*(records[name] for name in names), replace(records["test_fixture@1"], project="elsewhere")]
    systems = {
        "student": [WRONG, "assert broken", "", ""],
        "teacher": [RIGHT, RIGHT, "", ""],
        "copy": [f"{RIGHT}\n", RIGHT, "", ""],
        "hollow": [HOLLOW, RIGHT, "", ""],
        "none": ["  \n", RIGHT, "", ""],
        "broken": ['assert """', RIGHT, "", ""],
        "gold": ["assert size == 3", RIGHT, "", ""],
    }
    found = execute(chosen, systems, LIMITS, most=9, workers=1)
    ids = [record.id for record in chosen]
    assert [found.golds[name].outcome for name in ids] == [PASSED, FAILED, "skipped", NOT_PLACED]
    verdicts = found.systems[ids[0]]
    assert list(found.systems) == ids[:1]
    assert {name: (one.outcome, one.can_fail) for name, one in verdicts.items()} == {
        "student": (FAILED, False),
        "teacher": (PASSED, True),
        "copy": (PASSED, True),
        "hollow": (PASSED, False),
        "none": (EMPTY, False),
        "broken": (ERROR, False),
        "gold": (PASSED, True),
    }
    assert sorted(asked) == sorted([*(record.target for record in chosen[:3]), WRONG, RIGHT, HOLLOW])
    facts = found.facts("student")
    assert (facts["drawn"], facts["collected"], facts["run"]) == (4, 2, 1)
    assert facts["gold_pass_rate_of_collected"]["value"] == 50
    assert {name: count for name, count in facts["excluded"].items() if count} == {
        FAILED: 1,
        "skipped": 1,
        NOT_PLACED: 1,
    }
    assert facts["systems"]["teacher"]["pass_rate"]["value"] == 100
    assert all(is_stored_execution(found.row(name)) for name in ids)
    assert found.row("another") is None

    asked.clear()  # golds are remembered, but for the skipped one: what it lacks may have been installed
    again = execute(chosen, {"student": systems["student"]}, LIMITS, most=9, workers=1)
    assert sorted(asked) == sorted([chosen[2].target, WRONG])
    assert {name: one.outcome for name, one in again.golds.items()} == {
        name: one.outcome for name, one in found.golds.items()
    }


def test_the_same_samples_are_drawn_whatever_is_predicted(
    records: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        execution, "_run_chunk", lambda samples, *rest: {s.record.id: (Verdict(FAILED), {}) for s in samples}
    )
    everyone = list(records.values())
    few = [list(execute(everyone, {"x": [text] * len(everyone)}, LIMITS, most=4).golds) for text in ("a", "b")]
    more = list(execute(everyone, {}, LIMITS, most=6).golds)
    assert few[0] == few[1]
    assert len(few[0]) == 4
    assert set(few[0]) < set(more)


def test_progress_is_told_and_a_failure_stops_all(records: dict[str, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(Session, "run_gold", lambda session, place, text: Verdict(FAILED))
    monkeypatch.setattr(GoldCache, "get", lambda cache, record: None)
    execute(list(records.values()), {}, LIMITS, most=3, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]

    def interrupted(session: Session, place: Place, text: str) -> Verdict:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "run_gold", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(list(records.values()), {}, LIMITS, most=3)


def test_another_version_or_isolation_is_another_cache(
    records: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = records["test_parameters@0"]
    GoldCache("shelf", LIMITS).add({record.id: Verdict(PASSED, True, "", ("a",), True)}, {record.id: record})
    assert GoldCache("shelf", LIMITS).get(record) == Verdict(PASSED, True, "", ("a",), True)
    assert GoldCache("shelf", Limits(30.0, Isolation(sandboxed=False))).get(record) is None
    with monkeypatch.context() as patch:
        patch.setattr("distillctl.core.execution.gold_cache.installed", lambda: ["shelf==9.9"])
        assert GoldCache("shelf", LIMITS).get(record) is None
    assert GoldCache("shelf", LIMITS).get(record) is not None
    package = package_files("shelf")
    assert package is not None
    file = package.root / package.tests[0]
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # somebody worked on it
    assert GoldCache("shelf", LIMITS).get(record) is None


def test_a_timeout_is_not_remembered(records: dict[str, Record]) -> None:
    record = records["test_fixture@1"]
    GoldCache("shelf", LIMITS).add({record.id: Verdict("timeout")}, {record.id: record})
    assert GoldCache("shelf", LIMITS).get(record) is None


def test_records_of_no_installed_package_are_refused(records: dict[str, Record]) -> None:
    stranger = replace(records["test_fixture@0"], project="elsewhere")
    with pytest.raises(DataError, match="no record is of a test in an installed package"):
        execute([stranger], {"student": ["assert x"]}, LIMITS, most=3)

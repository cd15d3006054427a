"""Real tests of an installed package, run by pytest in the sandbox with other assertions in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.data.records import Record
from distillctl.core.execution.outcomes import ASSERTS_NOTHING, ERROR, FAILED, NOT_COLLECTED, PASSED, SKIPPED, TIMEOUT
from distillctl.core.execution.placing import find_place
from distillctl.core.execution.session import MOST_ITEMS, Session
from tests.core.execution.shelf import install_shelf, open_session


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Record]]:
    with pytest.MonkeyPatch.context() as patch:
        yield install_shelf(tmp_path_factory.mktemp("installed") / "site", patch)


@pytest.fixture(scope="module")
def session(records: dict[str, Record]) -> Iterator[Session]:
    with open_session(records["test_fixture@0"]) as session:
        yield session


def outcome(session: Session, record: Record, text: str | None = None) -> tuple[str, bool]:
    """How a record's test ends with a text, or with its own assertion."""
    place = find_place(record)
    assert place is not None
    found = session.run(place, record.target if text is None else text)
    return found.outcome, found.can_fail


GOLDS = [
    ("test_fixture@0", PASSED),
    ("test_fixture@1", PASSED),
    ("test_parameters@0", PASSED),
    ("TestShelf.test_private@0", PASSED),
    ("TestShelf.test_subtests@0", PASSED),
    ("Base.test_inherited@0", PASSED),
    ("test_wrong@0", FAILED),
    ("test_skipped@0", SKIPPED),
    ("test_unreached@0", ASSERTS_NOTHING),
]


def test_golds_end_as_in_the_package(records: dict[str, Record], session: Session) -> None:
    found = {name: outcome(session, records[name]) for name, _ in GOLDS}
    assert found == {name: (expected, expected == PASSED) for name, expected in GOLDS}


PREDICTIONS = [
    ("test_fixture@0", "assert shelf.count() == 3", PASSED, True),
    ("test_fixture@0", "assert size == size", PASSED, False),
    ("test_fixture@0", "assert size == 4", FAILED, False),
    ("test_fixture@0", "assert sise == 3", ERROR, False),
    ("test_fixture@0", "assert True", ASSERTS_NOTHING, False),
    ("test_fixture@0", "return\nassert size == 3", ASSERTS_NOTHING, False),
    ("test_fixture@0", "assert await size", ERROR, False),
    ("test_fixture@0", "pytest.skip()", ERROR, False),
    ("test_parameters@0", "assert shelf.count() >= 0", PASSED, True),
    ("test_parameters@0", "assert shelf.count() < 40", FAILED, False),
    ("TestShelf.test_private@0", "assert self.__size == 2", PASSED, True),
    ("TestShelf.test_subtests@0", "self.assertTrue(self.shelf.count() > n)", FAILED, False),
    ("Base.test_inherited@0", "assert made.things == []", PASSED, True),
]


def test_predictions_end_as_they_deserve(records: dict[str, Record], session: Session) -> None:
    for name, text, expected, able in PREDICTIONS:
        place = find_place(records[name])
        assert place is not None
        found = session.run(place, text)
        got = ERROR if found.outcome == SKIPPED else found.outcome
        assert (got, found.can_fail) == (expected, able), (name, text, found)


@pytest.mark.parametrize("answer", [None, {"status": "timeout"}, {"status": "died"}])
def test_a_pass_whose_second_run_ended_early_is_not_final(
    records: dict[str, Record], session: Session, monkeypatch: pytest.MonkeyPatch, answer: dict[str, str] | None
) -> None:
    """Else it would be remembered as one that cannot fail, which a quieter machine would not say."""
    place, ask = find_place(records["test_fixture@0"]), Session._ask
    assert place is not None
    assert session.run(place, "assert size == 3").is_final

    def asked(self: Session, job: dict[str, Any], *, alone: bool) -> dict[str, Any] | None:
        return answer if job["mutated"] else ask(self, job, alone=alone)

    monkeypatch.setattr(Session, "_ask", asked)
    found = session.run(place, "assert size == 3")
    assert (found.outcome, found.can_fail, found.is_final) == (PASSED, False, False)


def test_at_most_some_parameter_sets_are_run_evenly_spaced(records: dict[str, Record], session: Session) -> None:
    place = find_place(records["test_parameters@0"])
    assert place is not None
    items = session.run(place, records["test_parameters@0"].target).items
    assert 10 < len(items) <= MOST_ITEMS
    assert items[0].endswith("[0]")


def test_what_one_test_leaves_the_next_does_not_find(records: dict[str, Record], session: Session) -> None:
    record = records["test_fixture@0"]
    leave = "from pathlib import Path; Path('/tmp/left').mkdir(0); Shelf.count = None; assert size == 3"
    assert outcome(session, record, leave) == (PASSED, True)
    assert outcome(session, record, "import os; assert size == 3 and not os.path.exists('/tmp/left')") == (PASSED, True)


def test_an_endless_test_is_stopped_and_its_process_goes_on(records: dict[str, Record]) -> None:
    with open_session(records["test_fixture@0"], timeout=0.5) as session:
        for _ in range(2):
            assert outcome(session, records["test_fixture@0"], "import time; time.sleep(60)") == (TIMEOUT, False)


def test_a_file_that_cannot_be_imported_says_why(records: dict[str, Record]) -> None:
    record = records["test_never@0"]
    place = find_place(record)
    assert place is not None
    with open_session(record) as session:
        found = session.run(place, record.target)
    assert found.outcome == NOT_COLLECTED
    assert "not_installed" in found.detail


def test_alone_a_test_ends_as_beside_others(records: dict[str, Record], session: Session) -> None:
    record = records["test_fixture@0"]
    place = find_place(record)
    assert place is not None
    found = session.run(place, record.target, alone=True)
    assert (found.outcome, found.can_fail, found.alone) == (PASSED, True, True)


def test_the_package_is_as_it_was(records: dict[str, Record], session: Session) -> None:
    place = find_place(records["test_fixture@0"])
    assert place is not None
    before = {path: path.stat().st_mtime_ns for path in Path(place.root).rglob("*")}
    outcome(session, records["test_fixture@0"])
    assert {path: path.stat().st_mtime_ns for path in Path(place.root).rglob("*")} == before

"""What is remembered of golds is what was seen, or nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.execution.gold_cache import GoldCache
from distillctl.core.execution.outcomes import ERROR, FAILED, NOT_COLLECTED, PASSED, SKIPPED, TIMEOUT, UNTRIED, Verdict
from distillctl.core.execution.sandbox import Isolation
from distillctl.core.execution.session import Limits
from tests.tiny import tiny_records

RECORDS = {record.id: record for record in tiny_records()[:3]}
LIMITS = Limits(20.0, Isolation(sandboxed=True))
VERDICTS = dict(
    zip(
        RECORDS,
        [Verdict(PASSED, True, "", ("a[1]", "a[2]")), Verdict(FAILED, detail="x"), Verdict(PASSED)],
        strict=True,
    )
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path))
    GoldCache("numpy", LIMITS).add(VERDICTS, RECORDS)
    (written,) = (tmp_path / "executions").iterdir()
    return written


def remembered() -> dict[str, Verdict | None]:
    cache = GoldCache("numpy", LIMITS)
    return {name: cache.get(record) for name, record in RECORDS.items()}


def damages(content: bytes) -> Iterator[bytes]:
    chance = random.Random(20261125)
    for _ in range(200):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(changed)
    yield from (content[:length] for length in (0, 1, len(content) // 2, len(content) - 1))
    yield from (b"[]", b"{}", b'{"verdicts": 3}', b'{"verdicts": {"a": {"outcome": "passed"}}}', b"[" * 99_999)


def test_what_was_kept_comes_back(file: Path) -> None:
    assert remembered() == VERDICTS


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(TIMEOUT),
        Verdict(ERROR, detail="the process that ran it died"),
        Verdict(NOT_COLLECTED, detail="No module named 'tables'"),
        Verdict(SKIPPED, detail="needs xarray"),
        Verdict(PASSED, detail=UNTRIED, items=("a",)),
    ],
)
def test_what_another_day_may_change_is_not_kept(file: Path, verdict: Verdict) -> None:
    name, record = next(iter(RECORDS.items()))
    other = replace(record, id="another")
    GoldCache("numpy", LIMITS).add({name: verdict}, {name: other})
    assert GoldCache("numpy", LIMITS).get(other) is None


def test_damage_is_forgotten_and_never_another_verdict(file: Path) -> None:
    content = file.read_bytes()
    for damaged in damages(content):
        file.write_bytes(damaged)
        found = remembered()
        assert found in (VERDICTS, dict.fromkeys(RECORDS)), damaged
    GoldCache("numpy", LIMITS).add(VERDICTS, RECORDS)
    assert file.read_bytes() == content

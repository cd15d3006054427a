"""The finder of host reads finds them: a test that nothing waits would otherwise pass on anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.host_reads import HostReads

X, MASK = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([True, False, True])


@pytest.mark.parametrize(
    "read",
    [
        lambda: X.sum().item(),
        lambda: bool(MASK.any()),
        lambda: float(X[0]),
        lambda: int(X[1]),
        lambda: X[MASK],
        lambda: X.masked_select(MASK),
        MASK.nonzero,
        lambda: torch.equal(X, X),
        lambda: X.clone().__setitem__(MASK, torch.ones(2)),
    ],
)
def test_a_read_is_found(read: Callable[[], Any]) -> None:
    with HostReads() as host:
        read()
    assert host.found
    with HostReads(counting=False) as host:
        read()
    assert not host.found


def test_ordinary_arithmetic_is_none() -> None:
    with HostReads() as host:
        (X.softmax(-1) + torch.where(MASK, X, 0.0)).sum()
        X.index_select(0, torch.tensor([0, 2])).gather(0, torch.tensor([1]))
    assert host.found == []

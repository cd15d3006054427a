"""What a row keeps of a distribution: width in bytes, the gold id, a sum of 1, and the dense case."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from distillctl.core.teacher.rows import Layout


def logits_and_labels(width: int, tokens: int = 50, spread: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(width)
    logits = spread * torch.randn(tokens, width, generator=generator)
    return logits, torch.randint(0, width, (tokens,), generator=generator)


@pytest.mark.parametrize(
    ("k", "width", "expected"),
    [(64, 32_100, 264), (64, 65_536, 264), (64, 65_537, 392), (8, 8_192, 40), (400, 400, 1600)],
)
def test_bytes_of_a_token(k: int, width: int, expected: int) -> None:
    assert Layout(k, width, 1.0).row_bytes == expected


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_the_gold_id_is_kept_once_and_all_adds_up_to_one(k: int, temperature: float) -> None:
    logits, labels = logits_and_labels(300)
    top = Layout(k, 300, temperature).top(logits, labels)
    assert ((top.ids == labels.unsqueeze(-1)).sum(dim=-1) == 1).all()
    assert all(len(set(row)) == k for row in top.ids.tolist())
    kept = torch.exp(top.logits / temperature - top.log_sum_exp.unsqueeze(-1))
    assert_close(kept.sum(dim=-1) + top.tail.exp(), torch.ones(50), rtol=1e-6, atol=1e-6)
    expected = torch.softmax(logits / temperature, dim=-1)
    assert_close(kept, expected.gather(-1, top.ids), rtol=2e-2, atol=2e-4)
    # All but the last place hold the most likely ids, in order.
    assert torch.equal(top.ids[:, :-1], logits.topk(k).indices[:, :-1])


@pytest.mark.parametrize("k", [1, 5, 64])
@pytest.mark.parametrize("width", [300, 70_000])
def test_packing_and_unpacking_lose_nothing(k: int, width: int) -> None:
    logits, labels = logits_and_labels(width, tokens=5)
    layout = Layout(k, width, 2.0)
    rows = layout.pack(logits, labels)
    found, expected = layout.unpack(rows.reshape(5, 1), torch.device("cpu")), layout.top(logits, labels)
    for name in ("ids", "logits", "log_sum_exp", "tail"):
        assert torch.equal(getattr(found, name).squeeze(1), getattr(expected, name)), name
    assert (found.temperature, found.width) == (2.0, width)
    assert (found.ids.dtype, found.logits.dtype) == (torch.int64, torch.float32)


def test_a_dense_row_is_the_logits_in_single_precision() -> None:
    logits, labels = logits_and_labels(30)
    layout = Layout(30, 30, 2.0)
    found = layout.unpack_dense(layout.pack(logits, labels), torch.device("cpu"))
    assert_close(torch.softmax(found, -1), torch.softmax(logits, -1), rtol=1e-6, atol=1e-8)
    assert found.max() == 0


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[0.0, -1e6, -9e4, -torch.inf]])
    top = Layout(3, 4, 1.0).top(logits, torch.tensor([2]))
    assert torch.isfinite(top.logits).all()
    assert top.log_sum_exp.item() == 0
    assert top.tail.item() == -torch.inf

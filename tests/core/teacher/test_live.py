"""A live teacher: teacher forcing as Hugging Face does it, float32 logits, no gradient, nothing changed."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from distillctl.core.teacher.live import LiveTeacher, shift_right
from tests.tiny import Tiny, distance, tiny_teacher, weights_of

INPUTS = torch.tensor([[5, 6, 7, 1], [9, 1, 0, 0]])
MASK = (INPUTS != 0).long()
LABELS = torch.tensor([[20, 21, 1], [30, 1, -100]])


def test_labels_move_one_place_behind_the_start() -> None:
    assert shift_right(LABELS, 3, 0).tolist() == [[3, 20, 21], [3, 30, 1]]
    assert shift_right(torch.tensor([[-100, -100]]), 3, 9).tolist() == [[3, 9]]
    assert LABELS.tolist() == [[20, 21, 1], [30, 1, -100]]


def test_logits_are_the_models_own(tiny: Tiny) -> None:
    expected = tiny_teacher(tiny.tokenizer)(input_ids=INPUTS, attention_mask=MASK, labels=LABELS).logits
    found = LiveTeacher(tiny_teacher(tiny.tokenizer)).logits(INPUTS, MASK, LABELS)
    assert_close(found, expected.detach()[LABELS >= 0])
    assert not found.requires_grad


def test_it_is_frozen_and_in_evaluation_mode(tiny: Tiny) -> None:
    model = tiny_teacher(tiny.tokenizer, dropout_rate=0.5).train()
    before = weights_of(model)
    teacher = LiveTeacher(model)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(teacher.logits(INPUTS, MASK, LABELS), teacher.logits(INPUTS, MASK, LABELS))
    assert distance(before, weights_of(model)) == 0


def test_the_head_is_float32_under_autocast(tiny: Tiny) -> None:
    teacher = LiveTeacher(tiny_teacher(tiny.tokenizer))
    exact = teacher.logits(INPUTS, MASK, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = teacher.logits(INPUTS, MASK, LABELS)
    assert logits.dtype == torch.float32
    # A bfloat16 head would leave multiples of 2^-8 relative to each value.
    assert not torch.equal(logits, logits.bfloat16().float())
    assert_close(logits, exact, rtol=0.1, atol=0.1)


def test_padding_changes_nothing(tiny: Tiny) -> None:
    teacher = LiveTeacher(tiny_teacher(tiny.tokenizer))
    alone = teacher.logits(INPUTS[1:, :2], MASK[1:, :2], LABELS[1:, :2])
    assert_close(teacher.logits(INPUTS, MASK, LABELS)[-2:], alone, rtol=1e-4, atol=1e-5)

"""How many ids are enough: measured on gradients, the fewest that pass, refused where none do."""

from __future__ import annotations

import pytest
import torch

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError
from distillctl.core.teacher.choice import Fidelity, FidelityProbe, candidates, choose_top_k
from distillctl.core.teacher.live import LiveTeacher
from tests.tiny import Tiny, tiny_teacher

EXAMPLES = [Example(str(n), (5 + n, 9, 1), (20 + n, 30, 7, 1)) for n in range(40)]


def measured(cosines: dict[int, float]) -> tuple[list[int], object]:
    asked: list[int] = []

    def measure(k: int) -> Fidelity:
        asked.append(k)
        return Fidelity(k, cosines[k], 0.1, 0.2, 1000)

    return asked, measure


@pytest.mark.parametrize("enough", [2, 4, 8, 16, 32, 64, 128])
def test_the_fewest_that_keep_the_gradient_are_chosen(enough: int) -> None:
    powers = candidates(400)
    assert powers == [2, 4, 8, 16, 32, 64, 128]
    asked, measure = measured({k: 0.995 if k >= enough else 0.98 for k in powers})
    assert choose_top_k(400, measure).top_k == enough  # type: ignore[arg-type]
    assert len(asked) == len(set(asked)) <= 4


def test_no_k_is_enough_or_small_enough() -> None:
    _, measure = measured(dict.fromkeys(candidates(400), 0.9))
    with pytest.raises(
        DataError, match=r"teacher\.top_k: no number of ids .* \(k=128: gradient cosine 0\.9000; .*live"
    ):
        choose_top_k(400, measure)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no number of ids that would be smaller than dense logits"):
        choose_top_k(7, measure)  # type: ignore[arg-type]


def probe(tiny: Tiny, sharpness: float, temperature: float = 1.0) -> FidelityProbe:
    """A teacher whose logits are ``sharpness`` times those of the tiny one, and another student."""
    teacher, student = tiny_teacher(tiny.tokenizer), tiny_teacher(tiny.tokenizer, seed=5)
    with torch.no_grad():
        teacher.get_output_embeddings().weight.mul_(sharpness)
    return FidelityProbe(student, LiveTeacher(teacher), EXAMPLES, len(tiny.tokenizer), temperature)


def test_more_ids_keep_more_and_a_sharp_teacher_needs_fewer(tiny: Tiny) -> None:
    for temperature in (1.0, 2.0):
        for sharpness in (1.0, 20.0):
            found = [probe(tiny, sharpness, temperature).measure(k) for k in (2, 16, 128)]
            assert [f.cosine for f in found] == sorted(f.cosine for f in found)
            assert [f.tail_mass for f in found] == sorted((f.tail_mass for f in found), reverse=True)
            assert all(0 < f.bound < 4 * 0.7 and f.tokens == 160 for f in found)
    flat, sharp = probe(tiny, 1.0).measure(16), probe(tiny, 20.0).measure(16)
    assert sharp.cosine > flat.cosine
    assert sharp.tail_mass < flat.tail_mass


def test_nearly_all_ids_keep_nearly_all(tiny: Tiny) -> None:
    width = len(tiny.tokenizer)
    found = probe(tiny, 3.0).measure(width - 1)
    assert found.cosine > 0.999
    assert found.tail_mass < 0.01


def test_it_changes_nothing_and_depends_on_no_order(tiny: Tiny) -> None:
    student, live = (
        tiny_teacher(tiny.tokenizer, seed=5, dropout_rate=0.5).train(),
        LiveTeacher(tiny_teacher(tiny.tokenizer)),
    )
    random = torch.get_rng_state()
    one = FidelityProbe(student, live, EXAMPLES, len(tiny.tokenizer), 1.0).measure(16)
    other = FidelityProbe(student, live, EXAMPLES[::-1], len(tiny.tokenizer), 1.0).measure(16)
    assert one == other
    assert student.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_some_thousand_tokens_are_sampled(tiny: Tiny) -> None:
    many = [Example(str(n), (5, 9, 1), (20 + n % 300, 30 + n // 300, 7, 8, 9, 1)) for n in range(1000)]
    live = LiveTeacher(tiny_teacher(tiny.tokenizer))
    found = FidelityProbe(tiny_teacher(tiny.tokenizer, seed=5), live, many, len(tiny.tokenizer), 1.0).measure(16)
    assert found.tokens == 1002


def test_it_reads_well() -> None:
    text = str(Fidelity(64, 0.99342, 0.0123, 0.1, 1002))
    assert text == (
        "k=64: gradient cosine 0.9934; the tail, 10.00% of the teacher, hides at most 0.012 nats a token (1,002 tokens)"
    )

"""The student's first weights: alternate layers of the teacher to the last bit, random ones, or ready ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from distillctl.core.config import Config, StudentConfig, TrainingConfig
from distillctl.core.errors import DataError, UsageError
from distillctl.core.models.loading import load_seq2seq, save_model
from distillctl.core.models.student import (
    alternate_layers,
    embedded_shape,
    layer_count,
    make_student,
    prepare_student,
    seed_dropout,
    set_dropout,
    shaped_config,
    with_layers,
)
from tests.tiny import Tiny, distance, tiny_teacher, weights_of


@pytest.mark.parametrize(
    ("available", "wanted", "chosen"),
    [(6, 3, [0, 2, 4]), (6, 6, [0, 1, 2, 3, 4, 5]), (6, 1, [0]), (12, 5, [0, 2, 4, 7, 9]), (3, 2, [0, 1])],
)
def test_alternate_layers_are_spread_and_begin_with_the_first(available: int, wanted: int, chosen: list[int]) -> None:
    assert alternate_layers(available, wanted) == chosen


def layers(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def test_the_embedded_student_has_every_other_layer_of_the_teacher(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer, num_layers=6, num_decoder_layers=4)
    student = make_student(StudentConfig(), teacher)
    assert (layer_count(student.config, "encoder"), layer_count(student.config, "decoder")) == (3, 2)
    ours, theirs = weights_of(student), weights_of(teacher)
    for stack, count in (("encoder", 3), ("decoder", 2)):
        for index in range(count):
            copied = layers(ours, f"{stack}.block.{index}.")
            assert copied
            assert distance(copied, layers(theirs, f"{stack}.block.{2 * index}.")) == 0
    others = [name for name in ours if ".block." not in name]
    assert "shared.weight" in others
    assert all(torch.equal(ours[name], theirs[name]) for name in others)


def test_the_student_is_a_copy_and_leaves_the_teacher_alone(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer)
    before = weights_of(teacher)
    student = make_student(StudentConfig(encoder_layers=2, decoder_layers=1), teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert distance(before, weights_of(teacher)) == 0
    assert teacher.config.num_layers == 2
    assert student.lm_head.weight.data_ptr() == student.shared.weight.data_ptr()


def test_weights_are_copied_in_float32_even_where_the_config_asks_for_less(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer)
    teacher.config.dtype = torch.bfloat16
    student = make_student(StudentConfig(encoder_layers=2, decoder_layers=2), teacher)
    assert distance(weights_of(teacher), weights_of(student)) == 0


def test_random_weights_come_from_the_seed(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer)

    def made(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return weights_of(make_student(StudentConfig(init="random"), teacher))

    assert distance(made(1), made(1)) == 0
    assert distance(made(1), made(2)) > 0.1
    assert layer_count(make_student(StudentConfig(init="random"), teacher).config, "encoder") == 1


def test_ready_weights_come_from_a_path(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer, seed=5)
    path = str(tiny.teacher)
    for settings in (StudentConfig(init=path), StudentConfig(model=path, init="pretrained")):
        student = make_student(settings, teacher)
        assert distance(weights_of(student), weights_of(tiny_teacher(tiny.tokenizer, seed=0))) == 0


def test_a_named_architecture_keeps_its_number_of_layers(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer, seed=5)
    student = make_student(StudentConfig(model=str(tiny.teacher), init="random"), teacher)
    assert layer_count(student.config, "encoder") == 2
    assert distance(weights_of(student), weights_of(tiny_teacher(tiny.tokenizer))) > 0.1
    settings = StudentConfig(model=str(tiny.teacher), init="teacher-layers", encoder_layers=1, decoder_layers=1)
    student = make_student(settings, teacher)
    assert torch.equal(student.shared.weight, teacher.shared.weight)
    assert layer_count(student.config, "encoder") == 1


def test_more_layers_than_the_teacher_has_is_a_usage_error(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer)
    with pytest.raises(UsageError, match=r"student\.decoder_layers: 3 layers cannot be taken from a teacher with 2"):
        make_student(StudentConfig(decoder_layers=3), teacher)
    deeper = StudentConfig(init="random", encoder_layers=3, decoder_layers=3)
    assert layer_count(make_student(deeper, teacher).config, "decoder") == 3


def test_another_width_than_the_teachers_is_a_data_error(tiny: Tiny, tmp_path: Any) -> None:
    wide = tiny_teacher(tiny.tokenizer, width=24)
    save_model(wide, tiny.tokenizer, tmp_path / "wide")
    with pytest.raises(DataError, match=r"shared\.weight .*has no counterpart in the teacher.*same width"):
        make_student(StudentConfig(model=str(tmp_path / "wide"), init="teacher-layers"), tiny_teacher(tiny.tokenizer))


def tiny_bart() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=50,
            d_model=16,
            encoder_layers=4,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=32,
            dropout=0.3,
            attention_dropout=0.2,
            activation_dropout=0.1,
        )
    )


def test_other_families_are_cut_as_well() -> None:
    teacher = tiny_bart().eval()
    student = make_student(StudentConfig(), teacher).eval()
    assert (student.config.encoder_layers, student.config.decoder_layers) == (2, 1)
    ours, theirs = weights_of(student), weights_of(teacher)
    assert distance(layers(ours, "model.encoder.layers.1."), layers(theirs, "model.encoder.layers.2.")) == 0
    assert student(input_ids=torch.tensor([[4, 5, 2]])).logits.shape == (1, 3, 50)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_no_dropout_is_left_at_rate_zero(family: str, tiny: Tiny) -> None:
    model: Any = tiny_bart() if family == "bart" else tiny_teacher(tiny.tokenizer, dropout_rate=0.5)
    model.train()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "labels": torch.tensor([[8, 9, 1]])}
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    set_dropout(model, 0.0)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert torch.equal(model(**inputs).logits, model.eval()(**inputs).logits)


def test_a_rate_that_config_json_writes_as_an_integer_is_set_too(tiny: Tiny) -> None:
    model = tiny_teacher(tiny.tokenizer, dropout_rate=0)
    set_dropout(model, 0.3)
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert (model.encoder.dropout.p, attention.dropout) == (0.3, 0.3)


def test_a_student_is_prepared_as_configured(tiny: Tiny) -> None:
    kept = tiny_teacher(tiny.tokenizer, dropout_rate=0.25)
    prepare_student(kept, Config())
    assert kept.training
    assert kept.encoder.dropout.p == 0.25
    changed = tiny_teacher(tiny.tokenizer, dropout_rate=0.25)
    prepare_student(changed, Config(training=TrainingConfig(dropout_rate=0.5, gradient_checkpointing=True)))
    assert changed.encoder.dropout.p == 0.5
    assert changed.encoder.gradient_checkpointing and changed.decoder.gradient_checkpointing
    assert not kept.encoder.gradient_checkpointing


def test_the_embedded_shape_is_the_embedded_teachers() -> None:
    config = embedded_shape(8192)
    assert (config.vocab_size, config.num_layers, config.num_decoder_layers) == (8192, 6, 2)
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)


def test_a_config_without_layer_counts_is_named() -> None:
    config: Any = type("Odd", (), {"model_type": "odd", "to_dict": lambda self: {}})()
    with pytest.raises(DataError, match="a odd model does not say how many encoder layers it has"):
        layer_count(config, "encoder")
    with pytest.raises(DataError, match="decoder layers"):
        with_layers(config, {"decoder": 2})


def test_dropout_depends_on_seed_step_and_process_alone() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, ...]:
        torch.rand(3)
        seed_dropout(seed, step, rank)
        return tuple(torch.rand(4).tolist())

    places = [(13, 0, 0), (13, 0, 1), (13, 1, 0), (14, 0, 0)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert [drawn(*place) for place in places] == [drawn(*place) for place in places]


def test_a_t5_decoder_deeper_than_its_encoder_is_refused(tiny: Tiny) -> None:
    teacher = tiny_teacher(tiny.tokenizer, num_layers=3, num_decoder_layers=3)
    assert shaped_config(StudentConfig(encoder_layers=2, decoder_layers=2), teacher.config).num_decoder_layers == 2
    with pytest.raises(UsageError, match=r"student.decoder_layers: a t5 decoder of 2 layers behind an encoder of 1"):
        shaped_config(StudentConfig(encoder_layers=1, decoder_layers=2), teacher.config)


def test_so_is_one_that_is_ready(tiny: Tiny, tmp_path: Path) -> None:
    tiny_teacher(tiny.tokenizer, num_layers=1, num_decoder_layers=2).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"teacher '.*': a t5 decoder of 2 layers behind an encoder of 1 cannot gener"):
        load_seq2seq(str(tmp_path), "teacher")

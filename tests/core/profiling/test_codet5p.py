"""The architectures of CodeT5+ and CodeBERT, without their weights."""

from __future__ import annotations

import torch
from transformers import RobertaConfig, RobertaModel, T5ForConditionalGeneration

from distillctl.core.config import load_config
from distillctl.core.losses.critical import CriticalTokens
from distillctl.core.profiling.codet5p import ENCODER, STUDENT, TEACHER, VOCABULARY, _t5, _tokenizer, random_examples


def parameters(model: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def test_the_shapes_have_the_parameters_of_the_published_models() -> None:
    with torch.device("meta"):  # shapes only
        student, teacher = (T5ForConditionalGeneration(_t5(shape)) for shape in (STUDENT, TEACHER))
        encoder = RobertaModel(RobertaConfig(**ENCODER), add_pooling_layer=False)
    assert round(parameters(student) / 1e6) == 223
    assert round(parameters(teacher) / 1e6) == 738
    assert round(parameters(encoder) / 1e6) == 124
    assert student.get_output_embeddings().weight.shape == (VOCABULARY, 768)


def test_examples_are_as_long_as_asked_and_end_as_targets_do() -> None:
    config = load_config(settings=["data.max_source_length=40", "data.max_target_length=12"])
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"per_device_train_batch_size": 3})}
    )
    found = random_examples(config)
    assert len(found.examples) == len(found.records) == 12
    assert {(len(example.input_ids), len(example.labels)) for example in found.examples} == {(40, 12)}
    assert {example.labels[-1] for example in found.examples} == {2}
    assert found.examples == random_examples(config).examples
    assert max(max(example.input_ids) for example in found.examples) < VOCABULARY


def test_the_tokenizer_has_every_id_and_critical_words() -> None:
    tokenizer = _tokenizer()
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCABULARY))
    labels = [tokenizer.get_vocab()["=="], VOCABULARY - 1, -100]
    assert CriticalTokens(tokenizer, "python").read([labels]).flat.tolist() == [True, False, False]

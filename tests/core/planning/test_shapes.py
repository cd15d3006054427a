"""Shapes from Hugging Face configurations: the parameters PyTorch counts, whatever a family calls its parts."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BartConfig, BertConfig, GPT2Config, RobertaConfig, RobertaModel, T5ForConditionalGeneration

from distillctl.core.planning.estimate import Stack
from distillctl.core.planning.shapes import encoder_shape, sequence_shape
from distillctl.core.profiling.codet5p import published_config
from tests.core.planning.models import t5


def test_a_t5_is_counted_as_pytorch_does() -> None:
    config = t5("gated-gelu")
    shape = sequence_shape(config)
    assert shape is not None
    assert shape.parameters == T5ForConditionalGeneration(config).num_parameters()
    assert shape.vocabulary == 500
    assert shape.encoder == Stack(layers=4, width=96, heads=5, inner=120, feed_forward=352, matrices=3)
    assert shape.decoder == Stack(layers=3, width=96, heads=5, inner=120, feed_forward=352, matrices=3)
    model = T5ForConditionalGeneration(config)
    matrices = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "shared" not in name and "bias" not in name
    ]
    assert shape.hidden == sum(p.numel() for p in matrices)


def test_names_of_another_family_are_known_too() -> None:
    config = BartConfig(
        vocab_size=70,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=6,
        encoder_ffn_dim=32,
        decoder_ffn_dim=40,
    )
    shape = sequence_shape(config)
    assert shape is not None
    assert shape.encoder == Stack(2, 24, 4, 24, 32)
    assert shape.decoder == Stack(3, 24, 6, 24, 40)


def test_an_encoder_alone_and_the_encoder_of_a_pair() -> None:
    config = RobertaConfig(
        vocab_size=80, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=36
    )
    alone, inside = encoder_shape(config), encoder_shape(t5())
    assert alone is not None and inside is not None
    assert alone.encoder == Stack(2, 24, 2, 24, 36)
    assert alone.parameters == RobertaModel(config).num_parameters()
    assert inside.encoder.layers == 4
    assert inside.parameters == sum(p.numel() for p in T5ForConditionalGeneration(t5()).get_encoder().parameters())


@pytest.mark.parametrize("commit", [None, "a" * 40])
def test_an_encoders_own_code_is_run_of_the_commit_that_was_allowed(
    commit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def made(config: Any, **options: Any) -> Any:
        asked.append(options)
        return T5ForConditionalGeneration(config)

    monkeypatch.setattr("distillctl.core.planning.shapes.AutoModel.from_config", made)
    assert encoder_shape(t5(), commit) is not None
    assert asked == [{} if commit is None else {"trust_remote_code": True, "code_revision": commit}]


def test_what_is_no_pair_has_no_shape_of_one() -> None:
    assert sequence_shape(BertConfig()) is None
    assert sequence_shape(GPT2Config()) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Salesforce/codet5p-770m", 738), ("Salesforce/codet5p-220m", 223), ("microsoft/codebert-base", 125)],
)
def test_the_three_published_models_are_known_without_the_hub(name: str, parameters: int) -> None:
    config = published_config(name)
    shape = encoder_shape(config) if "bert" in name else sequence_shape(config)
    assert shape is not None
    assert round(shape.parameters / 1e6) == parameters
    assert published_config("somebody/else") is None

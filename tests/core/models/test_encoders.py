"""Encoders by name: every family that gives a state per token, and one clear error for what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2LMHeadModel,
    PegasusConfig,
    PegasusModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from distillctl.core.encoder.frozen import FrozenEncoder, longest_input
from distillctl.core.errors import DataError
from distillctl.core.models.encoders import input_embeddings, load_encoder
from distillctl.core.models.loading import load_config, load_weights, weights_fingerprint
from tests.tiny import Tiny, distance, tiny_teacher, weights_of

VOCAB = 30
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 18,
}
T5_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
IDS = torch.tensor([[5, 6, 7, 8]])


def roberta(**changes: Any) -> RobertaConfig:
    return RobertaConfig(**SHAPE | {"pad_token_id": 1} | changes)


def states(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs).last_hidden_state
    return found


def assert_reads_as(encoder: Any, reference: Any) -> None:
    """Through the table and the frozen encoder a token's state is the one that the saved model gives it."""
    frozen = FrozenEncoder(encoder, input_embeddings(encoder))
    torch.testing.assert_close(frozen.gold_states(IDS), states(reference, input_ids=IDS))
    assert frozen.gold_states(IDS).shape == (1, 4, frozen.width)
    logits = torch.nn.functional.one_hot(IDS, len(frozen.table)).float().requires_grad_(True)
    frozen.predicted_states(logits, torch.ones_like(IDS).bool()).square().sum().backward()
    assert logits.grad is not None and logits.grad.norm() > 0


# --- what can be read through -----------------------------------------------------------------------------


def test_of_an_encoder_decoder_the_encoder_is_taken(tiny: Tiny) -> None:
    stack = load_encoder(str(tiny.teacher))
    assert distance(weights_of(stack), weights_of(tiny_teacher(tiny.tokenizer).encoder)) == 0
    assert_reads_as(stack, tiny_teacher(tiny.tokenizer).encoder)


def test_t5s_encoder_alone_is_a_model_too(tmp_path: Path) -> None:
    model = T5EncoderModel(T5Config(**T5_SHAPE))
    model.save_pretrained(tmp_path)
    assert_reads_as(load_encoder(str(tmp_path)), model)
    assert weights_fingerprint(load_encoder(str(tmp_path))) == weights_fingerprint(model.get_encoder())


@pytest.mark.parametrize("with_pooler", [True, False])
def test_roberta_with_and_without_pooler_weights_is_the_same_encoder(tmp_path: Path, with_pooler: bool) -> None:
    """Weights that the file lacks are drawn at random: the bank would be another one in each run."""
    model = RobertaModel(roberta(), add_pooling_layer=with_pooler)
    model.save_pretrained(tmp_path)
    first, second = load_encoder(str(tmp_path)), load_encoder(str(tmp_path))
    assert weights_fingerprint(first) == weights_fingerprint(second)
    assert first.pooler is None
    assert_reads_as(first, model)


def test_a_masked_language_model_is_read_below_its_head(tmp_path: Path) -> None:
    """As CodeBERT's file has it: ``roberta.`` before every name, and no pooler."""
    masked = RobertaForMaskedLM(roberta())
    masked.save_pretrained(tmp_path)
    assert any(name.startswith("roberta.") for name in load_file(tmp_path / "model.safetensors"))
    assert_reads_as(load_encoder(str(tmp_path)), masked.roberta)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("config_of", "model_of"), [(BartConfig, BartModel), (PegasusConfig, PegasusModel)])
def test_barts_family_scales_what_it_reads(config_of: Any, model_of: Any, scaled: bool, tmp_path: Path) -> None:
    """BART in its embedding, Pegasus behind it."""
    shape: dict[str, Any] = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
    }
    config = config_of(vocab_size=VOCAB, d_model=8, max_position_embeddings=18, scale_embedding=scaled, **shape)
    model = model_of(config)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert_reads_as(encoder, model.get_encoder())
    assert longest_input(encoder) == 18


def test_electra_widens_its_embeddings_itself(tmp_path: Path) -> None:
    model = ElectraModel(ElectraConfig(**SHAPE, embedding_size=4))
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    frozen = FrozenEncoder(encoder, input_embeddings(encoder))
    assert (frozen.table.shape[1], frozen.width) == (4, 8)
    assert_reads_as(encoder, model)
    rows = torch.randn(2, VOCAB)
    mask = torch.tensor([[True, True, False]])
    assert frozen.predicted_states(rows, mask, places=torch.tensor([0, 1])).shape == (1, 3, 8)


class EmbeddingConfig(PretrainedConfig):
    """As the one that CodeT5+ embedding brings along: not T5's, with T5's names."""

    model_type = "distillctl_test_embedding"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    def __init__(self, **values: Any) -> None:
        t5 = T5Config(**T5_SHAPE).to_dict()
        super().__init__(**{**t5, "embed_dim": 4, "is_encoder_decoder": False, **values, "model_type": self.model_type})


class EmbeddingModel(T5EncoderModel):
    """A T5 encoder whose result is one projected vector."""

    config_class = EmbeddingConfig

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__(config)
        self.proj = nn.Linear(config.d_model, config.embed_dim)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)
        return nn.functional.normalize(self.proj(output.last_hidden_state[:, 0]), dim=-1)


def test_a_model_that_gives_one_vector_is_read_at_its_encoder_stack(tmp_path: Path) -> None:
    AutoConfig.register(EmbeddingConfig.model_type, EmbeddingConfig, exist_ok=True)
    AutoModel.register(EmbeddingConfig, EmbeddingModel, exist_ok=True)
    model = EmbeddingModel(EmbeddingConfig())
    model.save_pretrained(tmp_path)
    assert_reads_as(load_encoder(str(tmp_path)), model.encoder)


# --- what cannot ------------------------------------------------------------------------------------------


class DeafConfig(PretrainedConfig):
    model_type = "distillctl_test_deaf"


class Deaf(PreTrainedModel):
    """States per token, of ids only."""

    config_class = DeafConfig

    def __init__(self, config: DeafConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(VOCAB, 8)
        self.post_init()

    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = self.embedding(input_ids)
        return found


def deaf() -> PreTrainedModel:
    AutoConfig.register(DeafConfig.model_type, DeafConfig, exist_ok=True)
    AutoModel.register(DeafConfig, Deaf, exist_ok=True)
    return Deaf(DeafConfig())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "decoder": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2)),
        "is a gpt2 model, a decoder: a token's state knows nothing of what follows. Name an encoder",
    ),
    "encoder made a decoder": (
        lambda: BertModel(BertConfig(**SHAPE, is_decoder=True)),
        "BertModel reads as a decoder does: a token's state knows nothing of what follows",
    ),
    "without inputs_embeds": (deaf, "Deaf gives no state per token for input embeddings (inputs_embeds)"),
    "of pictures": (
        lambda: ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)),
        "gives no state per token for input embeddings",
    ),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_through_is_one_clear_error(tmp_path: Path, make: Callable[[], Any], words: str) -> None:
    make().save_pretrained(tmp_path)
    with pytest.raises(DataError) as caught:
        load_encoder(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"encoder '{tmp_path}'") and words in message
    assert len(message.splitlines()) == 1


def test_an_encoder_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    RobertaModel(roberta()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lack 1 of the tensors.*attention\.self\.query"):
        load_encoder(str(tmp_path))


def test_how_much_an_encoder_can_read() -> None:
    assert longest_input(RobertaModel(roberta())) == 16  # 18 positions, counted from behind the padding id 1
    assert longest_input(BertModel(BertConfig(**SHAPE))) == 18
    assert longest_input(T5EncoderModel(T5Config(**T5_SHAPE)).get_encoder()) is None


def test_whole_models_are_still_loaded_whole(tiny: Tiny) -> None:
    assert load_config(str(tiny.teacher), "teacher").is_encoder_decoder
    model = load_weights(AutoModel, str(tiny.teacher), "teacher", None)
    assert model.decoder is not None

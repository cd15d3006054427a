"""Tiny worlds for the loss tests: random frozen encoders, a batch with every field, a one-layer student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel, T5Config, T5EncoderModel

from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.losses.contrastive import unit_vectors
from distillctl.core.losses.term import LossBatch, StudentOutputs
from distillctl.core.teacher.rows import Layout

VOCAB = 11


def tiny_t5_config(vocab: int = VOCAB, width: int = 8) -> T5Config:
    return T5Config(
        vocab_size=vocab,
        d_model=width,
        d_kv=4,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=1,
        d_ff=2 * width,
        dropout_rate=0.5,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def tiny_encoder(
    vocab: int = VOCAB, width: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0
) -> FrozenEncoder:
    """A random RoBERTa behind its own embedding. Its dropout is high on purpose: eval mode must hide it.

    Not T5, whose layer norm and attention round to float32 inside: a float64 gradient check would see the
    steps.
    """
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=40,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
        initializer_range=0.4,
        pad_token_id=1,
    )
    model = RobertaModel(config, add_pooling_layer=False).to(dtype)
    return FrozenEncoder(model, model.get_input_embeddings().weight)


def tiny_t5_encoder(vocab: int = VOCAB, width: int = 8, seed: int = 0) -> FrozenEncoder:
    """A random T5 encoder stack behind its own embedding, float32."""
    torch.manual_seed(seed)
    stack = T5EncoderModel(tiny_t5_config(vocab, width)).get_encoder()
    return FrozenEncoder(stack, stack.get_input_embeddings().weight)


@dataclass
class World:
    """Logits, a batch that knows everything, and the encoder that made its gold states."""

    logits: Tensor
    batch: LossBatch
    encoder: FrozenEncoder

    def outputs(self, logits: Tensor | None = None, soft: bool = False) -> StudentOutputs:
        return outputs_of(self.encoder, self.logits if logits is None else logits, soft)


def outputs_of(encoder: FrozenEncoder, logits: Tensor, soft: bool = False) -> StudentOutputs:
    return StudentOutputs(logits, lambda z, mask: encoder.predicted_states(z, mask, soft=soft))


def make_outputs(encoder: FrozenEncoder) -> Callable[[Tensor], StudentOutputs]:
    return lambda logits: outputs_of(encoder, logits)


def make_world(
    lengths: Sequence[int] = (5, 2, 4, 1),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    encoder: FrozenEncoder | None = None,
) -> World:
    """A world of ``len(lengths)`` examples with targets of those lengths, all different."""
    encoder = tiny_encoder(dtype=dtype) if encoder is None else encoder
    vocab = len(encoder.table)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    labels = torch.randint(2, vocab, shape, generator=generator)
    labels[torch.arange(shape[1]) >= torch.tensor(lengths).unsqueeze(1)] = -100

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    batch = LossBatch(
        labels=labels,
        teacher_logits=2 * normal(*shape, vocab),
        token_weights=1 + torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype),
    )
    return World(2 * normal(*shape, vocab), with_golds(batch, encoder), encoder)


def with_golds(batch: LossBatch, encoder: FrozenEncoder) -> LossBatch:
    """The batch with what a bank would give for its labels, taken as one whole optimizer step."""
    states = encoder.gold_states(batch.labels)
    valid = batch.labels != -100
    mean = states[valid].mean(dim=0) if bool(valid.any()) else states.new_zeros(encoder.width)
    keys = torch.tensor([hash(tuple(row)) for row in batch.labels.tolist()])
    return replace(
        batch,
        gold_states=states,
        mean_state=mean,
        step_gold_vectors=unit_vectors(states, mean, valid),
        step_gold_keys=keys,
        step_rows=torch.arange(len(keys)),
    )


def micro_batch(batch: LossBatch, rows: slice) -> LossBatch:
    """Some examples of a batch; the step-wide tensors stay whole."""
    per_example = ("labels", "teacher_logits", "token_weights", "gold_states", "step_rows")
    cut = {name: getattr(batch, name) for name in per_example}
    part = replace(batch, **{name: None if value is None else value[rows] for name, value in cut.items()})
    return with_top(part, lambda tensor: tensor[rows])


TOP_TENSORS = ("ids", "logits", "log_sum_exp", "tail")


def with_top(batch: LossBatch, change: Callable[[Tensor], Tensor], names: Sequence[str] = TOP_TENSORS) -> LossBatch:
    """The batch with some tensors of a cached teacher changed, where it has one."""
    if batch.teacher_top is None:
        return batch
    changed = {name: change(getattr(batch.teacher_top, name)) for name in names}
    return replace(batch, teacher_top=replace(batch.teacher_top, **changed))


def cached(world: World, k: int, temperature: float = 1.0) -> World:
    """The world with what a cache of ``k`` ids would give of its teacher, in the world's precision."""
    logits, labels = world.batch.teacher_logits, world.batch.labels
    assert logits is not None
    flat = Layout(k, logits.shape[-1], temperature).top(logits.flatten(0, 1), labels.clamp(min=0).flatten())
    batch = with_top(replace(world.batch, teacher_top=flat), lambda t: t.unflatten(0, labels.shape))
    return replace(world, batch=with_top(batch, lambda t: t.to(world.logits.dtype), TOP_TENSORS[1:]))


class TinyStudent(nn.Module):
    """Features [B,T,F] -> logits [B,T,V] by one hidden layer."""

    def __init__(self, features: int, vocab: int, hidden: int = 16, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.inner = nn.Linear(features, hidden, dtype=dtype)
        self.head = nn.Linear(hidden, vocab, dtype=dtype)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.inner(features)))
        return logits

"""How much a training computes and holds, from the shapes of its models alone. Estimates, with their sources.

Legend: S padded source and T padded target tokens of an example, R valid target tokens of a micro-batch of B examples,
d width, i heads x head width, f feed-forward width, m its matrices (3 where it is gated), L layers, V logits.

**Floating-point operations.** A product with a weight matrix costs 2 a weight and token, its backward pass twice that
(Kaplan et al. 2020, section 2.1: 2N forward, 4N backward). The sums here are theirs, kept apart by what they run over,
with the two products of attention (4 S^2 i) that they leave out, the LM head at target tokens only, and the keys and
values of cross-attention at source tokens. Recomputed activations are one more forward pass of the layers (Chen et al.
2016).

**Activations.** As Korthikanti et al. 2022, section 4, count them for GPT: what each operation keeps for its backward
pass. The layers here are T5's (normalisation and residuals in float32 under autocast, no fused attention), so the
constants are others than their 34 s b h + 5 a s^2 b. With recomputation, each layer's input and one layer in full.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32, BFLOAT16 = 4, 2
"""Bytes of a number."""
ADAMW, MUON = 2, 1
"""Float32 numbers that an optimizer keeps of a parameter."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of an encoder or a decoder, all alike.

    Attributes:
        layers, width, heads: L, d, and the heads of its attention.
        inner: i.
        feed_forward, matrices: f, and how many f x d matrices there are.
    """

    layers: int
    width: int
    heads: int
    inner: int
    feed_forward: int
    matrices: int = 2

    @property
    def layer_weights(self) -> int:
        """Weights of an encoder layer's matrices; a decoder layer has :attr:`attention_weights` more."""
        return self.attention_weights + self.matrices * self.width * self.feed_forward

    @property
    def attention_weights(self) -> int:
        """Weights of the four matrices of one attention."""
        return 4 * self.width * self.inner


@dataclass(frozen=True, slots=True)
class Shape:
    """A model. ``decoder`` is None for an encoder alone, whose ``vocabulary`` is then of no account.

    Attributes:
        parameters: all of them, shared ones once.
        hidden: those of them that are matrices of layers (Muon's, where that is the optimizer).
        vocabulary: width of the logits.
    """

    parameters: int
    vocabulary: int
    encoder: Stack
    decoder: Stack | None = None

    @property
    def hidden(self) -> int:
        """Weights of the layers' matrices."""
        found = self.encoder.layers * self.encoder.layer_weights
        if self.decoder is not None:
            found += self.decoder.layers * (self.decoder.layer_weights + self.decoder.attention_weights)
        return found


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-batch: B examples, padded to S and T tokens, with R valid target tokens in all."""

    examples: int
    source: int
    target: int
    tokens: int


# --- floating-point operations ----------------------------------------------------------------------------------------


def encoder_flops(stack: Stack, tokens: int) -> tuple[int, int]:
    """Forward pass of one sequence: (products with weights, products of attention)."""
    return 2 * stack.layers * tokens * stack.layer_weights, 4 * stack.layers * tokens**2 * stack.inner


def layers_flops(shape: Shape, source: int, target: int) -> int:
    """Forward pass of one example through all layers, without the LM head."""
    total = sum(encoder_flops(shape.encoder, source))
    if shape.decoder is not None:
        own, cross = shape.decoder, shape.decoder.attention_weights // 2
        total += sum(encoder_flops(own, target))
        total += 2 * own.layers * cross * (target + source)  # queries and output there, keys and values here
        total += 4 * own.layers * target * source * own.inner
    return total


def head_flops(shape: Shape, tokens: int) -> int:
    """Forward pass of the LM head at a number of target tokens."""
    return 0 if shape.decoder is None else 2 * tokens * shape.decoder.width * shape.vocabulary


def forward_flops(shape: Shape, micro: Micro) -> int:
    """A teacher's forward pass of a micro-batch; a student's, without its backward pass."""
    return micro.examples * layers_flops(shape, micro.source, micro.target) + head_flops(shape, micro.tokens)


def training_flops(shape: Shape, micro: Micro, recompute: bool) -> int:
    """A student's forward and backward pass of a micro-batch."""
    again = micro.examples * layers_flops(shape, micro.source, micro.target) if recompute else 0
    return 3 * forward_flops(shape, micro) + again


def guiding_flops(encoder: Shape, vocabulary: int, micro: Micro, backwards: float = 1.0) -> float:
    """A frozen encoder's reading of a student's predictions, back to the logits.

    Its weights get no gradient, so a backward pass is one product for each of the forward pass, and two for each of
    attention. The straight-through embedding looks rows up, and goes back by a product with the whole table.

    Args:
        encoder: its shape.
        vocabulary: the student's logits, V.
        micro: of the student.
        backwards: backward passes; a measured step takes one for each term.
    """
    linear, attention = encoder_flops(encoder.encoder, micro.target)
    there = micro.examples * (linear + attention)
    back = micro.examples * (linear + 2 * attention) + 2 * micro.tokens * vocabulary * encoder.encoder.width
    return there + backwards * back


# --- memory, in bytes -------------------------------------------------------------------------------------------------


def optimizer_bytes(shape: Shape, muon: bool) -> int:
    """What AdamW keeps of all parameters; or Muon of the layers' matrices and AdamW of the rest."""
    hidden = shape.hidden if muon else 0
    return FLOAT32 * (MUON * hidden + ADAMW * (shape.parameters - hidden))


def _attention_bytes(stack: Stack, tokens: int, keys: int, number: int, dropout: bool) -> int:
    """What one attention keeps of a sequence, its normalisation and residual with it.

    Args:
        stack: of the layer.
        tokens, keys: that ask, and that are asked; keys may be others, as the decoder asks the encoder.
        number: bytes of a number in a product: under autocast each product has a copy of its own of what enters it.
        dropout: there is some; a mask is as wide as what it masks, as it is on a CPU.
    """
    width, inner = stack.width, stack.inner
    stream = 2 * FLOAT32 * width * tokens + (number * width * tokens if dropout else 0)
    entered = number * width * tokens
    if number != FLOAT32:
        entered += 2 * number * width * keys
    heads = FLOAT32 * inner * (tokens + 2 * keys) + number * inner * tokens
    # The softmax; with dropout its mask, and what is multiplied with the values.
    return stream + entered + heads + stack.heads * tokens * keys * FLOAT32 * (3 if dropout else 1)


def _feed_forward_bytes(stack: Stack, tokens: int, number: int, dropout: bool) -> int:
    """What a feed-forward block keeps of a sequence, its normalisation and residual with it."""
    stream = 2 * FLOAT32 * stack.width + (number * stack.width if dropout else 0)
    gated, cast = stack.matrices == 3, number != FLOAT32
    entered = number * stack.width * (2 if gated and cast else 1)
    # ReLU's result enters the next product, as it is or as a copy. GELU and gate are six more operations' operands.
    kept = 7 + dropout if gated else 2 + dropout if cast else 1 + 2 * dropout
    return tokens * (stream + entered + number * stack.feed_forward * kept)


def _encoder_layer_bytes(stack: Stack, tokens: int, number: int, dropout: bool) -> int:
    attention = _attention_bytes(stack, tokens, tokens, number, dropout)
    return attention + _feed_forward_bytes(stack, tokens, number, dropout)


def _decoder_layer_bytes(stack: Stack, source: int, target: int, number: int, dropout: bool) -> int:
    crossed = _attention_bytes(stack, target, source, number, dropout)
    return _encoder_layer_bytes(stack, target, number, dropout) + crossed


def _gradients_on_the_way(stack: Stack, tokens: int, keys: int) -> int:
    """The widest gradients of a layer's backward pass: of two tensors that follow each other."""
    return 2 * FLOAT32 * max(stack.heads * tokens * keys, stack.feed_forward * tokens)


def activation_bytes(shape: Shape, micro: Micro, *, bf16: bool, dropout: bool, recompute: bool) -> int:
    """What a student's layers keep of a micro-batch for the backward pass, at its highest.

    Args:
        shape: of the student.
        micro: the micro-batch.
        bf16: products in bfloat16 (autocast).
        dropout: there is some.
        recompute: gradient checkpointing.
    """
    number = BFLOAT16 if bf16 else FLOAT32
    source, target, decoder = micro.source, micro.target, shape.decoder
    layers = [(shape.encoder, source, source, _encoder_layer_bytes(shape.encoder, source, number, dropout))]
    if decoder is not None:
        size = _decoder_layer_bytes(decoder, source, target, number, dropout)
        layers.append((decoder, target, max(source, target), size))
    if not recompute:
        return micro.examples * sum(stack.layers * size for stack, _, _, size in layers)
    inputs = sum(stack.layers * FLOAT32 * stack.width * tokens for stack, tokens, _, _ in layers)
    widest = max(size + _gradients_on_the_way(stack, tokens, keys) for stack, tokens, keys, size in layers)
    return micro.examples * (inputs + widest)


def logit_bytes(vocabulary: int, tokens: int, *, auxiliary: bool, live: bool) -> int:
    """Dense tensors [R,V] in float32 at their most.

    The logits and the gradient of focal and jsd; behind a frozen encoder its own gradient and the softmax it is made
    from; of a live teacher its logits, and the two distributions that jsd compares with their mean.
    """
    tensors = 2 + 2 * auxiliary + 3 * live
    return FLOAT32 * vocabulary * tokens * tensors


def reading_bytes(encoder: Shape, micro: Micro, *, bf16: bool) -> int:
    """What a frozen encoder keeps of the predictions of a micro-batch for the way back to them."""
    number, stack = BFLOAT16 if bf16 else FLOAT32, encoder.encoder
    return micro.examples * stack.layers * _encoder_layer_bytes(stack, micro.target, number, False)

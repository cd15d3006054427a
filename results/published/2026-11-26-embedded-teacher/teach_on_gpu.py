"""Trains the embedded teacher's weights further on one GPU: the whole step is one CUDA graph.

    python teach_on_gpu.py PACK.npz BEFORE.safetensors AFTER.safetensors --seconds 105

PACK.npz is what pack.py wrote. T5 as in transformers (same weights, same names), Muon and AdamW as in
distillctl.core.training.optimisation; only that all matrices of one shape are one parameter, so that a step has few
kernels, and that nothing of it waits for Python. The learning rate follows the clock: up over 4 % of the seconds, then
down to 0. Exit code 1: the result is no better on dev than what it started from.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

S, T, D, H, K, E_LAYERS, D_LAYERS = 144, 48, 256, 4, 64, 6, 2
"""Source and target tokens, width, heads, width of a head, layers of encoder and decoder."""
DROPOUT = 0.1
EMBEDDING_SCALE = 4.0
"""Of the token embeddings' learning rate, as in configs/embedded-teacher.yaml."""
SQUARE, IN, OUT = [], [], []
for layer in range(E_LAYERS):
    SQUARE += [f"encoder.block.{layer}.layer.0.SelfAttention.{m}.weight" for m in "qkvo"]
    IN += [f"encoder.block.{layer}.layer.1.DenseReluDense.wi_{i}.weight" for i in (0, 1)]
    OUT += [f"encoder.block.{layer}.layer.1.DenseReluDense.wo.weight"]
for layer in range(D_LAYERS):
    SQUARE += [f"decoder.block.{layer}.layer.0.SelfAttention.{m}.weight" for m in "qkvo"]
    SQUARE += [f"decoder.block.{layer}.layer.1.EncDecAttention.{m}.weight" for m in "qkvo"]
    IN += [f"decoder.block.{layer}.layer.2.DenseReluDense.wi_{i}.weight" for i in (0, 1)]
    OUT += [f"decoder.block.{layer}.layer.2.DenseReluDense.wo.weight"]
GROUPS = (SQUARE, IN, OUT)
"""Names of the matrices of each shape."""
BIAS = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def buckets(queries: int, keys: int, bidirectional: bool, device: torch.device) -> Tensor:
    """T5's relative position buckets, 32 up to a distance of 128 [Q,K] (Raffel et al. 2020)."""
    relative = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
    number, found = 32, torch.zeros_like(relative)
    if bidirectional:
        number //= 2
        found = (relative > 0).long() * number
        relative = relative.abs()
    else:
        relative = -relative.clamp(max=0)
    exact = number // 2
    large = exact + (torch.log(relative.float().clamp(min=1) / exact) / math.log(128 / exact) * (number - exact)).long()
    return (found + torch.where(relative < exact, relative, large.clamp(max=number - 1))).to(device)


class Net:
    """The teacher's T5, its matrices stacked by shape [N,A,B]; all weights in float32, computing in ``precision``."""

    def __init__(self, weights: dict[str, Tensor], device: torch.device, precision: torch.dtype) -> None:
        self.precision, self.device = precision, device
        stacked = {name for group in GROUPS for name in group}
        self.stacks = [torch.stack([weights[n] for n in group]).float().to(device).requires_grad_() for group in GROUPS]
        self.rest = {n: w.float().to(device).clone().requires_grad_() for n, w in weights.items() if n not in stacked}
        self.both, self.back = buckets(S, S, True, device), buckets(T, T, False, device)
        self.causal = torch.full((T, T), -1e9, device=device).triu(1)

    def weights(self) -> dict[str, Tensor]:
        """By transformers' names."""
        out = {n: w.detach() for n, w in self.rest.items()}
        for group, stack in zip(GROUPS, self.stacks, strict=True):
            out |= dict(zip(group, stack.detach().unbind(0), strict=True))
        return out

    def logits(self, source: Tensor, labels: Tensor, training: bool) -> Tensor:
        """[B,S] and [B,T] (-100 at padding) -> [B,T,V]."""
        shared = self.rest["shared.weight"]
        cast: dict[str, Tensor] = {}
        for group, stack in zip(GROUPS, self.stacks, strict=True):
            cast |= dict(zip(group, stack.to(self.precision).unbind(0), strict=True))

        def drop(x: Tensor) -> Tensor:
            return F.dropout(x, DROPOUT, True) if training else x

        def norm(x: Tensor, name: str) -> Tensor:
            return F.rms_norm(x.float(), (D,), self.rest[name], 1e-6).to(self.precision)

        def heads(x: Tensor) -> Tensor:
            return x.view(x.shape[0], x.shape[1], H, K).transpose(1, 2)

        def attention(x: Tensor, memory: Tensor, name: str, bias: Tensor) -> Tensor:
            query, key, value = (
                heads(F.linear(y, cast[f"{name}.{m}.weight"])) for y, m in ((x, "q"), (memory, "k"), (memory, "v"))
            )
            shares = ((query @ key.transpose(2, 3)).float() + bias).softmax(-1).to(self.precision)
            mixed = (shares @ value).transpose(1, 2).reshape(x.shape[0], x.shape[1], D)
            return drop(F.linear(mixed, cast[f"{name}.o.weight"]))

        def feed_forward(x: Tensor, name: str) -> Tensor:
            gate = F.gelu(F.linear(x, cast[f"{name}.wi_0.weight"]), approximate="tanh")
            return drop(F.linear(drop(gate * F.linear(x, cast[f"{name}.wi_1.weight"])), cast[f"{name}.wo.weight"]))

        padding = torch.where(source == 0, -1e9, 0.0)[:, None, None, :]
        bias = self.rest[BIAS.format("encoder")][self.both].permute(2, 0, 1) + padding
        x = drop(F.embedding(source, shared).to(self.precision))
        for i in range(E_LAYERS):
            block = f"encoder.block.{i}.layer"
            y = norm(x, f"{block}.0.layer_norm.weight")
            x = x + attention(y, y, f"{block}.0.SelfAttention", bias)
            x = x + feed_forward(norm(x, f"{block}.1.layer_norm.weight"), f"{block}.1.DenseReluDense")
        memory = drop(norm(x, "encoder.final_layer_norm.weight"))
        begun = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1].clamp(min=0)], 1)
        bias = self.rest[BIAS.format("decoder")][self.back].permute(2, 0, 1) + self.causal
        x = drop(F.embedding(begun, shared).to(self.precision))
        for i in range(D_LAYERS):
            block = f"decoder.block.{i}.layer"
            y = norm(x, f"{block}.0.layer_norm.weight")
            x = x + attention(y, y, f"{block}.0.SelfAttention", bias)
            y = norm(x, f"{block}.1.layer_norm.weight")
            x = x + attention(y, memory, f"{block}.1.EncDecAttention", padding)
            x = x + feed_forward(norm(x, f"{block}.2.layer_norm.weight"), f"{block}.2.DenseReluDense")
        return F.linear(drop(norm(x, "decoder.final_layer_norm.weight")) * D**-0.5, shared.to(self.precision))

    def loss(self, source: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy a target token."""
        logits = self.logits(source, labels, True)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def orthogonal(g: Tensor) -> Tensor:
    """Newton-Schulz of every matrix of [N,A,B], as torch.optim.Muon does it for one."""
    tall = g.shape[1] > g.shape[2]
    x = g.bfloat16().transpose(1, 2) if tall else g.bfloat16()
    x = x / x.float().flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None].bfloat16()
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.transpose(1, 2) if tall else x).float()


class Update:
    """Muon on the stacks, AdamW on the rest; all of it on the device, the learning rate too."""

    def __init__(self, net: Net, decay: float) -> None:
        self.net, self.decay = net, decay
        self.rate, self.count = torch.zeros((), device=net.device), torch.zeros((), device=net.device)
        self.momentum = [torch.zeros_like(s) for s in net.stacks]
        self.m = {n: torch.zeros_like(w) for n, w in net.rest.items()}
        self.v = {n: torch.zeros_like(w) for n, w in net.rest.items()}

    def begin(self) -> None:
        """Forgets what was seen."""
        for tensor in (*self.momentum, *self.m.values(), *self.v.values(), self.count):
            tensor.zero_()

    @torch.no_grad()
    def apply(self) -> None:
        """One step from the gradients, which are clipped to norm 1."""
        net, rate = self.net, self.rate
        every = [*net.stacks, *net.rest.values()]
        total = torch.stack([w.grad.square().sum() for w in every]).sum().sqrt()
        clip = (1.0 / (total + 1e-6)).clamp(max=1.0)
        self.count += 1
        for stack, buffer in zip(net.stacks, self.momentum, strict=True):
            grad = stack.grad * clip
            buffer.lerp_(grad, 0.05)
            update = orthogonal(grad.lerp(buffer, 0.95))
            stack.mul_(1 - rate * self.decay)
            stack.sub_(update * (rate * 0.2 * math.sqrt(max(stack.shape[1:]))))
        first, second = 1 - 0.9**self.count, 1 - 0.999**self.count
        for name, w in net.rest.items():
            grad, m, v = w.grad * clip, self.m[name], self.v[name]
            m.lerp_(grad, 0.1)
            v.lerp_(grad.square(), 0.001)
            own = rate * (EMBEDDING_SCALE if name == "shared.weight" else 1.0)
            if w.ndim == 2:
                w.mul_(1 - own * self.decay)
            w.sub_(own * (m / first) / ((v / second).sqrt() + 1e-8))


class Teaching:
    """The weights, their update, and a step that is one graph on a GPU."""

    def __init__(self, net: Net, decay: float, batch: int) -> None:
        self.net, self.update = net, Update(net, decay)
        self.source = torch.zeros(batch, S, dtype=torch.int64, device=net.device)
        self.labels = torch.zeros(batch, T, dtype=torch.int64, device=net.device)
        self.loss = torch.zeros((), device=net.device)  # a running mean
        self._every = [*net.stacks, *net.rest.values()]
        self._graph = self._captured() if net.device.type == "cuda" else None
        self.update.begin()
        self.loss.zero_()

    def step(self, rate: float) -> None:
        """Learns from ``source`` and ``labels``."""
        self.update.rate.fill_(rate)
        if self._graph is None:
            self._eagerly()
        else:
            self._graph.replay()

    def _eagerly(self) -> None:
        for w in self._every:
            w.grad = None
        self._body()

    def _body(self) -> None:
        loss = self.net.loss(self.source, self.labels)
        loss.backward()
        self.update.apply()
        self.loss.lerp_(loss.detach(), 0.02)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """At a learning rate of 0: nothing moves but the averages."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._eagerly()
        torch.cuda.current_stream().wait_stream(aside)
        for w in self._every:
            w.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._body()
        return graph


@torch.no_grad()
def score(net: Net, source: Tensor, labels: Tensor, size: int = 1024) -> tuple[float, float]:
    """(cross-entropy a token, percentage of which every token is the first choice) of what is held out."""
    nll = tokens = right = 0.0
    for at in range(0, len(source), size):
        x, y = source[at : at + size], labels[at : at + size]
        logits = net.logits(x, y, False).float()
        nll += F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum").item()
        tokens += (y != -100).sum().item()
        right += ((logits.argmax(-1) == y) | (y == -100)).all(1).sum().item()
    return nll / tokens, 100 * right / len(source)


def batches(repeats: np.ndarray, size: int, device: torch.device) -> Iterator[Tensor]:
    """Places of the records of each step, without end; a record comes so many times a round, fractions drawn."""
    generator = np.random.default_rng(19)
    while True:
        times = np.floor(repeats + generator.random(len(repeats))).astype(np.int64)
        order = generator.permutation(np.repeat(np.arange(len(repeats)), times))
        yield from torch.from_numpy(order).to(device).split(size)[: len(order) // size]


def main() -> int:
    """Teaches for the given time; writes the weights in bfloat16 and how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--seconds", type=float, default=105)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--log", type=Path, help="JSON of the scores on dev")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(19)
    net = Net(load_file(options.before), device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    data = np.load(options.pack)
    source, labels, held_source, held_labels = (
        torch.from_numpy(data[name].astype(np.int64)).to(device)
        for name in ("source", "labels", "dev_source", "dev_labels")
    )
    labels[labels == 0] = held_labels[held_labels == 0] = -100
    teaching = Teaching(net, options.decay, options.batch)
    rows: list[dict[str, float]] = []
    started = time.monotonic()

    def tell(step: int) -> float:
        entropy, exact = score(net, held_source, held_labels)
        names = ("step", "examples", "seconds", "loss", "dev_cross_entropy", "dev_exact")
        seconds = time.monotonic() - started
        rows.append(
            dict(zip(names, (step, step * options.batch, seconds, teaching.loss.item(), entropy, exact), strict=True))
        )
        print(json.dumps(rows[-1]), flush=True)
        return exact

    before = tell(0)
    step, told, started = 0, time.monotonic(), time.monotonic()
    for chosen in batches(data["repeats"], options.batch, device):
        progress = (time.monotonic() - started) / options.seconds
        if progress >= 1:
            break
        teaching.source.copy_(source[chosen])
        teaching.labels.copy_(labels[chosen])
        teaching.step(options.rate * (progress / 0.04 if progress < 0.04 else (1 - progress) / 0.96))
        step += 1
        if step % 20 == 0:
            teaching.loss.item()  # waits for the device, so that the clock is its
            if time.monotonic() - told > 10:
                tell(step)
                told = time.monotonic()
    after = tell(step)
    weights = {name: w.to(torch.bfloat16).contiguous().cpu() for name, w in net.weights().items()}
    save_file(weights, options.after, metadata={"format": "pt"})
    if options.log:
        options.log.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if after > before else 1


if __name__ == "__main__":
    raise SystemExit(main())

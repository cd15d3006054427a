"""Every loss again, as a plain Python loop over floats: slow, obvious, written from the formulas alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def softmax(logits: Vector, temperature: float = 1.0) -> list[float]:
    top = max(logits)
    exps = [math.exp((z - top) / temperature) for z in logits]
    return [e / sum(exps) for e in exps]


def focal(
    logits: Sequence[Sequence[Vector]],
    labels: Sequence[Sequence[int]],
    alpha: float,
    gamma: float,
    weights: Sequence[Vector] | None = None,
) -> tuple[float, int]:
    """(sum, valid tokens) of ``-w alpha (1 - q_y)^gamma ln q_y``."""
    total, count = 0.0, 0
    for b, row in enumerate(labels):
        for t, y in enumerate(row):
            if y == -100:
                continue
            q = softmax(logits[b][t])[y]
            w = 1.0 if weights is None else weights[b][t]
            total += -w * alpha * (1 - q) ** gamma * math.log(q)
            count += 1
    return total, count


def kl(p: Vector, m: Vector) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, m, strict=True) if a > 0)


def jsd_of(p: Vector, q: Vector, mu: float = 0.5) -> float:
    m = [mu * a + (1 - mu) * b for a, b in zip(p, q, strict=True)]
    return (mu * kl(p, m) + (1 - mu) * kl(q, m)) / (4 * mu * (1 - mu))


def jsd(
    logits: Sequence[Sequence[Vector]],
    teacher: Sequence[Sequence[Vector]],
    labels: Sequence[Sequence[int]],
    temperature: float,
    gating: bool = False,
    mixture: float = 0.5,
) -> tuple[float, int]:
    """(sum, valid tokens) of ``tau^2 JSD``, each times the teacher's p(gold) when gating."""
    total, count = 0.0, 0
    for b, row in enumerate(labels):
        for t, y in enumerate(row):
            if y == -100:
                continue
            p, q = softmax(teacher[b][t], temperature), softmax(logits[b][t], temperature)
            total += temperature**2 * jsd_of(p, q, mixture) * (p[y] if gating else 1.0)
            count += 1
    return total, count


def jsd_top_k(
    logits: Sequence[Sequence[Vector]],
    ids: Sequence[Sequence[Sequence[int]]],
    kept: Sequence[Sequence[Vector]],
    log_sum_exp: Sequence[Vector],
    tail: Sequence[Vector],
    labels: Sequence[Sequence[int]],
    temperature: float,
    gating: bool = False,
    mixture: float = 0.5,
) -> tuple[float, int]:
    """:func:`jsd` over the kept ids and one atom of all others; ``kept`` are the teacher's logits of the ids."""
    total, count = 0.0, 0
    for b, row in enumerate(labels):
        for t, y in enumerate(row):
            if y == -100:
                continue
            student = softmax(logits[b][t], temperature)
            q = [student[i] for i in ids[b][t]]
            p = [math.exp(z / temperature - log_sum_exp[b][t]) for z in kept[b][t]]
            gold = p[list(ids[b][t]).index(y)]
            if len(q) < len(student):
                q.append(sum(s for i, s in enumerate(student) if i not in ids[b][t]))
                p.append(math.exp(tail[b][t]))
            total += temperature**2 * jsd_of(p, q, mixture) * (gold if gating else 1.0)
            count += 1
    return total, count


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Vector) -> list[float]:
    norm = math.sqrt(dot(a, a))
    return [x / norm for x in a]


def semantic(
    states: Sequence[Sequence[Vector]],
    gold: Sequence[Sequence[Vector]],
    mean: Vector,
    labels: Sequence[Sequence[int]],
) -> tuple[float, int]:
    """(sum, examples) of the mean over valid positions of ``1 - cos`` of centred states."""
    total, count = 0.0, 0
    for b, row in enumerate(labels):
        distances = []
        for t, y in enumerate(row):
            if y != -100:
                h = unit([x - c for x, c in zip(states[b][t], mean, strict=True)])
                g = unit([x - c for x, c in zip(gold[b][t], mean, strict=True)])
                distances.append(1 - dot(h, g))
        if distances:
            total += sum(distances) / len(distances)
            count += 1
    return total, count


def pooled(states: Sequence[Vector], mean: Vector, labels: Sequence[int]) -> list[float]:
    """Masked-mean, centred, unit-norm vector of one example."""
    valid = [state for state, y in zip(states, labels, strict=True) if y != -100]
    return unit([sum(column) / len(valid) - c for column, c in zip(zip(*valid, strict=True), mean, strict=True)])


def contrastive(
    predictions: Sequence[Vector],
    golds: Sequence[Vector],
    rows: Sequence[int],
    keys: Sequence[int],
    temperature: float,
    direction: str,
) -> tuple[float, int]:
    """(sum, examples with a negative) of InfoNCE over the step's golds."""
    total, count = 0.0, 0
    for u, i in zip(predictions, rows, strict=True):
        negatives = [golds[j] for j in range(len(golds)) if keys[j] != keys[i]]
        if not negatives:
            continue
        pair = math.exp(dot(u, golds[i]) / temperature)
        terms = []
        for query in [golds[i]] if direction == "triplet" else [golds[i], u]:
            others = sum(math.exp(dot(query, g) / temperature) for g in negatives)
            terms.append(-math.log(pair / (pair + others)))
        total += sum(terms) / len(terms)
        count += 1
    return total, count

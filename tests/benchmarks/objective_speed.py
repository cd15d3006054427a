"""What focal + jsd cost against the LM head's matrix product, and against the same losses in eager PyTorch.

The arms take the same logits in turns (A B B A ...), so that a drifting machine cancels; medians of ratios within a
round, with their range. Peak memory is the high-water mark of resident memory (VmHWM, set back after the inputs were
made) beyond what was resident then, each arm in a fresh process; so this runs on Linux. Run by hand on an idle machine:

    OMP_NUM_THREADS=1 python tests/benchmarks/objective_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from distillctl.core.losses.focal import FocalTerm
from distillctl.core.losses.jsd import JsdTerm
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.term import LossBatch, Places, StudentOutputs
from distillctl.core.teacher.rows import Layout

Run = Callable[[], object]


@dataclass(frozen=True)
class Inputs:
    """One micro-batch of target tokens without padding."""

    hidden: Tensor
    head: Tensor
    logits: Tensor
    teacher_logits: Tensor
    gold: Tensor
    cached: LossBatch

    @classmethod
    def drawn(cls, rows: int, vocab: int, k: int, width: int) -> Inputs:
        torch.manual_seed(0)
        hidden, head = torch.randn(rows, width), torch.randn(vocab, width) * 3 / width**0.5
        logits = hidden @ head.T
        teacher = logits + torch.randn(rows, vocab)
        labels = torch.randint(vocab, (8, rows // 8))
        flat = Layout(k, vocab, 1.0).top(teacher, labels.flatten())
        top = replace(
            flat,
            **{n: getattr(flat, n).unflatten(0, labels.shape) for n in ("ids", "logits", "log_sum_exp", "tail")},
        )
        batch = LossBatch(labels, teacher_top=top, targets=Places.of(labels))
        return cls(hidden, head, logits, teacher, labels.flatten(), batch)

    @property
    def live(self) -> LossBatch:
        return replace(self.cached, teacher_top=None, teacher_logits=self.teacher_logits)


def head_alone(inputs: Inputs) -> Run:
    """The LM head's product, forward and backward."""
    hidden, head = (t.clone().requires_grad_(True) for t in (inputs.hidden, inputs.head))
    upstream = torch.full_like(inputs.logits, 1e-3)

    def run() -> None:
        torch.autograd.grad(functional.linear(hidden, head), [hidden, head], upstream)

    return run


def head_and_objective(inputs: Inputs) -> Run:
    """The same, with the gradient of focal + jsd instead of a given one."""
    hidden, head = (t.clone().requires_grad_(True) for t in (inputs.hidden, inputs.head))

    def run() -> None:
        logits = functional.linear(hidden, head)
        torch.autograd.grad(logits, [hidden, head], objective_gradient(logits, inputs.cached))

    return run


def objective_gradient(logits: Tensor, batch: LossBatch) -> Tensor:
    """What the training loop does with a micro-batch's logits."""
    weights = {"focal": LinearSchedule.constant(0.3), "jsd": LinearSchedule.constant(0.7)}
    objective = Objective([FocalTerm(), JsdTerm()], weights)
    objective.begin_step(objective.counts(batch), 0.5, separate=False)
    return objective.logit_gradient(StudentOutputs(logits, None, batch.places), batch)


def fused(inputs: Inputs) -> Run:
    """focal + jsd of a cached teacher: forward and backward."""
    return lambda: objective_gradient(inputs.logits, inputs.cached)


def fused_dense(inputs: Inputs) -> Run:
    """focal + jsd of a live teacher's dense logits."""
    return lambda: objective_gradient(inputs.logits, inputs.live)


def eager(inputs: Inputs) -> Run:
    """focal + jsd as one writes them with F.log_softmax and F.kl_div, teacher logits given."""
    return lambda: eager_gradient(inputs.logits, inputs.teacher_logits, inputs.gold)


def eager_gradient(logits: Tensor, teacher_logits: Tensor, gold: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_(True)
    log_q, log_p = functional.log_softmax(leaf, dim=-1), functional.log_softmax(teacher_logits, dim=-1)
    log_gold = log_q.gather(-1, gold.unsqueeze(-1)).squeeze(-1)
    focal = (-0.25 * (1 - log_gold.exp()) ** 2 * log_gold).mean()
    log_m = (0.5 * (log_p.exp() + log_q.exp())).log()
    jsd = 0.5 * sum(functional.kl_div(log_m, side, log_target=True, reduction="batchmean") for side in (log_p, log_q))
    (gradient,) = torch.autograd.grad(0.3 * focal + 0.7 * jsd, leaf)
    return gradient


def compiled(inputs: Inputs) -> Run:
    """The eager losses through torch.compile: what it would make of them without the fused function."""
    step = torch.compile(eager_gradient)
    return lambda: step(inputs.logits, inputs.teacher_logits, inputs.gold)


ARMS: dict[str, Callable[[Inputs], Run]] = {
    "head alone": head_alone,
    "head + objective": head_and_objective,
    "fused": fused,
    "fused, dense teacher": fused_dense,
    "eager": eager,
    "eager, torch.compile": compiled,
}


def interleaved(names: list[str], inputs: Inputs, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round."""
    runs = {name: ARMS[name](inputs) for name in names}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_mib(name: str, sizes: list[int]) -> float:
    """High-water mark of a fresh process that runs an arm twice, beyond its inputs."""
    command = [sys.executable, __file__, "--peak-of", name, "--sizes", *map(str, sizes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_peak(name: str, inputs: Inputs) -> None:
    run = ARMS[name](inputs)
    Path("/proc/self/clear_refs").write_text("5")  # the mark is set back to what is resident
    before = high_water_kib()
    run()
    run()
    print((high_water_kib() - before) / 1024)


def high_water_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def ratio_row(title: str, seconds: dict[str, list[float]], above: str, below: str, target: str) -> list[str]:
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    interval = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [title, f"{statistics.median(ratios):.2f}", interval, target]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs=4, default=[512, 32_100, 64, 768], help="rows, V, k, hidden")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compile", action="store_true", help="the eager losses through torch.compile as well")
    parser.add_argument("--peak-of", choices=list(ARMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    inputs = Inputs.drawn(*arguments.sizes)
    if arguments.peak_of:
        print_own_peak(arguments.peak_of, inputs)
        return
    head = interleaved(["head alone", "head + objective"], inputs, arguments.rounds)
    names = ["fused", "fused, dense teacher", "eager", *(["eager, torch.compile"] if arguments.compile else [])]
    losses = interleaved(names, inputs, arguments.rounds)
    peaks = {name: peak_mib(name, arguments.sizes) for name in names}
    table = Table(
        "ratio", "median", "range", "to reach", title="{} rows, V = {}, k = {}, hidden {}".format(*arguments.sizes)
    )
    table.add_row(*ratio_row("head + objective / head alone", head, "head + objective", "head alone", "<= 1.5"))
    for name in names:
        if name != "eager":
            goal = "<= 0.35" if name == "fused" else "-"
            table.add_row(*ratio_row(f"{name} / eager, time", losses, name, "eager", goal))
            table.add_row(f"{name} / eager, peak memory", f"{peaks[name] / peaks['eager']:.2f}", "-", goal)
    for name, taken in {**head, **losses}.items():
        memory = f", {peaks[name]:.0f} MiB" if name in peaks else ""
        table.add_row(name, f"{1e3 * statistics.median(taken):.0f} ms{memory}", "-", "-")
    Console().print(table)
    print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, torch {torch.__version__}")


if __name__ == "__main__":
    main()

"""Several processes on this machine, as a launcher starts them; ``python -m tests.together`` is one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import typer

from distillctl.exit_codes import errors_as_exit_codes

SECONDS = 900
"""No process of a test should take longer, on a busy machine: one that does hangs."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(command: Sequence[str], count: int = 2, environment: Mapping[str, str] | None = None) -> list[Any]:
    """``python command...`` as ``count`` processes that find each other."""
    port = str(free_port())
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    common |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(count), **(environment or {})}
    if not torch.cuda.is_available():
        common.setdefault("DS_ACCELERATOR", "cpu")  # unasked, DeepSpeed says on stdout that it found nothing better
    root = Path(__file__).resolve().parents[1]
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def end(processes: Sequence[Any]) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each, in order. Raises TimeoutExpired where one hangs."""
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def run_jobs(
    folder: Path, jobs: Sequence[Mapping[str, Any]], count: int = 2, environment: Mapping[str, str] | None = None
) -> list[tuple[int, str, str]]:
    """Trainings one after the other, all in the same processes; see :func:`main` for a job."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(list(jobs)))
    return end(start(["-m", "tests.together", str(file)], count, environment))


def main(file: str) -> int:
    """The jobs of a JSON file, in order.

    Each has ``settings``, and may have ``options`` of ``distil``, ``capture`` (only the teacher cache is made, in small
    shards), ``fault`` [process, step or batch, kind] where one of them fails.
    """
    try:
        with errors_as_exit_codes(debug=False, several=True):
            from distillctl.core.config import load_config
            from distillctl.core.distillation import distil
            from distillctl.core.progress import SilentReporter

            for job in json.loads(Path(file).read_text()):
                if "fault" in job:
                    _plant(*job["fault"])
                config = load_config(settings=job["settings"])
                if job.get("capture"):
                    _capture(config, job.get("fault"))
                else:
                    distil(config, SilentReporter(), **job.get("options", {}))
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def _plant(rank: int, step: int, kind: str) -> None:
    """One process fails at the beginning of a step (from 0): the others are in the middle of theirs."""
    from distillctl.core.training.stepper import Stepper

    if kind in ("gradient", "loss"):
        _spoil(step, kind)
        return
    original = Stepper._begin

    def begin(self: Stepper, inputs: Any, number: int, separate: bool) -> int:
        if number == step and self.accelerator.process_index == rank:
            _fail(kind)
        return original(self, inputs, number, separate)

    Stepper._begin = begin  # type: ignore[method-assign]


def _spoil(step: int, kind: str) -> None:
    """In every process, a step's (from 0) gradient is not a number, or only what is said of its loss."""
    from distillctl.core.errors import NotFiniteError
    from distillctl.core.training.stepper import Stepper

    name = "_update" if kind == "gradient" else "_end_step"
    original = getattr(Stepper, name)

    def spoilt(self: Stepper, number: int) -> Any:
        if number == step and kind == "loss":
            raise NotFiniteError("a loss is not a number")
        return original(self, number)

    def take(self: Stepper, number: int) -> Any:
        under_way[:] = [number]
        return taken(self, number)

    def logits(self: Stepper, model: Any, micro: Any) -> Any:
        found = forward(self, model, micro)
        if under_way == [step] and found.requires_grad:
            found.register_hook(lambda gradient: gradient * float("nan"))
        return found

    forward, taken = Stepper._logits, Stepper.take
    under_way: list[int] = []
    if kind == "gradient":
        Stepper._logits, Stepper.take = logits, take  # type: ignore[method-assign]
    setattr(Stepper, name, spoilt)


def _fail(kind: str) -> None:
    from distillctl.core.errors import DataError

    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "interrupted":
        signal.raise_signal(signal.SIGINT)
    if kind == "bad data":
        raise DataError("a shard of the cache is gone")


def _capture(config: Any, fault: Sequence[Any] | None) -> None:
    """Captures in batches of 6 and shards of two or three of them; the kill comes at a batch of one process."""
    from distillctl.core import processes
    from distillctl.core.materials import prepare_caches, read_corpus
    from distillctl.core.progress import SilentReporter
    from distillctl.core.store import writer
    from distillctl.core.teacher import capture

    processes.SILENCE = 3.0  # that of a test
    writer.SHARD_BYTES = 8000  # type: ignore[misc]
    batches = capture.batches

    def few(examples: Sequence[Any], width: int) -> Any:
        for number, batch in enumerate(batches(examples, width, most=6)):
            if fault is not None and [processes.current().rank, number] == fault[:2]:
                _fail(fault[2])
            yield batch

    capture.batches = few  # type: ignore[assignment]
    reporter = SilentReporter()
    prepare_caches(config, read_corpus(config, reporter), reporter, teacher=True, capture=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Checkpoints: everything a run needs to go on, in safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distillctl.core.errors import DataError, RunError
from distillctl.core.models.loading import save_model
from distillctl.core.run_dir import RunDirectory

STATE = "trainer.json"
STUDENT = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"


@dataclass(frozen=True)
class TrainerState:
    """Where a run stands, besides its tensors. ``step`` optimizer steps are done."""

    step: int
    target_tokens: int
    config_fingerprint: str
    data_fingerprint: str
    objective: dict[str, Any]
    dev_f1: dict[str, float] = field(default_factory=dict)  # step (as text, JSON has no other keys) -> F1
    sha256: dict[str, str] = field(default_factory=dict)  # of the tensor files: a flipped bit would load silently
    processes: int = 1  # they decide how many examples a step has

    @property
    def best_step(self) -> int | None:
        """The step with the highest dev F1, the earliest of equals."""
        if not self.dev_f1:
            return None
        return int(max(self.dev_f1, key=lambda step: (self.dev_f1[step], -int(step))))


def save_checkpoint(
    run: RunDirectory,
    state: TrainerState,
    student: Any,
    tokenizer: Any,
    optimizers: list[torch.optim.Optimizer],
    config: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes ``checkpoints/step-N`` under another name and renames it; then deletes what ``keep`` allows no more."""
    target = run.checkpoint(state.step)
    temporary = run.folder("checkpoints", f".step-{state.step}.tmp")
    try:
        shutil.rmtree(temporary)
        temporary.mkdir()
        save_model(student, tokenizer, temporary)
        save_file(optimizer_tensors(optimizers), temporary / OPTIMIZER)
        save_file({"torch": torch.get_rng_state()}, temporary / RANDOM)
        (temporary / "run_config.json").write_text(json.dumps(config), encoding="utf-8")
        # The state goes last: a directory without it is not a checkpoint.
        sealed = replace(state, sha256={name: _seal(temporary / name) for name in (STUDENT, OPTIMIZER, RANDOM)})
        (temporary / STATE).write_text(json.dumps(asdict(sealed), indent=1), encoding="utf-8")
        _seal(temporary / STATE)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{target}: the checkpoint cannot be written: {error}. Free space and --resume") from error
    _delete_surplus(run, state, keep)
    return target


def _seal(file: Path) -> str:
    """Puts a written file on disk for good and returns its SHA-256 (hex)."""
    with file.open("rb+") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        os.fsync(opened.fileno())
    return digest


def _delete_surplus(run: RunDirectory, state: TrainerState, keep: int) -> None:
    steps = list(run.checkpoints())
    kept = {*steps[-keep:], state.step, state.best_step}
    unfinished = run.folder("checkpoints").glob(".step-*.tmp")  # of a run that was killed while it wrote one
    for path in [*(run.checkpoint(step) for step in steps if step not in kept), *unfinished]:
        shutil.rmtree(path)


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: ``<optimizer>.<parameter>.<name>``."""
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"{number}.{index}.{name}"] = torch.as_tensor(value).contiguous()
    return tensors


def load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Puts saved tensors back into optimizers of the same parameters."""
    for number, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk."""

    path: Path
    state: TrainerState
    student: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    random: Tensor


def latest_checkpoint(run: RunDirectory) -> Checkpoint | None:
    """The newest complete checkpoint of a run; None when there is none yet."""
    complete = [path for path in run.checkpoints().values() if (path / STATE).is_file()]
    return read_checkpoint(complete[-1]) if complete else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises DataError naming the damaged file."""
    try:
        state = TrainerState(**json.loads((path / STATE).read_text(encoding="utf-8")))
        for name in (STUDENT, OPTIMIZER, RANDOM):
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != state.sha256[name]:
                    raise ValueError(f"{name} is not what was written")
        return Checkpoint(
            path,
            state,
            load_file(path / STUDENT),
            load_file(path / OPTIMIZER),
            load_file(path / RANDOM)["torch"],
        )
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{path}: damaged checkpoint ({error}). Delete that directory and --resume from the one before"
        ) from error


def check_resumable(checkpoint: Checkpoint, config_fingerprint: str, data_fingerprint: str, processes: int = 1) -> None:
    """Raise DataError if a checkpoint was made with other settings, training records or number of processes."""
    saved = checkpoint.state
    if saved.processes != processes:
        raise DataError(
            f"{checkpoint.path}: made by {saved.processes} processes, here are {processes}: steps would have other "
            "examples. Resume with as many as before"
        )
    if saved.config_fingerprint != config_fingerprint:
        raise DataError(f"{checkpoint.path}: made with another configuration; use the run's own config.yaml")
    if saved.data_fingerprint != data_fingerprint:
        raise DataError(
            f"{checkpoint.path}: made from other data ({saved.data_fingerprint[:12]}, now {data_fingerprint[:12]}): "
            "package versions or the data file changed"
        )


def load_student(student: nn.Module, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's weights into the student. Raises DataError where they are not all of its weights."""
    found = student.load_state_dict(checkpoint.student, strict=False)
    # Tied weights are stored once: what is missing shares its memory with something that is there.
    weights = student.state_dict()
    loaded = {weights[name].data_ptr() for name in checkpoint.student if name in weights}
    strange = [*found.unexpected_keys, *(n for n in found.missing_keys if weights[n].data_ptr() not in loaded)]
    if strange:
        raise DataError(f"{checkpoint.path}: its weights are not this student's ({strange[0]}, ...)")

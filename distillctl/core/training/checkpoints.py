"""Checkpoints: everything a run needs to go on, in safetensors and JSON.

    model.safetensors, config.json, tokenizer...   the student, as transformers loads it
    optimizer.safetensors                          the optimizers' moments
    random.safetensors, random.json                random generators of torch; of Python and numpy
    trainer.json                                   where the run stands (TrainerState)
    run_config.json                                the resolved configuration
    manifest.json                                  size and SHA-256 of each of these; written last

The order of the data, dropout in each process and the schedules follow from the seed and the step (and the process's
number), so none is stored, and one process's generators are enough.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distillctl.core.errors import DataError, DistillError, RunError, UsageError
from distillctl.core.models.loading import save_model
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.manifest import check_sealed, is_sealed, seal
from distillctl.core.store.files import read_json, sync_directory, to_json
from distillctl.core.training.layout import laid_out_like, whole_tensor
from distillctl.core.training.random_state import RandomState, random_state

STATE = "trainer.json"
CONFIG = "run_config.json"
STUDENT = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random"


@dataclass(frozen=True)
class TrainerState:
    """Where a run stands, besides its tensors. ``step`` optimizer steps are done.

    Attributes:
        step, target_tokens: done so far.
        data_fingerprint: of the training records.
        objective: scales, running norms and corrections of the objective.
        dev_f1: step (as text, JSON has no other keys) -> F1 on dev.
        skipped: the steps that a NaN or an infinity made leave the student as it was, from 1.
        processes: how many train together: they decide how many examples a step has.
    """

    step: int
    target_tokens: int
    data_fingerprint: str
    objective: dict[str, Any]
    dev_f1: dict[str, float] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    processes: int = 1

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
    moments: Mapping[str, Tensor],
    config: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes ``checkpoints/step-N`` under another name and renames it; then deletes what ``keep`` allows no more.

    ``moments`` are the :func:`optimizer_tensors`.

    Raises RunError where it cannot be written; the checkpoints that there were stay as they are.
    """
    target = run.checkpoint(state.step)
    temporary = run.folder("checkpoints") / _unfinished(state.step)
    try:
        _delete_unfinished(run)  # of a process that was killed while it wrote or deleted one
        temporary.mkdir()
        save_model(student, tokenizer, temporary)
        save_file(dict(moments), temporary / OPTIMIZER)
        generators = random_state()
        save_file(generators.tensors, temporary / f"{RANDOM}.safetensors")
        for name, values in ((RANDOM + ".json", generators.plain), (CONFIG, dict(config)), (STATE, asdict(state))):
            (temporary / name).write_text(to_json(values, indent=1), encoding="utf-8")
        seal(temporary)
        _put_aside(target)
        temporary.rename(target)
        sync_directory(target.parent)
        _delete_surplus(run, state, keep)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{target}: the checkpoint cannot be written: {error}. Free space and --resume") from error
    return target


def _unfinished(step: int | str) -> str:
    """Name of a checkpoint that is being written or deleted: whoever finds one may delete it."""
    return f".step-{step}.tmp"


def _put_aside(path: Path) -> None:
    """Takes a checkpoint out of sight at once, so that a kill on the way leaves a whole one or none."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        path.rename(path.with_name(_unfinished(f"{path.name.removeprefix('step-')}-old")))


def _delete_surplus(run: RunDirectory, state: TrainerState, keep: int) -> None:
    whole = [step for step, path in run.checkpoints().items() if is_sealed(path)]
    kept = {*whole[-keep:], state.step, state.best_step}
    for step, path in run.checkpoints().items():
        if step not in kept:
            _put_aside(path)
    _delete_unfinished(run)


def _delete_unfinished(run: RunDirectory) -> None:
    for path in run.folder("checkpoints").glob(_unfinished("*")):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def optimizer_tensors(optimizers: list[torch.optim.Optimizer], keep: bool = True) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, in one piece: ``<optimizer>.<parameter>.<name>``.

    Of a student in shards all processes put it together; only one that is to ``keep`` it needs the memory.
    """
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                whole = whole_tensor(torch.as_tensor(value))
                if keep:
                    tensors[f"{number}.{index}.{name}"] = whole.contiguous()
    return tensors


def load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Puts saved tensors back into optimizers of the same parameters, whole or in shards."""
    for number, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(index), {})[name] = laid_out_like(parameters[int(index)], tensor)
        optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk."""

    path: Path
    state: TrainerState
    config: dict[str, Any]
    student: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    random: RandomState


def latest_checkpoint(run: RunDirectory) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None when there is none yet.

    Raises DataError for a damaged one, naming it and what can be gone on from instead.
    """
    whole = [path for path in run.checkpoints().values() if is_sealed(path)]
    if not whole:
        return None
    try:
        return read_checkpoint(whole[-1])
    except DataError as error:
        before = f"goes on from {whole[-2].name}" if len(whole) > 1 else "begins anew"
        raise DataError(f"{error}. Delete that directory, and --resume {before}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, every file of it checked before.

    Raises DataError naming the damaged file, UsageError for one that the system does not let be read.
    """
    try:
        check_sealed(path)
        return Checkpoint(
            path,
            _state(read_json(path / STATE)),
            read_json(path / CONFIG),
            load_file(path / STUDENT),
            load_file(path / OPTIMIZER),
            RandomState(load_file(path / f"{RANDOM}.safetensors"), read_json(path / f"{RANDOM}.json")),
        )
    except (DistillError, OSError, ValueError, TypeError, SafetensorError) as error:
        cause = error.__cause__ if isinstance(error, DistillError) else error
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise UsageError(f"{path}: cannot be read: {cause.strerror or cause}") from error
        reason = str(error).removeprefix(f"{path}/")
        raise DataError(f"{path}: damaged checkpoint ({reason})") from error


def _state(values: Mapping[str, Any]) -> TrainerState:
    state = TrainerState(**values)
    whole = (state.step, state.target_tokens, state.processes, *state.skipped)
    if not all(isinstance(number, int) and number >= 0 for number in whole) or not isinstance(state.objective, dict):
        raise ValueError(f"{STATE} should hold counts and the objective's state")
    _ = state.best_step  # which reads the scores
    return state


def load_student(student: nn.Module, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's weights into the student. Raises DataError where they are not all of its weights."""
    found = student.load_state_dict(checkpoint.student, strict=False)
    # Tied weights are stored once: what is missing shares its memory with something that is there.
    weights = student.state_dict()
    loaded = {weights[name].data_ptr() for name in checkpoint.student if name in weights}
    strange = [*found.unexpected_keys, *(n for n in found.missing_keys if weights[n].data_ptr() not in loaded)]
    if strange:
        raise DataError(f"{checkpoint.path}: its weights are not this student's ({strange[0]}, ...)")

"""A step that was not finite: what it was is written down, and it is refused or skipped, never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import save_file

from distillctl.core.data.encoding import Example
from distillctl.core.errors import NotFiniteError, RunError
from distillctl.core.run_dir import RunDirectory, write_atomically
from distillctl.core.store.files import to_json
from distillctl.core.training.batches import MicroBatch

MOST_IN_A_ROW = 10
"""So many steps skipped one after the other are no bad batch but a bad student: the run stops after all."""
_SHOWN = 8


@dataclass(frozen=True)
class BadStep:
    """A step with a NaN or an infinity: its number from 1, what was found, and all of its examples, with their ids."""

    step: int
    reason: str
    examples: Sequence[Example]
    batch: MicroBatch

    @property
    def ids(self) -> list[str]:
        """Ids of the records, in the order of the batch."""
        return [example.id for example in self.examples]


def write_diagnostics(run: RunDirectory, bad: BadStep) -> str:
    """Saves the token ids of the batch and what was found under ``diagnostics/``; returns the file's name in the run.

    Raises RunError where it cannot be written.
    """
    folder = run.folder("diagnostics")
    name = f"step-{bad.step}"
    about = {"step": bad.step, "found": bad.reason, "sample_ids": bad.ids, "batch": f"{name}.safetensors"}
    tensors = {
        "input_ids": bad.batch.input_ids.cpu(),
        "attention_mask": bad.batch.attention_mask.cpu(),
        "labels": bad.batch.labels.cpu(),
    }
    try:
        file = folder / f"{name}.safetensors"
        file.unlink(missing_ok=True)  # a link there is not followed
        save_file(tensors, file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{bad.reason}. And its batch cannot be saved in {folder}: {error}") from error
    write_atomically(folder / f"{name}.json", to_json(about) + "\n")
    return f"diagnostics/{name}.json"


def stop(bad: BadStep, saved: str, way_on: str) -> NotFiniteError:
    """The error that ends a run at a bad step: what and where, then the samples, and how to go on."""
    more = f" and {len(bad.ids) - _SHOWN} more" if len(bad.ids) > _SHOWN else ""
    return NotFiniteError(
        f"{bad.reason}\nSamples {', '.join(bad.ids[:_SHOWN])}{more}; the batch is in {saved}. {way_on}"
    )


def way_on(on_nan: str, resumes: bool) -> str:
    """What to do after such a stop: by what ``training.on_nan`` was, and whether the command can go on with a run."""
    if on_nan == "skip":
        found = f"{MOST_IN_A_ROW} steps in a row were not finite, and as many would be again"
        return f"{found}: lower training.learning_rate, or set training.bf16=false, in a new run"
    if not resumes:
        return "A new run with --set training.on_nan=skip passes over such steps"
    return "--resume --on-nan skip goes on without it"


def too_many(skipped: Sequence[int]) -> bool:
    """Whether the last steps that were skipped (ascending) are so many in a row that going on makes no sense."""
    last = list(skipped[-MOST_IN_A_ROW:])
    return len(last) == MOST_IN_A_ROW and last[-1] - last[0] == MOST_IN_A_ROW - 1

"""The only training loop: steps from first to last, what is scored, saved and logged on the way, and how it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from distillctl.core.errors import NotFiniteError, RunError
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import RunDirectory, StepLog
from distillctl.core.run_dir.step_log import SilentLog
from distillctl.core.training.checkpoints import (
    Checkpoint,
    TrainerState,
    load_optimizers,
    load_student,
    optimizer_tensors,
    save_checkpoint,
)
from distillctl.core.training.diagnostics import BadStep, stop, too_many, way_on, write_diagnostics
from distillctl.core.training.interrupts import InterruptFlag
from distillctl.core.training.random_state import restore_random_state
from distillctl.core.training.resuming import check_same_processes, check_same_run
from distillctl.core.training.step_row import Row, progress_note, rebalance_note
from distillctl.core.training.stepper import Stepper


@dataclass(frozen=True)
class TrainingResult:
    """What a finished or interrupted training leaves."""

    steps: int
    interrupted: bool
    dev_f1: dict[str, float]
    gate_norms: dict[str, float]
    terminated: bool = False  # interrupted by SIGTERM


class Trainer:
    """Trains one student, from the first step to the last or from a checkpoint on.

    Args:
        stepper: takes the steps.
        tokenizer: the student's, saved beside its weights.
        run: where the log and the checkpoints go.
        data_fingerprint: names the training records; a checkpoint of other data is refused.
        score_dev: F1 (points) of a model on the dev records; None scores nothing.
        processes: that train together; the main one writes the run's files.
        resumes: whether the command that this serves can go on with a run; what to do after an error hangs on it.
    """

    def __init__(
        self,
        stepper: Stepper,
        tokenizer: Any,
        run: RunDirectory,
        data_fingerprint: str,
        score_dev: Callable[[Any], float] | None = None,
        processes: Processes = ALONE,
        resumes: bool = True,
    ) -> None:
        self.stepper, self.config, self.plan = stepper, stepper.config, stepper.plan
        self.tokenizer, self.run = tokenizer, run
        self.data_fingerprint = data_fingerprint
        self.score_dev = score_dev if self.config.evaluation.on_epoch_end else None
        self.processes, self.resumes = processes, resumes
        self.state = TrainerState(0, 0, data_fingerprint, {}, processes=stepper.accelerator.num_processes)

    def train(self, reporter: Reporter, checkpoint: Checkpoint | None = None) -> TrainingResult:
        """Runs to the end, or to the first Ctrl-C (or SIGTERM) after the step under way; saves and scores on the way.

        Raises RunError when a term is silent (before step 1), or a loss or gradient is not finite.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        first = self.state.step
        gate_norms = self._pass_gate_or_stop() if checkpoint is None else {}
        self.stepper.spread()
        log = self._open_log(gate_norms, after=first if checkpoint else None)
        with log, InterruptFlag() as interrupt, reporter.task("training", self.plan.steps) as task:
            if self.score_dev is not None and self._ends_epoch(first) and str(first) not in self.state.dev_f1:
                self._end_epoch(log, reporter)  # it was trained to its end, and what was to score it failed
                raised, terminated = self._anywhere(interrupt.raised, interrupt.terminated)
                if raised:
                    return TrainingResult(first, True, self.state.dev_f1, gate_norms, terminated)
            for number in range(first, self.plan.steps):
                row = self._step_or_skip(number, log, reporter)
                if row is not None:
                    for name, ratio in self.stepper.rebalanced.items():
                        reporter.note(rebalance_note(number + 1, name, ratio, row[f"scale_{name}"]))
                    task.update(number + 1, note=progress_note(row))
                ends_epoch = self._ends_epoch(number + 1)
                if ends_epoch:
                    self._end_epoch(log, reporter)
                # After what may take long: who was interrupted meanwhile is heard too.
                raised, terminated = self._anywhere(interrupt.raised, interrupt.terminated)
                if not ends_epoch and (raised or self._saves_after(number)):
                    self._save(log)
                if raised:
                    return TrainingResult(number + 1, True, self.state.dev_f1, gate_norms, terminated)
        return TrainingResult(self.plan.steps, False, self.state.dev_f1, gate_norms)

    def whole_student(self) -> AbstractContextManager[Any]:
        """The student as it is now, to be saved or called by the main process alone. All processes meet for it."""
        return self.stepper.whole_student()

    def _pass_gate_or_stop(self) -> dict[str, float]:
        try:
            return self.stepper.pass_gate()
        except NotFiniteError as error:
            bad = self._bad_step(0, error)  # in this process alone, it may be: none waits for another
            raise stop(bad, write_diagnostics(self.run, bad), "Nothing was trained yet") from error

    def _step_or_skip(self, number: int, log: StepLog | SilentLog, reporter: Reporter) -> Row | None:
        """A step, and its row; None for one that was not finite and is passed over, as ``training.on_nan`` asks for.

        What is not finite is found in sums over all processes, so all of them are here or none is.
        """
        try:
            row = self.stepper.step(number, log)
        except NotFiniteError as error:
            self.stepper.drop_gradients()
            bad = self._bad_step(number, error)
            saved = self.processes.share(partial(write_diagnostics, self.run, bad))
            skipped = [*self.state.skipped, number + 1]
            if self.config.training.on_nan == "stop" or too_many(skipped):
                raise stop(bad, saved, way_on(self.config.training.on_nan, self.resumes)) from error
            self.state = replace(self.state, step=number + 1, skipped=skipped)
            if self.processes.is_main:  # at once: whatever becomes of the run, this is not forgotten
                self.run.note(training={"skipped_steps": skipped})
            reporter.note(f"skipped: {error} The batch is in {saved}")
            return None
        self.state = replace(self.state, step=number + 1, target_tokens=self.stepper.target_tokens)
        return row

    def _bad_step(self, number: int, error: NotFiniteError) -> BadStep:
        """What is known of a step that was not finite."""
        return BadStep(number + 1, str(error), *self.stepper.loader.whole_step(number))

    def _open_log(self, gate_norms: dict[str, float], after: int | None) -> StepLog | SilentLog:
        """The log, behind step ``after`` of a run that goes on; the main process writes it."""
        if not self.processes.is_main:
            return SilentLog()
        if gate_norms:  # noted at once: a run that is stopped and resumed passes the gate only here
            self.run.note(gate=gate_norms)
        if self.state.skipped:
            self.run.note(training={"skipped_steps": self.state.skipped})
        # A run that was killed may have logged steps after its last checkpoint: they are done again.
        return self.run.step_log(self.stepper.objective.names, tensorboard=self.config.logging.tensorboard, after=after)

    def _anywhere(self, *flags: bool) -> list[bool]:
        """Whether each is raised in any process: all stop after the same step."""
        if self.stepper.accelerator.num_processes == 1:
            return list(flags)
        raised = torch.tensor([float(flag) for flag in flags], device=self.stepper.accelerator.device)
        return [count > 0 for count in self.stepper.accelerator.reduce(raised, reduction="sum").tolist()]

    def _ends_epoch(self, step: int) -> bool:
        """Whether an epoch is complete, or the run, with that many steps and with no fewer."""
        before, after = (self.plan.epoch_after(number) + 1e-9 for number in (step - 2, step - 1))
        return step > 0 and (math.floor(after) > math.floor(before) or step == self.plan.steps)

    def _end_epoch(self, log: StepLog | SilentLog, reporter: Reporter) -> None:
        if self.score_dev is not None:
            scored = False
            try:
                with self.whole_student() as student:
                    f1 = self.processes.share(partial(self.score_dev, student))
                scored = True
            finally:
                # What the epoch learned outlives what kept it from being scored, which is what the user hears of. Of
                # several processes, the others may be gone.
                if not scored and self.stepper.accelerator.num_processes == 1:
                    with suppress(OSError, RunError):
                        self._save(log)
            self.state = replace(self.state, dev_f1={**self.state.dev_f1, str(self.state.step): f1})
            log.mirror(self.state.step, {"dev/f1": f1})
            epoch = self.state.step * self.plan.step_size / self.plan.examples
            reporter.note(f"step {self.state.step:,} (epoch {epoch:.2f}): F1 on dev {f1:.2f}")
        self._save(log)

    def _saves_after(self, number: int) -> bool:
        every = self.config.checkpoints.save_steps
        return every is not None and (number + 1) % every == 0

    def _save(self, log: StepLog | SilentLog) -> None:
        log.flush()  # what a checkpoint's step has logged must outlive a kill as the checkpoint does
        self.state = replace(self.state, objective=self.stepper.objective.state_dict())
        moments = optimizer_tensors(self.stepper.plain_optimizers(), keep=self.processes.is_main)
        with self.whole_student() as student:
            self.processes.on_main(
                lambda: save_checkpoint(
                    self.run,
                    self.state,
                    student,
                    self.tokenizer,
                    moments,
                    self.config.to_dict(),
                    self.config.checkpoints.save_total_limit,
                )
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        now = (self.config.to_dict(), self.data_fingerprint)
        check_same_run(checkpoint.path, checkpoint.config, saved.data_fingerprint, *now)
        check_same_processes(checkpoint.path, saved.processes, self.state.processes)
        load_student(self.stepper.student, checkpoint)
        self.stepper.spread()
        load_optimizers(self.stepper.plain_optimizers(), checkpoint.optimizers)
        restore_random_state(checkpoint.random)
        self.stepper.objective.load_state_dict(saved.objective)
        self.stepper.target_tokens = saved.target_tokens
        self.state = saved

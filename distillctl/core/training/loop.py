"""The only training loop: examples of a step, forward, the objective's gradient at the logits, one update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distillctl.core import phases as parts
from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.errors import NotFiniteError, RunError
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.step_report import StepReport
from distillctl.core.losses.term import LossBatch, StudentOutputs
from distillctl.core.models.student import prepare_student, seed_dropout
from distillctl.core.models.vocabulary import special_ids
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import RunDirectory, StepLog
from distillctl.core.run_dir.step_log import SilentLog
from distillctl.core.teacher.cached import tail_mass
from distillctl.core.teacher.live import forced_logits
from distillctl.core.training.batches import MicroBatch
from distillctl.core.training.checkpoints import (
    Checkpoint,
    TrainerState,
    load_optimizers,
    load_student,
    optimizer_tensors,
    save_checkpoint,
)
from distillctl.core.training.diagnostics import BadStep, stop, too_many, write_diagnostics
from distillctl.core.training.gate import check_terms_reach_student
from distillctl.core.training.interrupts import InterruptFlag
from distillctl.core.training.layout import layout_of
from distillctl.core.training.memory import peak_memory_mb
from distillctl.core.training.optimisation import learning_rate_factor, make_optimizers, set_learning_rate
from distillctl.core.training.random_state import restore_random_state
from distillctl.core.training.resuming import check_same_processes, check_same_run
from distillctl.core.training.step_inputs import Guides, StepInputs, StepLoader, plan_steps
from distillctl.core.training.step_row import progress_note, rebalance_note, report_columns


@dataclass(frozen=True)
class TrainingResult:
    """What a finished or interrupted training leaves."""

    steps: int
    interrupted: bool
    dev_f1: dict[str, float]
    gate_norms: dict[str, float]
    terminated: bool = False  # interrupted by SIGTERM


class Trainer:
    """Trains one student.

    Args:
        config: the resolved configuration.
        accelerator: device, precision, processes.
        student: the model to train, in float32; it is trained in place.
        tokenizer: the student's, saved beside its weights.
        examples: the tokenised training records.
        guides: teacher, encoder, bank, critical tokens.
        objective: the composite loss.
        run: where the log and the checkpoints go.
        data_fingerprint: names the training records; a checkpoint of other data is refused.
        score_dev: F1 (points) of a model on the dev records; None scores nothing.
        processes: that train together; the main one writes the run's files.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        student: Any,
        tokenizer: Any,
        examples: tuple[Example, ...],
        guides: Guides,
        objective: Objective,
        run: RunDirectory,
        data_fingerprint: str,
        score_dev: Callable[[Any], float] | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.tokenizer, self.guides = tokenizer, guides
        self.objective, self.run = objective, run
        self.data_fingerprint, self.score_dev = data_fingerprint, score_dev
        self.processes = processes
        self.plan = plan_steps(config, examples, accelerator.num_processes)
        self.student = student
        self._start_id, self._padding_id = special_ids(student, "student")
        prepare_student(student, config)
        self.layout = layout_of(accelerator, config.training)
        self.model: Any = None
        self.optimizers: list[Any] = []
        if not self.layout.whole_at_first:
            self._spread()
        self.loader = StepLoader(
            config,
            examples,
            self.plan,
            guides,
            self._padding_id,
            accelerator.device,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self._factor = learning_rate_factor(config.training, self.plan.steps)
        self.state = TrainerState(0, 0, data_fingerprint, {}, processes=accelerator.num_processes)
        self.rebalanced: dict[str, float] = {}  # what the last step's report says of it
        self.phases: parts.Phases = parts.UNTIMED

    def tell(self, phases: parts.Phases) -> None:
        """From now on ``phases`` is told which part of a step is under way."""
        self.phases = self.objective.phases = phases

    # --- a run ------------------------------------------------------------------------------------------------

    def train(self, reporter: Reporter, checkpoint: Checkpoint | None = None) -> TrainingResult:
        """Runs to the end, or to the first Ctrl-C (or SIGTERM) after the step under way; saves and scores on the way.

        Raises RunError when a term is silent (before step 1), or a loss or gradient is not finite.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        first = self.state.step
        gate_norms = self._pass_gate_or_stop() if checkpoint is None else {}
        self._spread()
        log = self._open_log(gate_norms, after=first if checkpoint else None)
        epochs_done = math.floor(first * self.plan.step_size / self.plan.examples + 1e-9)
        with log, InterruptFlag() as interrupt, reporter.task("training", self.plan.steps) as task:
            for number in range(first, self.plan.steps):
                ended = number + 1 == self.plan.steps
                row = self._step_or_skip(number, log, reporter)
                if row is not None:
                    for name, ratio in self.rebalanced.items():
                        reporter.note(rebalance_note(number + 1, name, ratio, row[f"scale_{name}"]))
                    task.update(number + 1, note=progress_note(row))
                epoch = math.floor(self.plan.epoch_after(number) + 1e-9)
                ends_epoch = epoch > epochs_done or ended
                if ends_epoch:
                    epochs_done = epoch
                    self._end_epoch(log, reporter)
                # After what may take long: who was interrupted meanwhile is heard too.
                raised, terminated = self._anywhere(interrupt.raised, interrupt.terminated)
                if not ends_epoch and (raised or self._saves_after(number)):
                    self._save(log)
                if raised:
                    return TrainingResult(number + 1, True, self.state.dev_f1, gate_norms, terminated)
        return TrainingResult(self.plan.steps, False, self.state.dev_f1, gate_norms)

    def _spread(self) -> None:
        """Lays the student out over the processes, once."""
        if self.model is None:
            self.model, self.optimizers = self.layout.spread(
                self.student, lambda: make_optimizers(self.student, self.config.training)
            )

    def whole_student(self) -> AbstractContextManager[Any]:
        """The student as it is now, to be saved or called by the main process alone. All processes meet for it."""
        return self.layout.whole(self.student)

    def _open_log(self, gate_norms: dict[str, float], after: int | None) -> StepLog | SilentLog:
        """The log, behind step ``after`` of a run that goes on; the main process writes it."""
        if not self.processes.is_main:
            return SilentLog()
        if gate_norms:  # noted at once: a run that is stopped and resumed passes the gate only here
            self.run.note(gate=gate_norms)
        if self.state.skipped:
            self.run.note(training={"skipped_steps": self.state.skipped})
        # A run that was killed may have logged steps after its last checkpoint: they are done again.
        return self.run.step_log(self.objective.names, tensorboard=self.config.logging.tensorboard, after=after)

    def _anywhere(self, *flags: bool) -> list[bool]:
        """Whether each is raised in any process: all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        raised = torch.tensor([float(flag) for flag in flags], device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(raised, reduction="sum").tolist()]

    def _end_epoch(self, log: StepLog | SilentLog, reporter: Reporter) -> None:
        if self.score_dev is not None and self.config.evaluation.on_epoch_end:
            with self.whole_student() as student:
                f1 = self.processes.share(partial(self.score_dev, student))
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
        self.state = replace(self.state, objective=self.objective.state_dict())
        moments = optimizer_tensors(self._plain_optimizers(), keep=self.processes.is_main)
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
        load_student(self.student, checkpoint)
        self._spread()
        load_optimizers(self._plain_optimizers(), checkpoint.optimizers)
        restore_random_state(checkpoint.random)
        self.objective.load_state_dict(checkpoint.state.objective)
        self.state = checkpoint.state

    def _plain_optimizers(self) -> list[torch.optim.Optimizer]:
        return [getattr(optimizer, "optimizer", optimizer) for optimizer in self.optimizers]

    # --- one step ---------------------------------------------------------------------------------------------

    def step(self, number: int, log: StepLog | SilentLog) -> dict[str, float | int | None]:
        """One optimizer step (``number`` from 0) and its row, written where it is due."""
        row = self._step(number)
        ended = number + 1 == self.plan.steps
        # What a gradient step measured was paid for: its row is written whatever logging.steps says.
        if (number + 1) % self.config.logging.steps == 0 or self._measures_gradients(number) or ended:
            with self.phases.phase(parts.LOGGING):
                log.write(row)
        return row

    def _step_or_skip(
        self, number: int, log: StepLog | SilentLog, reporter: Reporter
    ) -> dict[str, float | int | None] | None:
        """:meth:`step`; None for one that was not finite and is passed over, as ``training.on_nan`` asks for.

        What is not finite is found in sums over all processes, so all of them are here or none is.
        """
        try:
            return self.step(number, log)
        except NotFiniteError as error:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            bad = self._bad_step(number, error)
            saved = self.processes.share(partial(write_diagnostics, self.run, bad))
            skipped = [*self.state.skipped, number + 1]
            if self.config.training.on_nan == "stop" or too_many(skipped):
                raise stop(bad, saved, "--resume --on-nan skip goes on without it") from error
            self.state = replace(self.state, step=number + 1, skipped=skipped)
            if self.processes.is_main:  # at once: whatever becomes of the run, this is not forgotten
                self.run.note(training={"skipped_steps": skipped})
            reporter.note(f"skipped: {error} The batch is in {saved}")
            return None

    def _bad_step(self, number: int, error: NotFiniteError) -> BadStep:
        """What is known of a step that was not finite."""
        return BadStep(number + 1, str(error), *self.loader.whole_step(number))

    def _step(self, number: int) -> dict[str, float | int | None]:
        """One optimizer step; returns its row of step_metrics.csv."""
        started = time.perf_counter()
        seed_dropout(self.config.seed, number, self.accelerator.process_index)
        with self.phases.phase(parts.DATA):
            inputs = self.loader.load(number)
        data_seconds = time.perf_counter() - started
        learning_rate = self.config.training.learning_rate * self._factor(number)
        set_learning_rate(self.optimizers, learning_rate)
        tokens = self._begin(inputs, number, self._measures_gradients(number))
        tail = torch.zeros((), device=self.accelerator.device)
        for index, (micro, batch) in enumerate(zip(inputs.micro_batches, inputs.loss_batches, strict=True)):
            last = index + 1 == len(inputs.micro_batches)
            batch = self._with_teacher(batch, micro)
            with self.phases.phase(parts.LOGGING):
                tail += tail_mass(batch)
            with nullcontext() if last else self.layout.no_sync(self.model):
                with self.phases.phase(parts.STUDENT_FORWARD):
                    logits = self._logits(self.model, micro)
                with self.phases.phase(parts.OBJECTIVE):
                    gradient = self.objective.logit_gradient(self._outputs(logits, micro), batch)
                    if self.accelerator.num_processes > 1:
                        # Data-parallel training averages gradients over processes; the counts are global sums.
                        gradient *= self.accelerator.num_processes
                with self.phases.phase(parts.STUDENT_BACKWARD):
                    logits.backward(gradient)
        with self.phases.phase(parts.LOGGING):
            report = self._end_step(number)
        self.rebalanced = report.rebalanced
        with self.phases.phase(parts.OPTIMIZER):
            total_norm = self._update(number)
        self.state = replace(self.state, step=number + 1, target_tokens=self.state.target_tokens + tokens)
        seconds = time.perf_counter() - started
        return {
            "step": number + 1,
            "epoch": self.plan.epoch_after(number),
            "samples_seen": (number + 1) * self.plan.step_size,
            "target_tokens": self.state.target_tokens,
            "learning_rate": learning_rate,
            **report_columns(report),
            "grad_norm_total": total_norm,
            "teacher_tail_mass": self._tail_mass(tail, tokens),
            "step_seconds": seconds,
            "data_seconds": data_seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_mb": peak_memory_mb(self.accelerator.device),
        }

    def _measures_gradients(self, number: int) -> bool:
        return number % self.config.logging.gradient_steps == 0

    def _end_step(self, number: int) -> StepReport:
        try:
            return self.objective.end_step()
        except RunError as error:
            raise type(error)(f"step {number + 1}: {error}") from error

    def _begin(self, inputs: StepInputs, number: int, separate: bool) -> int:
        """Tells the objective the whole step's counts; returns its number of target tokens. One reduction."""
        per_batch = [self.objective.counts(batch) for batch in inputs.loss_batches]
        names = self.objective.names
        local = torch.stack([torch.stack([counts[name] for name in names]) for counts in per_batch]).sum(dim=0)
        tokens = local.new_tensor([inputs.tokens])
        total: Tensor = self.accelerator.reduce(torch.cat([local, tokens]), reduction="sum")
        progress = number / max(1, self.plan.steps - 1)
        self.objective.begin_step(dict(zip(names, total, strict=False)), progress, separate)
        return int(total[-1]) if self.accelerator.num_processes > 1 else inputs.tokens

    def _logits(self, model: Any, micro: MicroBatch) -> Tensor:
        """Teacher-forced student logits of the target tokens, [R,V] float32."""
        inputs = (micro.input_ids, micro.attention_mask, micro.labels, micro.places)
        with self.layout.precision():
            return forced_logits(model, *inputs, self._start_id, self._padding_id)

    def _outputs(self, logits: Tensor, micro: MicroBatch) -> StudentOutputs:
        encode = partial(self._read_predictions, places=micro.places.flat) if self.guides.encoder is not None else None
        return StudentOutputs(logits, encode, micro.places)

    def _read_predictions(self, logits: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        assert self.guides.encoder is not None
        with self.phases.phase(parts.ENCODER_FORWARD), self.accelerator.autocast():
            states = self.guides.encoder.predicted_states(logits, mask, places=places)
        self.phases.backward_of(parts.ENCODER_BACKWARD, states)
        return states

    def _with_teacher(self, batch: LossBatch, micro: MicroBatch) -> LossBatch:
        if self.guides.teacher is None:
            return batch
        with self.phases.phase(parts.TEACHER), self.accelerator.autocast():
            return self.guides.teacher.guide(
                batch, self.loader.examples_of(micro), micro.input_ids, micro.attention_mask
            )

    def _tail_mass(self, tail: Tensor, tokens: int) -> float | None:
        """Mean over the step's target tokens, from this process's sum; None without a teacher.

        A live teacher gives every id its probability: nothing is left to a tail.
        """
        if self.guides.teacher is None:
            return None
        if not self.guides.teacher.has_tail:
            return 0.0
        with self.phases.phase(parts.LOGGING):
            return float(self.accelerator.reduce(tail, reduction="sum")) / max(1, tokens)

    def _update(self, number: int) -> float:
        """Clips the total gradient norm, updates, returns the norm as it was. Raises NotFiniteError for no number."""
        total = self.layout.update(self.model, self.optimizers)
        if not math.isfinite(total):
            raise NotFiniteError(
                f"step {number + 1}: the gradient of the student's parameters is {total}; nothing was updated. "
                "Lower training.learning_rate or turn bf16 off"
            )
        return total

    # --- before step 1 ----------------------------------------------------------------------------------------

    def _pass_gate_or_stop(self) -> dict[str, float]:
        try:
            return self._pass_gate()
        except NotFiniteError as error:
            bad = self._bad_step(0, error)  # in this process alone, it may be: none waits for another
            raise stop(bad, write_diagnostics(self.run, bad), "Nothing was trained yet") from error

    def _pass_gate(self) -> dict[str, float]:
        """Refuses silent terms, and measures the gradients of step 1 so that it is limited like every other."""
        inputs = self.loader.load(0)
        micro = inputs.micro_batches[0]
        random_state = torch.get_rng_state()
        frozen: dict[str, torch.nn.Module] = {}
        if self.guides.teacher is not None and self.guides.teacher.model is not None:
            frozen["teacher"] = self.guides.teacher.model
        if self.guides.encoder is not None:
            frozen["encoder"] = self.guides.encoder
        norms = check_terms_reach_student(
            self.student.parameters(),
            self._logits(self.student, micro),
            partial(self._outputs, micro=micro),
            self.objective.terms,
            self._with_teacher(inputs.loss_batches[0], micro),
            frozen,
            self.objective.log_only,
        )
        self._begin(inputs, 0, separate=False)
        for micro, batch in zip(inputs.micro_batches, inputs.loss_batches, strict=True):
            with torch.no_grad():
                logits = self._logits(self.student, micro)
            self.objective.logit_gradient(self._outputs(logits, micro), self._with_teacher(batch, micro))
        self.objective.end_step(rebalance=False)  # step 1 has the scales that were asked for
        torch.set_rng_state(random_state)  # nothing that is drawn later depends on what was measured here
        return norms

"""One step of the student: its examples, forward, the objective's gradient at the logits, backward, one update."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
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
from distillctl.core.run_dir import StepLog
from distillctl.core.run_dir.step_log import SilentLog
from distillctl.core.teacher.cached import tail_mass
from distillctl.core.teacher.live import forced_logits
from distillctl.core.training.batches import MicroBatch
from distillctl.core.training.gate import check_terms_reach_student
from distillctl.core.training.layout import layout_of
from distillctl.core.training.memory import peak_memory_mb
from distillctl.core.training.optimisation import learning_rate_factor, make_optimizers, set_learning_rate
from distillctl.core.training.step_inputs import Guides, StepInputs, StepLoader, plan_steps
from distillctl.core.training.step_row import Row, report_columns


class Stepper:
    """Takes the optimizer steps of one student. It knows of no run: which step is next, and what is saved when, is the
    :class:`~distillctl.core.training.loop.Trainer`'s.

    Args:
        config: the resolved configuration.
        accelerator: device, precision, processes.
        student: the model to train, in float32; it is trained in place.
        examples: the tokenised training records.
        guides: teacher, encoder, bank, critical tokens.
        objective: the composite loss.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        student: Any,
        examples: tuple[Example, ...],
        guides: Guides,
        objective: Objective,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.guides, self.objective = guides, objective
        self.plan = plan_steps(config, examples, accelerator.num_processes)
        self.student = student
        self._start_id, self._padding_id = special_ids(student, "student")
        prepare_student(student, config)
        self.layout = layout_of(accelerator, config.training)
        self.model: Any = None
        self.optimizers: list[Any] = []
        if not self.layout.whole_at_first:
            self.spread()
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
        self.target_tokens = 0  # of the steps taken, over all processes
        self.rebalanced: dict[str, float] = {}  # what the last step's report says of it
        self.phases: parts.Phases = parts.UNTIMED

    def tell(self, phases: parts.Phases) -> None:
        """From now on ``phases`` is told which part of a step is under way."""
        self.phases = self.objective.phases = phases

    def spread(self) -> None:
        """Lays the student out over the processes, once."""
        if self.model is None:
            self.model, self.optimizers = self.layout.spread(
                self.student, lambda: make_optimizers(self.student, self.config.training)
            )

    def whole_student(self) -> AbstractContextManager[Any]:
        """The student as it is now, to be saved or called by the main process alone. All processes meet for it."""
        return self.layout.whole(self.student)

    def plain_optimizers(self) -> list[torch.optim.Optimizer]:
        """Without what Accelerate wraps them in."""
        return [getattr(optimizer, "optimizer", optimizer) for optimizer in self.optimizers]

    def drop_gradients(self) -> None:
        """After a step that was given up, so that the next one starts from none."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self, number: int, log: StepLog | SilentLog) -> Row:
        """One optimizer step (``number`` from 0) and its row, written where it is due."""
        row = self.take(number)
        ended = number + 1 == self.plan.steps
        # What a gradient step measured was paid for: its row is written whatever logging.steps says.
        if (number + 1) % self.config.logging.steps == 0 or self._measures_gradients(number) or ended:
            with self.phases.phase(parts.LOGGING):
                log.write(row)
        return row

    def take(self, number: int) -> Row:
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
        self.target_tokens += tokens
        seconds = time.perf_counter() - started
        return {
            "step": number + 1,
            "epoch": self.plan.epoch_after(number),
            "samples_seen": (number + 1) * self.plan.step_size,
            "target_tokens": self.target_tokens,
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

    def pass_gate(self) -> dict[str, float]:
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

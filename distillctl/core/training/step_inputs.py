"""What one optimizer step reads: token ids, and per micro-batch all that the loss terms may know beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.losses.critical import CriticalTargets
from distillctl.core.losses.term import LossBatch
from distillctl.core.teacher.interface import Teacher
from distillctl.core.training.batches import MicroBatch, StepPlan, collate, share_of


@dataclass(frozen=True)
class Guides:
    """What the student learns from besides the gold tokens; None where no active term asks for it."""

    teacher: Teacher | None = None
    encoder: FrozenEncoder | None = None
    bank: EmbeddingBank | None = None
    critical_tokens: CriticalTargets | None = None


@dataclass(frozen=True)
class StepInputs:
    """This process's part of one optimizer step. ``tokens`` counts its valid target tokens."""

    micro_batches: list[MicroBatch]
    loss_batches: list[LossBatch]
    tokens: int


def plan_steps(config: Config, examples: tuple[Example, ...], ranks: int) -> StepPlan:
    """The order of examples that a configuration describes, for a number of processes."""
    settings = config.training
    step_size = settings.step_batch_size * ranks
    epochs = settings.num_train_epochs
    if settings.max_steps is not None:
        epochs = settings.max_steps * step_size / len(examples)
    lengths = [(len(example.input_ids), len(example.labels)) for example in examples]
    return StepPlan(lengths, step_size, epochs, config.seed)


class StepLoader:
    """Makes the inputs of any step, in any order: nothing is remembered from one to the next."""

    def __init__(
        self,
        config: Config,
        examples: tuple[Example, ...],
        plan: StepPlan,
        guides: Guides,
        padding_id: int,
        device: torch.device,
        rank: int,
        ranks: int,
    ) -> None:
        self._config, self._examples, self._plan, self._guides = config, examples, plan, guides
        self._padding_id, self._device, self._rank, self._ranks = padding_id, device, rank, ranks

    def examples_of(self, micro: MicroBatch) -> list[Example]:
        """The examples of a micro-batch, in its order."""
        return [self._examples[index] for index in micro.examples]

    def whole_step(self, number: int) -> tuple[list[Example], MicroBatch]:
        """All examples of step ``number`` (from 0), of every process, and the one batch that they make."""
        indices = self._plan.step(number)
        return [self._examples[index] for index in indices], collate(self._examples, indices, self._padding_id)

    def load(self, number: int) -> StepInputs:
        """Inputs of step ``number`` (from 0) on the training device."""
        indices = self._plan.step(number)
        shares = share_of(indices, self._config.training.gradient_accumulation_steps, self._rank, self._ranks)
        row_of = {index: row for row, index in enumerate(indices)}
        vectors, gold_keys = self._golds_of_step(indices)
        micro_batches, loss_batches, tokens = [], [], 0
        for share in shares:
            micro = collate(self._examples, share, self._padding_id)
            tokens += len(micro.places.flat)
            weights = self._token_weights(micro, number)
            moved = micro.to(self._device)
            micro_batches.append(moved)
            loss_batches.append(
                LossBatch(
                    labels=moved.labels,
                    targets=moved.places,
                    token_weights=self._move(weights),
                    gold_states=self._gold_states(micro),
                    mean_state=self._move(self._guides.bank.mean_state) if self._guides.bank else None,
                    step_gold_vectors=vectors,
                    step_gold_keys=gold_keys,
                    step_rows=torch.tensor([row_of[index] for index in share], device=self._device),
                )
            )
        return StepInputs(micro_batches, loss_batches, tokens)

    def _golds_of_step(self, indices: list[int]) -> tuple[Tensor | None, Tensor | None]:
        bank = self._guides.bank
        if bank is None:
            return None, None
        keys = [self._examples[index].key for index in indices]
        return self._move(bank.vectors(keys)), self._move(bank.gold_keys(keys))

    def _gold_states(self, micro: MicroBatch) -> Tensor | None:
        if self._guides.bank is None:
            return None
        keys = [self._examples[index].key for index in micro.examples]
        return self._move(self._guides.bank.lookup(keys, length=micro.labels.shape[1]))

    def _token_weights(self, micro: MicroBatch, number: int) -> Tensor | None:
        critical, settings = self._guides.critical_tokens, self._config.objective.critical_tokens
        if critical is None:
            return None
        epochs = number * self._plan.step_size / self._plan.examples
        progress = 1.0 if settings.warmup_epochs == 0 else min(1.0, epochs / settings.warmup_epochs)
        return critical.token_weights(micro.examples, micro.labels.shape[1], settings.weight, progress)

    def _move(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self._device, non_blocking=True)

"""A step's inputs: what each loss term may know, aligned with the examples, and the same in any split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from distillctl.core.config import Config
from distillctl.core.training.loop import Trainer
from distillctl.core.training.step_inputs import Guides, StepInputs, StepLoader, plan_steps
from tests.tiny import Tiny, make_trainer


@pytest.fixture(scope="module")
def trainer(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return make_trainer(tiny.config(tmp_path_factory.mktemp("inputs") / "run"))


def loader(trainer: Trainer, config: Config | None = None, rank: int = 0, ranks: int = 1) -> StepLoader:
    config = config or trainer.config
    examples = trainer.stepper.loader._examples
    plan = plan_steps(config, examples, ranks)
    return StepLoader(config, examples, plan, trainer.stepper.guides, 0, torch.device("cpu"), rank, ranks)


def split(trainer: Trainer, size: int, accumulated: int, **training: float) -> Config:
    values = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated} | training
    return trainer.config.model_copy(update={"training": trainer.config.training.model_copy(update=values)})


def test_every_tensor_belongs_to_its_example(trainer: Trainer) -> None:
    bank, examples = trainer.stepper.guides.bank, trainer.stepper.loader._examples
    assert bank is not None
    for number in range(3):
        inputs = loader(trainer, split(trainer, 3, 2)).load(number)
        assert len(inputs.micro_batches) == 2
        for micro, batch in zip(inputs.micro_batches, inputs.loss_batches, strict=True):
            gold, vectors, rows = batch.gold_states, batch.step_gold_vectors, batch.step_rows
            assert gold is not None and vectors is not None and rows is not None
            assert batch.mean_state is not None and batch.step_gold_keys is not None
            assert batch.places is micro.places
            assert batch.gold.tolist() == [label for index in micro.examples for label in examples[index].labels]
            for row, index in enumerate(micro.examples):
                example = examples[index]
                assert micro.input_ids[row][micro.attention_mask[row].bool()].tolist() == list(example.input_ids)
                assert batch.labels[row][batch.labels[row] >= 0].tolist() == list(example.labels)
                assert_close(gold[row : row + 1, : len(example.labels)], bank.lookup([example.key]))
                assert_close(vectors[rows[row]], bank.vectors([example.key])[0])
                assert batch.step_gold_keys[rows[row]] == bank.gold_keys([example.key])[0]
            assert len(vectors) == 6
        labels = [batch.labels for batch in inputs.loss_batches]
        assert inputs.tokens == sum(int((part >= 0).sum()) for part in labels)


def flat(inputs: list[StepInputs]) -> list[int]:
    return sorted(index for part in inputs for micro in part.micro_batches for index in micro.examples)


@pytest.mark.parametrize(("size", "accumulated", "ranks"), [(8, 1, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2), (2, 1, 4)])
def test_a_step_holds_the_same_examples_in_any_split(trainer: Trainer, size: int, accumulated: int, ranks: int) -> None:
    config = split(trainer, size, accumulated)
    whole = loader(trainer).load(4)
    parts = [loader(trainer, config, rank, ranks).load(4) for rank in range(ranks)]
    assert flat(parts) == flat([whole])
    assert sum(part.tokens for part in parts) == whole.tokens
    assert {len(part.micro_batches) for part in parts} == {accumulated}
    # Whatever the split, the negatives are the whole step's.
    for part in parts:
        for batch in part.loss_batches:
            assert_close(batch.step_gold_vectors, whole.loss_batches[0].step_gold_vectors)


def test_steps_do_not_depend_on_the_ones_before(trainer: Trainer) -> None:
    first = loader(trainer)
    for number in (5, 0, 3):
        alone, again = loader(trainer).load(number), first.load(number)
        for one, other in zip(alone.micro_batches, again.micro_batches, strict=True):
            assert one.examples == other.examples
            assert torch.equal(one.input_ids, other.input_ids)


def test_critical_tokens_gain_weight_over_the_warm_up(trainer: Trainer) -> None:
    settings = trainer.config.objective.critical_tokens
    assert (settings.weight, settings.warmup_epochs) == (2.0, 1.0)
    source = loader(trainer, split(trainer, 8, 1, num_train_epochs=2.0))
    largest = []
    for number in (0, 3, 6, 9):
        weights = source.load(number).loss_batches[0].token_weights
        assert weights is not None
        assert weights.min() == 1
        largest.append(float(weights.max()))
    assert largest == pytest.approx([1.0, 1.5, 2.0, 2.0])


def test_what_no_term_asks_for_is_not_made(trainer: Trainer) -> None:
    examples = trainer.stepper.loader._examples
    plan = plan_steps(trainer.config, examples, 1)
    bare = StepLoader(trainer.config, examples, plan, Guides(), 0, torch.device("cpu"), 0, 1)
    batch = bare.load(0).loss_batches[0]
    assert batch.gold_states is None and batch.token_weights is None
    assert batch.step_gold_vectors is None and batch.mean_state is None
    assert batch.labels.shape[0] == 8


def test_the_plan_counts_steps_in_epochs_or_as_told(tiny: Tiny, trainer: Trainer, tmp_path: Path) -> None:
    examples = trainer.stepper.loader._examples
    assert len(examples) == 48

    def steps(*settings: str, ranks: int = 1) -> int:
        return plan_steps(tiny.config(tmp_path, *settings), examples, ranks).steps

    assert steps() == 6
    assert steps(ranks=2) == 3
    assert steps("training.num_train_epochs=0.3") == 2
    assert steps("training.gradient_accumulation_steps=3") == 2
    for number in (1, 7, 1000, 99_991):
        assert steps(f"training.max_steps={number}", "training.num_train_epochs=3") == number
        assert steps(f"training.max_steps={number}", ranks=3) == number

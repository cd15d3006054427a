"""A student in shards trains, is saved and resumed like one in one piece. Two processes: test_several_processes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import distributed, nn

from distillctl.core.config.schema import TrainingConfig
from distillctl.core.errors import RunError, UsageError
from distillctl.core.progress import SilentReporter
from distillctl.core.training import stepper
from distillctl.core.training.accelerator import Sharding
from distillctl.core.training.checkpoints import latest_checkpoint, optimizer_tensors
from distillctl.core.training.layout import Shards, laid_out_like, whole_tensor
from tests.runs import EPOCHS, Make, column, kill, run
from tests.tiny import distance, weights_of

pytest.importorskip("torch.distributed.fsdp", reason="needs a PyTorch with FSDP")
if not hasattr(torch.distributed.fsdp, "fully_shard"):
    pytest.skip("needs PyTorch 2.6", allow_module_level=True)

InShards = Callable[[Sharding], None]


@pytest.fixture
def in_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[InShards]:
    """From then on trainers have their student in shards, all of which lie in this process."""

    def use(sharding: Sharding) -> None:
        def shards(accelerator: Accelerator, training: TrainingConfig) -> Shards:
            return Shards(accelerator, training.max_grad_norm, sharding)

        monkeypatch.setattr(stepper, "layout_of", shards)

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield use
    distributed.destroy_process_group()


def is_in_shards(model: nn.Module) -> bool:
    return all(hasattr(parameter, "full_tensor") for parameter in model.parameters())


@pytest.mark.parametrize("sharding", [Sharding(), Sharding(reshard=False, layers=())], ids=["layers", "one unit"])
def test_it_trains_like_one_in_one_piece(sharding: Sharding, make: Make, in_shards: InShards) -> None:
    settings = ("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2")
    whole = make("whole", *settings)
    run(whole)
    in_shards(sharding)
    parts = make("parts", *settings)
    run(parts)
    assert is_in_shards(parts.stepper.student)
    assert column(parts, "loss_total") == pytest.approx(column(whole, "loss_total"), rel=1e-6)
    assert column(parts, "grad_norm_total") == pytest.approx(column(whole, "grad_norm_total"), rel=1e-5)
    with parts.whole_student() as student:
        assert not is_in_shards(student)
        assert distance(weights_of(whole.stepper.student), weights_of(student)) < 1e-6
        assert student.lm_head.weight.data_ptr() == student.shared.weight.data_ptr()


def test_its_checkpoints_are_those_of_one_in_one_piece_and_resumed(
    make: Make, in_shards: InShards, stop_at: Callable[[int, Callable[[], None]], None]
) -> None:
    in_shards(Sharding())
    undisturbed = make("undisturbed", *EPOCHS)
    run(undisturbed)
    stopped = make("stopped", *EPOCHS, "checkpoints.save_steps=4")
    stop_at(7, kill)
    with pytest.raises(RunError, match="as if the power had gone"):
        run(stopped)
    found = latest_checkpoint(stopped.run)
    assert found is not None and found.state.step == 6
    again = make("again", *EPOCHS, "checkpoints.save_steps=4")
    again.train(SilentReporter(), found)
    assert column(again, "loss_total") == column(undisturbed, "loss_total")[6:]
    with again.whole_student() as student, undisturbed.whole_student() as other:
        assert distance(weights_of(student), weights_of(other)) == 0
    shapes = {name: tensor.shape for name, tensor in optimizer_tensors(again.stepper.plain_optimizers()).items()}
    assert shapes == {name: tensor.shape for name, tensor in found.optimizers.items()}
    assert optimizer_tensors(again.stepper.plain_optimizers(), keep=False) == {}


def test_layers_that_the_student_does_not_have_are_named(make: Make, in_shards: InShards) -> None:
    in_shards(Sharding(layers=("T5Block", "LlamaLayer")))
    words = "fsdp_transformer_layer_cls_to_wrap=LlamaLayer: the student has no such module. Leave it out for T5Block"
    with pytest.raises(UsageError, match=words):
        run(make("run"))


def test_what_lies_in_one_piece_stays_as_it_is(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    assert whole_tensor(tensor) is tensor
    assert laid_out_like(torch.zeros(3), tensor) is tensor

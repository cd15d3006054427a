"""How a student lies in the processes that train it: a whole copy in each, in shards, or in DeepSpeed's hands.

Shards are FSDP2's (``torch.distributed.fsdp.fully_shard``; Zhao et al. 2023): each process keeps its part of every
weight, of its gradient and of the optimizer's moments, and whole weights are put together for the moment in which a
layer needs them. Before step 1 and in checkpoints the student is in one piece all the same: the gate takes gradients
of whole parameters, decoding needs a model that one process can call alone, and a checkpoint does not say how it was
trained.

``accelerator.prepare`` is not asked to shard. It makes the table of tokens and a tied head one unit, and T5's stacks
look tokens up in modules of their own that share that weight and lie outside of it, which torch refuses ("shared with
a parameter already managed by another FSDP group"; Accelerate 1.15.0, torch 2.13.0).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distillctl.core.config.schema import TrainingConfig
from distillctl.core.errors import UsageError
from distillctl.core.training.accelerator import Sharding, deepspeed_asked_for, sharding_asked_for

Optimizers = list[torch.optim.Optimizer]


class Layout(Protocol):
    """What the training loop asks of it."""

    whole_at_first: bool
    """Whether gate and checkpoint come first, and only then :meth:`spread`."""

    def spread(self, student: Any, make_optimizers: Callable[[], Optimizers]) -> tuple[Any, list[Any]]:
        """The model to call in a step, and its optimizers."""

    def precision(self) -> AbstractContextManager[Any]:
        """Around a forward pass of the student."""

    def no_sync(self, model: Any) -> AbstractContextManager[Any]:
        """Around the backward passes of a step but its last: gradients are added up, not exchanged."""

    def update(self, model: Any, optimizers: list[Any]) -> float:
        """Clips the gradients' total norm, does one step of every optimizer, forgets the gradients.

        Returns the norm as it was before; where it is not finite, nothing was updated.
        """

    def whole(self, student: Any) -> AbstractContextManager[Any]:
        """The student in one piece in the main process, after :meth:`spread`. All processes meet for it."""


def layout_of(accelerator: Accelerator, training: TrainingConfig) -> Layout:
    """The layout that Accelerate's configuration asks for. One process alone has nothing to share out.

    Raises UsageError as :func:`deepspeed_asked_for` does.
    """
    zero = deepspeed_asked_for(training)
    sharding = sharding_asked_for()
    if accelerator.num_processes > 1 and zero is not None:
        from distillctl.core.training.deepspeed_layout import DeepSpeedParts  # which it builds upon

        return DeepSpeedParts(accelerator, zero)
    if accelerator.num_processes > 1 and sharding is not None:
        return Shards(accelerator, training.max_grad_norm, sharding)
    return WholeCopies(accelerator, training.max_grad_norm)


class _Clipping:
    """One clip, and one step of every optimizer, by Accelerate."""

    def __init__(self, accelerator: Accelerator, most: float) -> None:
        self._accelerator, self._most = accelerator, most

    def update(self, model: Any, optimizers: list[Any]) -> float:
        norm = self._accelerator.clip_grad_norm_(model.parameters(), self._most)
        total = float(whole_tensor(norm)) if norm is not None else math.nan
        if math.isfinite(total):
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return total


class WholeCopies(_Clipping):
    """Every process has the whole student, and gradients are averaged over them (DDP); or there is one process."""

    whole_at_first = False

    def spread(self, student: Any, make_optimizers: Callable[[], Optimizers]) -> tuple[Any, list[Any]]:
        model, *optimizers = self._accelerator.prepare(student, *make_optimizers())
        return model, optimizers

    def precision(self) -> AbstractContextManager[Any]:
        return nullcontext()  # prepare has put it into the model's forward

    def no_sync(self, model: Any) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return context

    def whole(self, student: Any) -> AbstractContextManager[Any]:
        return nullcontext(student)


class Shards(_Clipping):
    """Every process has its part of each of the student's weights."""

    whole_at_first = True

    def __init__(self, accelerator: Accelerator, most: float, sharding: Sharding) -> None:
        super().__init__(accelerator, most)
        self._sharding = sharding
        self._twin: Twin | None = None

    def spread(self, student: Any, make_optimizers: Callable[[], Optimizers]) -> tuple[Any, list[Any]]:
        self._twin = Twin(student, self._accelerator)
        self._shard(student)
        return student, make_optimizers()

    def _shard(self, student: Any) -> None:
        try:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
        except ImportError as error:
            raise UsageError(f"FSDP2 needs PyTorch 2.6 or later. Found {torch.__version__}: upgrade") from error

        device = self._accelerator.device.type
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device, (self._accelerator.num_processes,)),
            "offload_policy": CPUOffloadPolicy() if self._sharding.offload else OffloadPolicy(),
        }
        for layer in self._layers(student):
            fully_shard(layer, reshard_after_forward=self._sharding.reshard, **options)
        fully_shard(student, **options)
        if device == "cpu":  # gloo has no average of its own
            student.set_force_sum_reduction_for_comms(True)

    def _layers(self, student: nn.Module) -> list[nn.Module]:
        """The modules that are put together one at a time, inner ones first."""
        own = tuple(getattr(student, "_no_split_modules", None) or ())
        names = self._sharding.layers
        strange = set(names or ()) - {type(module).__name__ for module in student.modules()}
        if strange:
            raise UsageError(
                f"fsdp_transformer_layer_cls_to_wrap={','.join(sorted(strange))}: the student has no such module. "
                f"Leave it out{f' for {chr(44).join(own)}' if own else ''}"
            )
        return [m for m in reversed(list(student.modules())) if type(m).__name__ in (own if names is None else names)]

    @contextmanager
    def precision(self) -> Iterator[None]:
        with warnings.catch_warnings():
            # T5's blocks return their position bias, a view; what follows changes no view in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            with self._accelerator.autocast():  # weights and gradients are exchanged in float32
                yield

    @contextmanager
    def no_sync(self, model: Any) -> Iterator[None]:
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    def whole(self, student: Any) -> AbstractContextManager[Any]:
        assert self._twin is not None
        return self._twin.filled(student, whole_tensor)


class Twin:
    """The main process's copy of a student that is about to be taken apart: it waits in the CPU's memory.

    It is made before: modules of FSDP and DeepSpeed cannot be copied.
    """

    def __init__(self, student: Any, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._model = copy.deepcopy(student).to("cpu") if accelerator.is_main_process else None

    @contextmanager
    def filled(self, student: Any, put_together: Callable[[Any], Tensor]) -> Iterator[Any]:
        """The copy on the accelerator with the weights of now, None in other processes. All of them meet for it.

        ``put_together`` gives a whole weight for one of the student's.
        """
        places = {} if self._model is None else dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                found = put_together(parameter)
                if name in places:
                    places[name].copy_(found)
        try:
            yield None if self._model is None else self._model.to(self._accelerator.device)
        finally:
            if self._model is not None:
                self._model.to("cpu")


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor in one piece. For one in shards all processes meet."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def laid_out_like(model: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor in shards where ``model``, of its shape, is: each process takes its part of what it has itself."""
    if not hasattr(model, "full_tensor") or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    sharded = cast(DTensor, model)
    mesh = sharded.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, sharded.placements, src_data_rank=None)

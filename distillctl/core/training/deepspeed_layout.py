"""The student in DeepSpeed's hands: ZeRO's parts of moments, gradients and weights (Rajbhandari et al. 2020).

DeepSpeed's engine averages the gradients over the processes, clips, updates, and leaves everything as it was where
their norm is not finite. What else it could do it is not asked for: it saves nothing (checkpoints are put together by
its public ``safe_get_full_*`` functions, and are the same safetensors and JSON as of any other layout), casts nothing
(bfloat16 is autocast's; weights, gradients and what is exchanged stay float32) and schedules nothing.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distillctl.core.training.layout import Optimizers, Twin

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's, as torch calls them."""


class DeepSpeedParts:
    """Every process has its part of the moments (ZeRO stage 1), of the gradients (2) and of the weights (3).

    Args:
        config: DeepSpeed's, whole; see :func:`distillctl.core.training.accelerator.deepspeed_asked_for`.
    """

    whole_at_first = True

    def __init__(self, accelerator: Accelerator, config: Mapping[str, Any]) -> None:
        self._accelerator, self._config = accelerator, config
        self._twin: Twin | None = None
        self._optimizer: EngineOptimizer | None = None

    def spread(self, student: Any, make_optimizers: Callable[[], Optimizers]) -> tuple[Any, list[Any]]:
        deepspeed = _deepspeed()
        self._twin = Twin(student, self._accelerator)
        (optimizer,) = make_optimizers()
        groups = [dict(group) for group in optimizer.param_groups]  # before it puts its own parts there
        if self._accelerator.mixed_precision == "bf16":
            # Inside of the model: DeepSpeed switches off what is switched on around it.
            student.forward = self._accelerator.autocast()(student.forward)
        engine, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=copy.deepcopy(self._config))
        engine.set_gradient_accumulation_boundary(True)
        self._optimizer = EngineOptimizer(engine, groups)
        return engine, [self._optimizer]

    def precision(self) -> AbstractContextManager[Any]:
        if self._optimizer is not None:
            self._optimizer.holds_gradients = True
            return nullcontext()
        context: AbstractContextManager[Any] = self._accelerator.autocast()  # the gate's, of the student itself
        return context

    @contextmanager
    def no_sync(self, model: Any) -> Iterator[None]:
        model.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            model.set_gradient_accumulation_boundary(True)

    def update(self, model: Any, optimizers: list[Any]) -> float:
        (optimizer,) = optimizers
        optimizer.step()
        return float(model.get_global_grad_norm())

    def whole(self, student: Any) -> AbstractContextManager[Any]:
        from deepspeed.utils import safe_get_full_fp32_param

        assert self._twin is not None
        return self._twin.filled(student, safe_get_full_fp32_param)


class EngineOptimizer:
    """DeepSpeed's engine as the optimizer that the training loop and its checkpoints know.

    Args:
        engine: of one optimizer, AdamW.
        groups: its groups of whole parameters, as they were before DeepSpeed cut them.
    """

    def __init__(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        self._engine, self.param_groups = engine, groups
        self.holds_gradients = False
        self._parts = engine.optimizer.optimizer
        # DeepSpeed looks for the moments of all groups once the first group has some, and never again (0.19.8).
        for part in (part for group in self._parts.param_groups for part in group["params"]):
            self._parts.state[part] = {"step": torch.zeros(()), **{name: torch.zeros_like(part) for name in MOMENTS}}

    @property
    def _parameters(self) -> list[Any]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def step(self) -> None:
        """Clips and updates, and forgets the gradients; where their norm is not finite it does the last alone."""
        for own, theirs in zip(self.param_groups, self._engine.optimizer.param_groups, strict=True):
            theirs["lr"] = own["lr"]
        self._engine.step()
        self.holds_gradients = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets gradients that are not to be used, to which stage 3 would add those of the next step.

        The engine has no function for it; where one of them is not a number it throws all of them away.
        """
        from deepspeed.utils import safe_set_full_grad

        if self.holds_gradients:
            first = self._parameters[0]
            safe_set_full_grad(first, torch.full(_shape(first), math.nan, device=self._engine.device))
            self.step()

    def state_dict(self) -> dict[str, Any]:
        """torch's: the moments of whole parameters, by number. All processes put them together."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = self._steps()
        state = {}
        for number, parameter in enumerate(self._parameters if steps and steps[0] > 0 else ()):
            moments = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
            state[number] = {"step": steps[0].clone(), **moments}
        return {"state": state, "param_groups": [dict(group) for group in self.param_groups]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Puts whole moments into the parts of all processes, which are made first."""
        from deepspeed.utils import safe_set_full_optimizer_state

        if not saved["state"]:
            return
        self._step_by_nothing()
        for number, parameter in enumerate(self._parameters):
            for name in MOMENTS:
                safe_set_full_optimizer_state(parameter, self._padded(parameter, saved["state"][number][name]), name)
        for step in self._steps():
            step.fill_(saved["state"][0]["step"])

    def _steps(self) -> list[Tensor]:
        """AdamW's counts of steps, one for each part."""
        return [values["step"] for values in self._parts.state.values() if "step" in values]

    def _step_by_nothing(self) -> None:
        """There are no moments to set before the first step."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = 0.0  # weight decay is a multiple of it, too
        token = torch.ones(1, 1, dtype=torch.int64, device=self._engine.device)
        logits = self._engine(input_ids=token, decoder_input_ids=token, use_cache=False).logits
        logits.backward(torch.zeros_like(logits))
        self.step()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    def _padded(self, parameter: Any, whole: Tensor) -> Tensor:
        """Stage 3 cuts a parameter into equal parts, the last one filled up with zeros."""
        flat = whole.to(self._engine.device).flatten()
        if not hasattr(parameter, "ds_tensor"):
            return flat
        missing = parameter.ds_tensor.ds_numel * self._engine.world_size - flat.numel()
        return torch.nn.functional.pad(flat, (0, missing))


def _shape(parameter: Any) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _deepspeed() -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # What DeepSpeed calls of torch is between the two.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    return deepspeed

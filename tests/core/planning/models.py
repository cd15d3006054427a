"""Small models, and what PyTorch counts of one pass through them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5ForConditionalGeneration

from distillctl.core.config import load_config
from distillctl.core.losses.term import Places
from distillctl.core.models.student import prepare_student
from distillctl.core.planning.estimate import Micro
from distillctl.core.profiling.memory import highest_sum
from distillctl.core.teacher.live import forced_logits


def t5(act: str = "relu", dropout: float = 0.0, **changes: Any) -> T5Config:
    """A T5 whose dimensions are all different, so that no two can be mistaken for each other."""
    shape: dict[str, Any] = {
        "vocab_size": 500,
        "d_model": 96,
        "d_kv": 24,
        "num_heads": 5,
        "d_ff": 352,
        "num_layers": 4,
        "num_decoder_layers": 3,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5Config(feed_forward_proj=act, dropout_rate=dropout, **shape | changes)


def student(config: T5Config, recompute: bool) -> T5ForConditionalGeneration:
    """As the trainer prepares it."""
    model: T5ForConditionalGeneration = T5ForConditionalGeneration(config)
    settings = [f"training.gradient_checkpointing={str(recompute).lower()}"]
    prepare_student(model, load_config(settings=settings))
    return model


def logits_of(model: Any, micro: Micro, bf16: bool = False) -> Tensor:
    """Of random inputs without padding, the trainer's way."""
    shape = (micro.examples, micro.source), (micro.examples, micro.target)
    source, labels = (torch.randint(4, model.config.vocab_size, size) for size in shape)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        return forced_logits(model, source, torch.ones_like(source), labels, Places.of(labels), 0, 0)


def counted_flops(model: Any, micro: Micro, backward: bool = True) -> int:
    """Operations of a forward and backward pass by PyTorch's counter."""
    if hasattr(model, "set_attn_implementation"):  # transformers 4.41 knows no other of T5
        model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        logits = logits_of(model, micro)
        if backward:
            logits.backward(torch.ones_like(logits))
    return int(counter.get_total_flops())


def measured_peak(model: Any, micro: Micro, bf16: bool, folder: Path) -> int:
    """The most bytes that a second forward and backward pass allocates: the first one has made the gradients."""

    def once() -> None:
        logits = logits_of(model, micro, bf16)
        logits.backward(torch.ones_like(logits))

    once()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        once()
    file = folder / "trace.json"
    recorded.export_chrome_trace(str(file))
    return highest_sum(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])

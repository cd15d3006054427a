"""teach_on_gpu.py's T5, gradients and update beside those of transformers and distillctl, on the CPU in float32.

python compare.py pack.npz TEACHER          # a folder with model.safetensors, 24 records of dev
"""

from __future__ import annotations

import sys

import numpy as np
import teach_on_gpu
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5ForConditionalGeneration

from distillctl.core.config.schema import TrainingConfig
from distillctl.core.training.optimisation import make_optimizers, set_learning_rate

RECORDS, RATE, DECAY = 24, 2e-3, 0.05


def main(pack: str, teacher: str) -> None:
    """Prints how far the two are apart."""
    data = np.load(pack)
    source, labels = (torch.from_numpy(data[name][:RECORDS].astype(np.int64)) for name in ("dev_source", "dev_labels"))
    labels[labels == 0] = -100
    before = {name: w.float() for name, w in load_file(f"{teacher}/model.safetensors").items()}
    net = teach_on_gpu.Net(before, torch.device("cpu"), torch.float32)
    theirs = T5ForConditionalGeneration.from_pretrained(teacher, dtype=torch.float32)  # dropout is 0 there
    teach_on_gpu.DROPOUT = 0.0
    valid = labels != -100
    found = theirs(input_ids=source, attention_mask=(source != 0).long(), labels=labels)
    apart = (net.logits(source, labels, False) - found.logits)[valid].abs().max()
    print(f"logits: {apart:.1e} of up to {found.logits[valid].abs().max():.1f}")
    net.loss(source, labels).backward()
    found.loss.backward()
    weights = dict(theirs.named_parameters())
    gradients = {name: w.grad for name, w in net.rest.items()}
    for group, stack in zip(teach_on_gpu.GROUPS, net.stacks, strict=True):
        gradients |= dict(zip(group, stack.grad.unbind(0), strict=True))
    print(f"gradients: {max(relative(gradients[name], w.grad) for name, w in weights.items()):.1e}")
    update = teach_on_gpu.Update(net, DECAY)
    update.rate.fill_(RATE)
    settings = TrainingConfig(
        optimizer="muon",
        learning_rate=RATE,
        embedding_learning_rate_scale=teach_on_gpu.EMBEDDING_SCALE,
        weight_decay=DECAY,
    )
    optimizers = make_optimizers(theirs, settings)
    set_learning_rate(optimizers, RATE)
    for _ in range(2):
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        update.apply()
    moved = {name: relative(new - before[name], (weights[name] - before[name])) for name, new in net.weights().items()}
    adamw = max(far for name, far in moved.items() if name in net.rest)
    print(f"what two steps moved: {adamw:.1e} by AdamW, {max(moved.values()):.1e} by Muon, which rounds to bfloat16")


def relative(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|."""
    return ((ours - theirs).norm() / theirs.norm()).item()


if __name__ == "__main__":
    main(*sys.argv[1:])

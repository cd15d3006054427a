"""A whole tiny world on disk: a corpus of some 60 records, a tokenizer made for it, a T5 teacher of width 16."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, set_seed

from distillctl.core.config import Config, load_config
from distillctl.core.data.records import Record, fingerprint, read_jsonl, write_jsonl
from distillctl.core.data.splits import split_of
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.materials import encode_data, load_models, make_guides, open_data, with_bank, with_teacher_cache
from distillctl.core.models.loading import save_model
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir import RunDirectory
from distillctl.core.training.accelerator import make_accelerator
from distillctl.core.training.loop import Trainer
from distillctl.core.training.stepper import Stepper
from distillctl.core.training.terms import make_objective

# Files per split: far from the usual shares, so that few records fill all three.
FILES = {"train": 30, "dev": 3, "validation": 7}
RECORDS = {"train": 48, "dev": 4, "validation": 10}
TIMING = ("step_seconds", "data_seconds", "tokens_per_second", "peak_memory_mb")
ALL_TERMS = ("focal", "jsd", "semantic", "contrastive")

_THINGS = ("stack", "queue", "table", "graph", "token", "frame", "ledger", "cursor", "socket", "matrix")
_VERBS = ("push", "merge", "parse", "close", "rank", "shift", "count")
_CHECKS = (
    "assert {thing}.{verb}({n}) == {n}",
    "assert {verb}_{thing} is not None",
    "assert len({thing}) == {n}",
    "self.assertEqual({thing}.{verb}(), {n})",
    "assert {verb}_{thing} in {thing}",
)


def tiny_records() -> list[Record]:
    """The same records every time: over 40 files, all of different text, in all three splits."""
    files: dict[str, list[str]] = {split: [] for split in FILES}
    number = 0
    while any(len(files[split]) < wanted for split, wanted in FILES.items()):
        path = f"tests/test_{number}.py"
        split = split_of("tiny", path)
        if len(files[split]) < FILES[split]:
            files[split].append(path)
        number += 1
    paths = [files[split][i % FILES[split]] for split, count in RECORDS.items() for i in range(count)]
    return [_record(index, path) for index, path in enumerate(paths)]


def _record(index: int, path: str) -> Record:
    thing, verb = _THINGS[index % 10], _VERBS[index % 7]
    target = _CHECKS[index % 5].format(thing=thing, verb=verb, n=index)
    setup = "".join(f"    {verb}_{thing}_{i} = {thing}.{verb}({i})\n" for i in range(1 + index % 4))
    return Record(
        id=f"tiny-{index}",
        language="python",
        project="tiny",
        path=path,
        focal_method=f"def {verb}(self, size):\n    return self.{thing}.{verb}(size)",
        test_method_masked=f"def test_{verb}_{thing}():\n    {thing} = make_{thing}({index})\n{setup}    <extra_id_0>",
        assertions=(target,),
    )


def tiny_teacher(tokenizer: Any, seed: int = 0, width: int = 16, **changes: Any) -> T5ForConditionalGeneration:
    """A random T5, 2 + 2 layers unless ``changes`` say otherwise, without dropout."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 32,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    model: T5ForConditionalGeneration = T5ForConditionalGeneration(T5Config(**shape | changes)).eval()
    return model


@dataclass(frozen=True)
class Tiny:
    """Where the tiny world lies. Tests read it and never write to it."""

    corpus: Path
    teacher: Path
    tokenizer: PreTrainedTokenizerFast

    def settings(self, output: Path | str, *more: str) -> list[str]:
        """Settings of a run of a second or so: 6 steps of 8 over 48 records; ``more`` override."""
        return [
            f"output_dir={output}",
            "device=cpu",
            f"data.path={self.corpus}",
            "data.max_source_length=64",
            "data.max_target_length=20",
            f"teacher.model={self.teacher}",
            "teacher.mode=live",
            "training.per_device_train_batch_size=8",
            "training.learning_rate=0.01",
            "training.bf16=false",
            "logging.gradient_steps=2",
            "logging.tensorboard=false",
            "evaluation.limit=3",
            "evaluation.dev_limit=2",
            "evaluation.on_epoch_end=false",
            *more,
        ]

    def config(self, output: Path | str, *more: str) -> Config:
        return load_config(settings=self.settings(output, *more))

    def argv(self, command: str, output: Path | str, *more: str, flags: tuple[str, ...] = ()) -> list[str]:
        """A command line of that run."""
        sets = [part for setting in self.settings(output, *more) for part in ("--set", setting)]
        return [command, *sets, *flags]


def make_tiny(folder: Path) -> Tiny:
    corpus = folder / "corpus.jsonl"
    write_jsonl(corpus, tiny_records())
    loaded = read_jsonl(corpus).records
    texts = [text for r in loaded for text in (r.test_method_masked, r.target, r.focal_method)]
    tokenizer = train_tokenizer(texts, vocabulary_size=400)
    save_model(tiny_teacher(tokenizer), tokenizer, folder / "teacher")
    return Tiny(corpus, folder / "teacher", tokenizer)


def make_trainer(config: Config, score_dev: Callable[[Any], float] | None = None) -> Trainer:
    """What ``distil`` gives its trainer, in a new run directory."""
    set_seed(config.seed)
    accelerator = make_accelerator(config.device, bf16=config.training.bf16 is True)
    data = open_data(config, SilentReporter())
    models = load_models(config)
    encoded = encode_data(config, data, models.tokenizer, SilentReporter())
    guides, _ = make_guides(config, models, encoded.train, accelerator.device, SilentReporter())
    guides, _ = with_teacher_cache(config, guides, models, encoded.train, SilentReporter(), accelerator.autocast)
    guides, _ = with_bank(config, guides, models, encoded.train, SilentReporter())
    objective = make_objective(config.objective, models.shared_vocabulary)
    return Trainer(
        Stepper(config, accelerator, models.student, encoded.train.examples, guides, objective),
        models.tokenizer,
        RunDirectory.create(config.output_dir),
        fingerprint(encoded.train.records),
        score_dev,
    )


def rows_of(run: Path) -> list[dict[str, str]]:
    """step_metrics.csv as text, without the columns that differ from run to run."""
    with (run / "step_metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of a model's weights by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference of all weights, relative to the norm of the first."""
    assert a.keys() == b.keys()
    difference = sum((a[name].double() - b[name].double()).square().sum().item() for name in a)
    return float((difference / sum(tensor.double().square().sum().item() for tensor in a.values())) ** 0.5)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""The configuration of a run: frozen, typed, small; unknown keys and values out of range are refused.

Every section is a frozen pydantic model with strict types, and every field says what it does. Load one with
:func:`distillctl.core.config.load_config`; this module knows nothing of files and flags.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from distillctl.core.config import defaults
from distillctl.core.config.objective import ObjectiveConfig
from distillctl.core.config.section import Count, Place, Section, Seed, Share, Text, Texts

DRAWN_INITS = ("random", "induction")
"""Values of ``student.init`` that draw new weights."""
SHAPED_INITS = ("teacher-layers", *DRAWN_INITS)
"""Values of ``student.init`` that take their shape from ``encoder_layers`` and ``decoder_layers``."""


_TRUSTED = "Commit (40 hex digits) of this hub model whose own code may run; null runs none."


def _commit(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise PydanticCustomError("commit", "should be a whole commit, 40 hex digits: a branch or tag can be moved")
    return text


Commit = Annotated[str, AfterValidator(_commit)]


class DataConfig(Section):
    """Which records to train on, and how long they may be."""

    path: Place | None = Field(
        default=None,
        description="JSONL file of records; null mines the embedded corpus from installed packages.",
    )
    packages: Texts | None = Field(
        default=None,
        description="Packages whose test suites are mined; null is every dependency that ships its tests.",
    )
    mask: Literal["one", "all"] = Field(
        default="one",
        description="one: one assertion masked, the test's others stay visible; all: every assertion masked.",
    )
    max_assertions_per_test: Annotated[int, Field(ge=1, le=100)] = Field(
        default=defaults.MAX_ASSERTIONS_PER_TEST,
        description="With mask one: records made from a test at most. With all: tests with more are left out.",
    )
    max_source_length: Annotated[int, Field(ge=16, le=16384)] = Field(
        default=defaults.MAX_SOURCE_LENGTH,
        description="Source tokens an input may have; longer ones are cut.",
    )
    max_target_length: Annotated[int, Field(ge=4, le=4096)] = Field(
        default=defaults.MAX_TARGET_LENGTH,
        description="Target tokens an example may have; longer ones are cut.",
    )
    max_train_samples: Count | None = Field(
        default=defaults.MAX_TRAIN_SAMPLES,
        description="Train on this many records at most (chosen by the seed); null is all.",
    )
    sample_seed: Seed | None = Field(
        default=None,
        description="Seed that chooses the max_train_samples records, so that runs of several seeds train on the same "
        "ones; null is the run's own seed.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.path is not None and self.packages is not None:
            raise PydanticCustomError("data", "path and packages are both set: choose one, and set the other to null")
        if self.packages == ():
            raise PydanticCustomError("data", "packages is empty: name at least one package, or use null for all")
        return self


class StudentConfig(Section):
    """The model that is trained."""

    model: Text = Field(
        default="embedded",
        description="Architecture and tokenizer: a local path or hub name; embedded derives the shape from "
        "the teacher.",
    )
    init: Text = Field(
        default="teacher-layers",
        description="First weights: teacher-layers, random, induction (random with heads that copy; T5), "
        "pretrained (those of student.model), or a path "
        "or name. "
        "null: teacher-layers for the embedded student, pretrained for any other.",
    )
    encoder_layers: Annotated[int, Field(ge=1, le=200)] | None = Field(
        default=None, description="Encoder layers of the student; null is half of the teacher's (embedded)."
    )
    decoder_layers: Annotated[int, Field(ge=1, le=200)] | None = Field(
        default=None, description="Decoder layers of the student; null is half of the teacher's (embedded)."
    )
    trusted_revision: Commit | None = Field(default=None, description=_TRUSTED)

    @model_validator(mode="before")
    @classmethod
    def _init_follows_model(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("init") is None:
            embedded = values.get("model", "embedded") == "embedded"
            return {**values, "init": "teacher-layers" if embedded else "pretrained"}
        return values

    @model_validator(mode="after")
    def _init_has_weights(self) -> StudentConfig:
        if self.init == "pretrained" and self.model == "embedded":
            raise PydanticCustomError(
                "student",
                "init pretrained needs weights, and the embedded student has none: use teacher-layers or "
                "random, or "
                "name a model",
            )
        if self.init not in SHAPED_INITS and (self.encoder_layers, self.decoder_layers) != (None, None):
            raise PydanticCustomError(
                "student",
                "encoder_layers and decoder_layers only apply to init teacher-layers, random and induction: ready "
                "weights have "
                "their own number of layers. Set them to null",
            )
        return self


class TeacherConfig(Section):
    """The model that is learned from."""

    model: Text = Field(
        default="embedded",
        description="A local path or hub name; embedded is the small teacher in the package.",
    )
    mode: Literal["live", "cached"] = Field(
        default="cached",
        description="cached: the teacher's outputs are captured once, before the first step, and read from disk. live: "
        "it runs on every batch beside the student.",
    )
    top_k: Count | None = Field(
        default=None,
        description="Ids a token keeps in the cache; null is the fewest that keep the gradient (cosine 0.99).",
    )
    cache_dir: Place | None = Field(
        default=None,
        description="Directory of the cache; null is one in $DISTILLCTL_CACHE, named after what the cache is made of.",
    )
    trusted_revision: Commit | None = Field(default=None, description=_TRUSTED)


class EncoderConfig(Section):
    """The frozen encoder that the semantic and contrastive terms see through."""

    model: Text = Field(
        default="teacher", description="A local path or hub name; teacher is the teacher's own encoder."
    )
    cache_dir: Place | None = Field(
        default=None,
        description="Directory of the embedding bank; null is one in $DISTILLCTL_CACHE, named after what it is made "
        "of.",
    )
    trusted_revision: Commit | None = Field(default=None, description=_TRUSTED)


def _bf16(value: object) -> object:
    if not (isinstance(value, bool) or value == "auto"):
        raise PydanticCustomError("bf16", "should be true, false or auto")
    return value


class TrainingConfig(Section):
    """Optimisation. Names are those of Hugging Face's TrainingArguments where it has one."""

    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon updates the matrices of hidden layers; AdamW does the rest."
    )
    learning_rate: float = Field(
        default=defaults.LEARNING_RATE, gt=0, le=1, description="Peak learning rate, after the warm-up."
    )
    embedding_learning_rate_scale: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Learning rate of the token embeddings, as a multiple of learning_rate; 5-10 for new models.",
    )
    weight_decay: float = Field(
        default=defaults.WEIGHT_DECAY,
        ge=0,
        le=1,
        description="Decoupled weight decay (norms and biases have none).",
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of AdamW's first moment.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of AdamW's second moment.")
    adam_epsilon: float = Field(default=1e-8, gt=0, le=0.1, description="Added to AdamW's denominator.")
    warmup_ratio: Share = Field(
        default=defaults.WARMUP_RATIO,
        description="Share of the steps in which the learning rate rises from 0.",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the learning rate falls after the warm-up."
    )
    num_train_epochs: float = Field(
        default=defaults.NUM_TRAIN_EPOCHS,
        gt=0,
        le=10000,
        description="Passes over the records; may be a fraction.",
    )
    max_steps: Count | None = Field(
        default=None, description="Stop after this many optimizer steps; overrides num_train_epochs."
    )
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=defaults.PER_DEVICE_TRAIN_BATCH_SIZE, description="Examples in one micro-batch on one device."
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1, description="Micro-batches in one optimizer step; the result does not depend on the split."
    )
    max_grad_norm: float = Field(
        default=defaults.MAX_GRAD_NORM,
        gt=0,
        le=1e9,
        description="The total gradient norm is clipped to this.",
    )
    bf16: Annotated[bool | Literal["auto"], BeforeValidator(_bf16)] = Field(
        default="auto",
        description="Run the models in bfloat16 autocast; the LM head and the losses stay fp32. auto: where the "
        "device computes in bfloat16 itself.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, more time."
    )
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Dropout of the student while training; null keeps the model's own."
    )
    on_nan: Literal["stop", "skip"] = Field(
        default="stop",
        description="At a NaN or an infinity in a loss or gradient: stop the run, or skip that step and count it.",
    )

    @property
    def step_batch_size(self) -> int:
        """Examples of one optimizer step on one device: micro-batch size x accumulation."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


class LoggingConfig(Section):
    """What is written while training."""

    steps: Count = Field(default=1, description="Write a row of step_metrics.csv every so many optimizer steps.")
    gradient_steps: Count = Field(
        default=defaults.GRADIENT_STEPS,
        description="Measure each term's own gradient at the logits every so many optimizer steps.",
    )
    tensorboard: bool = Field(default=True, description="Mirror every scalar of step_metrics.csv in TensorBoard.")


class EvaluationConfig(Section):
    """How students are scored."""

    split: Literal["validation", "dev"] = Field(
        default="validation",
        description="Split scored at the end. Choices are made on dev, never on validation.",
    )
    limit: Annotated[int, Field(ge=0)] = Field(
        default=defaults.EVALUATION_LIMIT, description="Records scored at the end; 0 is all."
    )
    dev_limit: Annotated[int, Field(ge=0)] = Field(
        default=defaults.DEV_LIMIT, description="Records of dev scored at each epoch's end; 0 is all."
    )
    batch_tokens: Annotated[int, Field(ge=16)] = Field(
        default=defaults.EVALUATION_BATCH_TOKENS,
        description="Padded source tokens decoded in one batch; more is faster and needs more memory.",
    )
    num_beams: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Beam width; 1 is greedy decoding.")
    on_epoch_end: bool = Field(default=True, description="Score dev after each epoch, to keep the best checkpoint.")


class CheckpointConfig(Section):
    """What is kept of a run on the way."""

    save_total_limit: Annotated[int, Field(ge=2, le=10000)] = Field(
        default=2,
        description="Newest checkpoints kept, and the best beside them. Two at least: one may turn out damaged.",
    )
    save_steps: Count | None = Field(
        default=defaults.SAVE_STEPS,
        description="Write a checkpoint every so many optimizer steps, besides each epoch's end; null: there alone.",
    )


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise PydanticCustomError("device", "should be auto, cpu, cuda, cuda:N or mps")
    return name


class Config(Section):
    """Everything that decides what a run does. Two runs with equal configs do the same thing."""

    seed: Seed = Field(
        default=13, description="Seed of everything random: initial weights, the order of records, dropout."
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps; auto takes the best one there is."
    )
    output_dir: Place = Field(default="results/run", description="Run directory: everything a run leaves is in it.")
    data: DataConfig = Field(default=DataConfig(), description="Which records to train on.")
    student: StudentConfig = Field(default=StudentConfig(), description="The model that is trained.")
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="The model that is learned from.")
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="The frozen encoder of the semantic terms.")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="The loss terms and their weights.")
    training: TrainingConfig = Field(default=TrainingConfig(), description="How the student is optimised.")
    logging: LoggingConfig = Field(default=LoggingConfig(), description="What is written while training.")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="How students are scored.")
    checkpoints: CheckpointConfig = Field(default=CheckpointConfig(), description="What is kept on the way.")

    @model_validator(mode="after")
    def _negatives_exist(self) -> Config:
        if self.objective.contrastive.is_active and self.training.step_batch_size == 1:
            raise PydanticCustomError(
                "negatives",
                "objective.contrastive: a batch of one with in-batch negatives has no negatives. Raise "
                "training.per_device_train_batch_size or gradient_accumulation_steps, or set the weight to 0",
            )
        return self

    @model_validator(mode="after")
    def _caches_outlive_the_run(self) -> Config:
        chosen = {"teacher": self.teacher.cache_dir, "encoder": self.encoder.cache_dir}
        places = {name: Path(cache).resolve() for name, cache in chosen.items() if cache is not None}
        for name, place in places.items():
            if place.is_relative_to(Path(self.output_dir).resolve()):
                raise PydanticCustomError(
                    "cache_dir",
                    "{name}.cache_dir lies in output_dir, which --overwrite empties: choose a directory beside it",
                    {"name": name},
                )
        if len(places) == 2 and places["teacher"] == places["encoder"]:
            raise PydanticCustomError(
                "cache_dir", "teacher.cache_dir and encoder.cache_dir are the same: each needs a directory of its own"
            )
        return self

    def with_section(self, section: str, **changes: Any) -> Config:
        """A copy with some fields of one section changed; they are not checked again."""
        changed = getattr(self, section).model_copy(update=changes)
        return self.model_copy(update={section: changed})

    def to_dict(self) -> dict[str, Any]:
        """Plain mappings, lists, numbers and texts: what YAML and JSON can hold, in the schema's order."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the resolved values but ``output_dir``: where a run lies is not what it does."""
        values = self.to_dict()
        del values["output_dir"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

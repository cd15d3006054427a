"""The main job from configuration to scored student: data, models, gate, training, evaluation, run directory.

``distil`` learns from a teacher; ``teach`` is the same job without one, on plain cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, set_seed

from distillctl.core.config.objective import WeightSchedule
from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import describe
from distillctl.core.data.encoding import Encoded
from distillctl.core.data.records import fingerprint
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.errors import RunError
from distillctl.core.evaluation.baselines import most_frequent, previous_assertion
from distillctl.core.evaluation.decoding import decode
from distillctl.core.evaluation.evaluate_assertions import Scores, score, write
from distillctl.core.materials import Data, EncodedData, encode_data, make_guides, open_data
from distillctl.core.models.loading import (
    EMBEDDED,
    freeze,
    load_seq2seq,
    load_tokenizer,
    save_model,
    weights_fingerprint,
)
from distillctl.core.models.student import embedded_shape, make_student
from distillctl.core.models.vocabulary import shared_vocabulary
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import Clock, RunDirectory, RunStatus, write_model_card
from distillctl.core.training.accelerator import make_accelerator
from distillctl.core.training.checkpoints import Checkpoint, latest_checkpoint
from distillctl.core.training.loop import Trainer, TrainingResult
from distillctl.core.training.step_inputs import plan_steps
from distillctl.core.training.terms import make_objective

MOST_FREQUENT, PREVIOUS = "most frequent assertion", "previous assertion"
TEACHER, UNTRAINED, STUDENT = "teacher", "student before training", "student"


@dataclass
class Outcome:
    """What a run leaves besides its files. ``scores``: system -> metrics (points), in the order they are shown."""

    run: RunDirectory
    records_scored: int
    split: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    training: TrainingResult | None = None


@dataclass(frozen=True)
class Models:
    """A student, its tokenizer, and the teacher if there is one."""

    student: Any
    tokenizer: Any
    teacher: Any | None
    shared_vocabulary: int | None


def distil(config: Config, reporter: Reporter, *, overwrite: bool = False, resume: bool = False) -> Outcome:
    """Distils a student from a teacher as configured, and scores it.

    Raises:
        DistillError: bad input (before anything is written), or a failure while running.
        KeyboardInterrupt: after Ctrl-C; the student so far lies in ``student/`` and in a checkpoint.
    """
    RunDirectory.check(config.output_dir, overwrite=overwrite, resume=resume, inputs=_inputs(config))
    clock = Clock()
    set_seed(config.seed)
    with clock.phase("data"):
        data = open_data(config, reporter)
    with clock.phase("models"):
        models = load_models(config)
    return _run(config, reporter, clock, data, models, overwrite, resume)


def teach(config: Config, reporter: Reporter, *, overwrite: bool = False) -> Outcome:
    """Trains a model with plain cross-entropy on the same records: a teacher for later."""
    config = cross_entropy_only(config)
    RunDirectory.check(config.output_dir, overwrite=overwrite, inputs=_inputs(config))
    clock = Clock()
    set_seed(config.seed)
    with clock.phase("data"):
        data = open_data(config, reporter)
    with clock.phase("models"):
        models = new_teacher(config, data, reporter)
    return _run(config, reporter, clock, data, models, overwrite, resume=False)


def plan(config: Config, reporter: Reporter, *, overwrite: bool = False, resume: bool = False) -> dict[str, object]:
    """What ``distil`` would do, by name: everything is loaded and checked, nothing is written but the corpus cache."""
    RunDirectory.check(config.output_dir, overwrite=overwrite, resume=resume, inputs=_inputs(config))
    data = open_data(config, reporter)
    models = load_models(config)
    encoded = encode_data(config, data, models.tokenizer, reporter)
    facts: dict[str, object] = {
        "training records": f"{len(encoded.train.examples):,} of {len(data.all_train):,}",
        f"{config.evaluation.split} records": f"{len(encoded.final.examples):,}",
        "optimizer steps": f"{plan_steps(config, encoded.train.examples, 1).steps:,}",
        "loss terms": ", ".join(config.objective.active_terms),
    }
    for role, model in (("student", models.student), ("teacher", models.teacher)):
        if model is not None:
            facts[f"{role} parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    return facts


def cross_entropy_only(config: Config) -> Config:
    """The configuration with the objective reduced to cross-entropy: focal loss with alpha 1 and gamma 0."""
    objective = config.objective
    off = WeightSchedule(start=0.0, end=0.0)
    changed = objective.model_copy(
        update={
            "focal": objective.focal.model_copy(
                update={"weight": WeightSchedule(start=1.0, end=1.0), "alpha": 1.0, "gamma": 0.0, "log_only": False}
            ),
            "jsd": objective.jsd.model_copy(update={"weight": off, "log_only": False}),
            "semantic": objective.semantic.model_copy(update={"weight": off, "log_only": False}),
            "contrastive": objective.contrastive.model_copy(update={"weight": off, "log_only": False}),
            "critical_tokens": objective.critical_tokens.model_copy(update={"weight": 1.0}),
            "max_auxiliary_share": None,
        }
    )
    return config.model_copy(update={"objective": changed})


def _inputs(config: Config) -> list[str]:
    names = [config.student.model, config.student.init, config.teacher.model, config.encoder.model]
    return [name for name in [*names, config.data.path] if name is not None]


def load_models(config: Config) -> Models:
    """Teacher, student and tokenizer, checked against each other."""
    teacher = freeze(load_seq2seq(config.teacher.model, "teacher"))
    teacher_tokenizer = load_tokenizer(config.teacher.model, "teacher")
    student = make_student(config.student, teacher)
    named = [name for name in (config.student.model,) if name != EMBEDDED]
    tokenizer = load_tokenizer(named[0], "student") if named else teacher_tokenizer
    shared = shared_vocabulary(
        tokenizer, teacher_tokenizer, logit_width(student), logit_width(teacher)
    )
    return Models(student, tokenizer, teacher, shared)


def logit_width(model: Any) -> int:
    """Number of logits of a model: its vocabulary with padding."""
    return int(model.get_output_embeddings().weight.shape[0])


def new_teacher(config: Config, data: Data, reporter: Reporter) -> Models:
    """A model to be taught: the embedded shape with a tokenizer made for the data, or a named model."""
    if config.student.model != EMBEDDED:
        tokenizer = load_tokenizer(config.student.model, "student")
        return Models(make_student(config.student, None), tokenizer, None, None)
    with reporter.task("training the tokenizer"):
        texts = (text for r in data.all_train for text in (r.test_method_masked, r.target, r.focal_method))
        tokenizer = train_tokenizer(texts)
    student = AutoModelForSeq2SeqLM.from_config(embedded_shape(len(tokenizer)))
    return Models(student, tokenizer, None, None)


def _run(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    data: Data,
    models: Models,
    overwrite: bool,
    resume: bool,
) -> Outcome:
    accelerator = make_accelerator(config.device, config.training.bf16)
    with clock.phase("tokenising"):
        encoded = encode_data(config, data, models.tokenizer, reporter)
    run = RunDirectory.create(config.output_dir, overwrite=overwrite, resume=resume, inputs=_inputs(config))
    outcome = Outcome(run, len(encoded.final.examples), config.evaluation.split, seconds=clock.seconds)
    with RunStatus(run, clock):
        checkpoint = latest_checkpoint(run) if resume else None
        if checkpoint is None:
            run.write_config(config.to_dict())
        data_fingerprint = fingerprint(encoded.train.records)
        _note_provenance(run, config, data, encoded, models, data_fingerprint)
        device = accelerator.device
        models.student.to(device)
        if models.teacher is not None:
            models.teacher.to(device)
        with clock.phase("scoring before training"):
            _score_beforehand(config, reporter, outcome, data, encoded.final, models)
        with clock.phase("bank"):
            guides, facts = make_guides(
                config, models.teacher, models.tokenizer, logit_width(models.student), encoded.train, device, reporter
            )
        run.note(**facts)
        trainer = Trainer(
            config,
            accelerator,
            models.student,
            models.tokenizer,
            encoded.train.examples,
            guides,
            make_objective(
                config.objective,
                models.shared_vocabulary,
                lambda tensor: accelerator.reduce(tensor, reduction="sum"),
            ),
            run,
            data_fingerprint,
            _dev_scorer(config, encoded.dev, models.tokenizer) if encoded.dev.examples else None,
        )
        outcome.training = _train(trainer, run, reporter, clock, checkpoint)
        _finish(config, reporter, clock, outcome, encoded, models)
    return outcome


def _train(
    trainer: Trainer, run: RunDirectory, reporter: Reporter, clock: Clock, checkpoint: Checkpoint | None
) -> TrainingResult:
    if checkpoint is not None:
        reporter.note(f"going on after step {checkpoint.state.step:,}")
    try:
        with clock.phase("training"):
            result = trainer.train(reporter, checkpoint)
    except torch.OutOfMemoryError as error:
        raise RunError(
            "out of memory on the device: lower training.per_device_train_batch_size and raise "
            "gradient_accumulation_steps by the same factor; the result stays the same"
        ) from error
    save_model(trainer.student, trainer.tokenizer, run.student)
    run.note(
        training={
            "steps": result.steps,
            "planned_steps": trainer.plan.steps,
            "examples": trainer.plan.examples,
            "target_tokens": trainer.state.target_tokens,
            "dev_f1": result.dev_f1,
            "best_step": trainer.state.best_step,
        },
        gate=result.gate_norms or None,
    )
    if result.interrupted:
        reporter.note(
            f"stopped after step {result.steps:,}. The student so far: {run.student}\n"
            f"To go on: distillctl train --config {run.config_file} --resume"
        )
        raise KeyboardInterrupt
    return result


def _predict(config: Config, reporter: Reporter, title: str, model: Any, tokenizer: Any, data: Encoded) -> list[str]:
    with reporter.task(title, len(data.examples)) as task:
        return decode(
            model,
            tokenizer,
            data.examples,
            num_beams=config.evaluation.num_beams,
            max_new_tokens=config.data.max_target_length,
            tokens_per_batch=config.evaluation.batch_tokens,
            bf16=config.training.bf16,
            on_progress=task.update,
        )


def _dev_scorer(config: Config, dev: Encoded, tokenizer: Any) -> Any:
    def f1(model: Any) -> float:
        predictions = decode(
            model,
            tokenizer,
            dev.examples,
            max_new_tokens=config.data.max_target_length,
            tokens_per_batch=config.evaluation.batch_tokens,
            bf16=config.training.bf16,
        )
        return headline(score(dev.records, predictions))["f1"]

    return f1


HEADLINE = ("f1", "precision", "recall", "exact_match", "valid_syntax", "bleu", "edit_similarity")


def headline(scores: Scores) -> dict[str, float]:
    """The metrics shown in tables, in points."""
    return {name: float(scores.metrics["scores"][name]) for name in HEADLINE}


def _score_beforehand(
    config: Config, reporter: Reporter, outcome: Outcome, data: Data, final: Encoded, models: Models
) -> None:
    """Trivial answers, teacher and untrained student on the records the student will be scored on."""
    records = final.records
    frequent = most_frequent(record.assertions for record in data.all_train)
    previous = [previous_assertion(record.test_method_masked, record.language) for record in records]
    outcome.scores[MOST_FREQUENT] = headline(score(records, [frequent] * len(records)))
    outcome.scores[PREVIOUS] = headline(score(records, previous))
    for name, model in ((TEACHER, models.teacher), (UNTRAINED, models.student)):
        if model is not None:
            predictions = _predict(config, reporter, f"scoring the {name}", model, models.tokenizer, final)
            outcome.scores[name] = headline(score(records, predictions))


def _finish(
    config: Config, reporter: Reporter, clock: Clock, outcome: Outcome, encoded: EncodedData, models: Models
) -> None:
    """Scores the student, writes evaluation/ and the model card."""
    final = encoded.final
    with clock.phase("scoring"):
        predictions = _predict(config, reporter, f"scoring the {STUDENT}", models.student, models.tokenizer, final)
        scores = score(final.records, predictions)
        outcome.scores[STUDENT] = headline(scores)
        write(
            outcome.run.evaluation(outcome.split),
            scores,
            {
                "split": outcome.split,
                "beside": {name: values for name, values in outcome.scores.items() if name != STUDENT},
                "decoding": {
                    "num_beams": config.evaluation.num_beams,
                    "max_new_tokens": config.data.max_target_length,
                    "bf16": config.training.bf16,
                },
            },
        )
    _write_card(config, outcome, encoded)


def _write_card(config: Config, outcome: Outcome, encoded: EncodedData) -> None:
    record = outcome.run.record()
    taught = models_taught(config)
    write_model_card(
        outcome.run.student,
        title=f"Assertion generation, {taught}",
        made={
            "made by": f"distillctl {record['distillctl']['version']}",
            "commit": record["distillctl"]["commit"] or "installed package",
            "teacher": config.teacher.model if taught.startswith("distilled") else "none (plain cross-entropy)",
            "training records": f"{len(encoded.train.examples):,}",
            "optimizer steps": f"{record['training']['steps']:,}",
            "loss terms": ", ".join(config.objective.trained_terms),
            "semantic_loss_scale (beta)": config.objective.semantic_loss_scale,
            "data fingerprint": record["fingerprints"]["data"][:16],
            "configuration": "config.yaml beside this folder, fingerprint " + config.fingerprint()[:16],
        },
        scores={system: dict(values) for system, values in outcome.scores.items()},
        scored_on=f"{outcome.records_scored:,} records of the {outcome.split} split",
        max_source_length=config.data.max_source_length,
        max_target_length=config.data.max_target_length,
    )


def models_taught(config: Config) -> str:
    """How a run's model learned, for titles."""
    needs_teacher = set(config.objective.active_terms) - {"focal"}
    return f"distilled from {config.teacher.model}" if needs_teacher else "trained with cross-entropy"


def _note_provenance(
    run: RunDirectory, config: Config, data: Data, encoded: EncodedData, models: Models, data_fingerprint: str
) -> None:
    fingerprints = {
        "config": config.fingerprint(),
        "data": data_fingerprint,
        config.evaluation.split: fingerprint(encoded.final.records),
        "tokenizer": tokenizer_fingerprint(models.tokenizer),
        "student_before": weights_fingerprint(models.student),
    }
    if models.teacher is not None:
        fingerprints["teacher"] = weights_fingerprint(models.teacher)
    truncation = {
        name: {
            "examples": len(part.examples),
            "inputs_truncated": part.inputs_truncated,
            "targets_truncated": part.targets_truncated,
            "dropped": part.dropped,
        }
        for name, part in (("train", encoded.train), ("dev", encoded.dev), (config.evaluation.split, encoded.final))
    }
    run.note(
        fingerprints=fingerprints,
        seeds={"seed": config.seed},
        corpus=describe(data.corpus),
        truncation=truncation,
        planned_steps=plan_steps(config, encoded.train.examples, 1).steps,
    )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (hex) over a tokenizer's tokens and ids."""
    import hashlib
    import json

    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()

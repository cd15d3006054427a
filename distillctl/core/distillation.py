"""The main job from configuration to scored student: data, models, gate, training, evaluation, run directory.

``distil`` learns from a teacher; ``teach`` is the same job without one, on plain cross-entropy.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from transformers import set_seed

from distillctl.core.config.objective import WeightSchedule
from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import Corpus
from distillctl.core.data.records import fingerprint
from distillctl.core.errors import RunError, Terminated
from distillctl.core.materials import (
    Data,
    Models,
    encode_data,
    load_models,
    make_guides,
    new_teacher,
    open_data,
    trim_frozen_models,
    with_bank,
    with_facts,
    with_teacher_cache,
)
from distillctl.core.models.loading import save_model
from distillctl.core.processes import OtherProcessFailed, Processes
from distillctl.core.progress import Reporter
from distillctl.core.provenance import learned_from, note_provenance, write_card
from distillctl.core.run_dir import Clock, RunDirectory, RunStatus
from distillctl.core.scoring import (
    STUDENT,
    UNTRAINED,
    SystemScores,
    all_scores,
    cached_store,
    dev_scorer,
    points,
    score_and_store,
    score_model,
    score_teacher,
    score_trivial_answers,
)
from distillctl.core.training.accelerator import resolve_precision, start_together
from distillctl.core.training.checkpoints import Checkpoint
from distillctl.core.training.loop import Trainer, TrainingResult
from distillctl.core.training.resuming import check_same_models, checkpoint_to_resume, how_to_go_on
from distillctl.core.training.step_inputs import plan_steps
from distillctl.core.training.stepper import Stepper
from distillctl.core.training.terms import make_objective


@dataclass
class Outcome:
    """What a run leaves besides its files. ``scores``: system -> metrics (points), in the order they are shown."""

    run: RunDirectory
    records_scored: int
    split: str
    scores: dict[str, SystemScores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    training: TrainingResult | None = None


def distil(
    config: Config,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
    corpus: Corpus | None = None,
) -> Outcome:
    """Distils a student from a teacher as configured, and scores it.

    ``corpus`` is the configured one where it has been opened already, by a sweep say.

    Raises:
        DistillError: bad input (before anything is written), or a failure while running.
        KeyboardInterrupt: after Ctrl-C; the student so far lies in ``student/`` and in a checkpoint.
    """
    config = resolve_precision(config)
    accelerator, processes = _start(config, overwrite, resume)
    clock = Clock()
    with processes.one_fate():
        set_seed(config.seed)
        with clock.phase("data"), processes.main_first():
            data = open_data(config, reporter, corpus)

        def load() -> Models:
            return load_models(config)

        return _run(config, reporter, clock, accelerator, processes, data, load, overwrite, resume)


def teach(config: Config, reporter: Reporter, *, overwrite: bool = False) -> Outcome:
    """Trains a model with plain cross-entropy on the same records: a teacher for later."""
    config = resolve_precision(cross_entropy_only(config))
    accelerator, processes = _start(config, overwrite, resume=False)
    clock = Clock()
    with processes.one_fate():
        set_seed(config.seed)
        with clock.phase("data"), processes.main_first():
            data = open_data(config, reporter)

        def load() -> Models:
            return new_teacher(config, data, reporter)

        return _run(config, reporter, clock, accelerator, processes, data, load, overwrite, resume=False)


def _start(config: Config, overwrite: bool, resume: bool) -> tuple[Accelerator, Processes]:
    """Joins the other processes, if there are any, and refuses a directory that may not be written to."""
    accelerator, processes = start_together(config)
    processes.on_main(
        lambda: RunDirectory.check(config.output_dir, overwrite=overwrite, resume=resume, inputs=inputs_of(config))
    )
    return accelerator, processes


def cross_entropy_only(config: Config) -> Config:
    """The configuration with the objective reduced to cross-entropy: focal loss with alpha 1 and gamma 0."""
    objective = config.objective
    off = WeightSchedule(start=0.0, end=0.0)
    return config.with_section(
        "objective",
        focal=objective.focal.model_copy(
            update={"weight": WeightSchedule(start=1.0, end=1.0), "alpha": 1.0, "gamma": 0.0, "log_only": False}
        ),
        jsd=objective.jsd.model_copy(update={"weight": off, "log_only": False}),
        semantic=objective.semantic.model_copy(update={"weight": off, "log_only": False}),
        contrastive=objective.contrastive.model_copy(update={"weight": off, "log_only": False}),
        critical_tokens=objective.critical_tokens.model_copy(update={"weight": 1.0}),
        max_auxiliary_share=None,
        balance="fixed",
    )


def inputs_of(config: Config) -> list[str]:
    """Paths and names that a run reads: its directory may not be one of them."""
    names = [config.student.model, config.student.init, config.teacher.model, config.encoder.model]
    return [name for name in [*names, config.data.path] if name is not None]


def _run(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    accelerator: Accelerator,
    processes: Processes,
    data: Data,
    load: Callable[[], Models],
    overwrite: bool,
    resume: bool,
) -> Outcome:
    """The job with its data open. ``load`` is called here, so that nobody else holds on to a teacher that is done."""
    with clock.phase("models"):
        models = load()
    taught = models.teacher is None
    with clock.phase("tokenising"):
        encoded = encode_data(config, data, models.tokenizer, reporter)
    device = accelerator.device
    models.student.to(device)
    if models.teacher is not None:
        models.teacher.to(device)
    guides, facts = make_guides(config, models, encoded.train, device, reporter)
    if config.teacher.mode == "cached":
        with clock.phase("teacher cache"):
            guides, cached = with_teacher_cache(
                config, guides, models, encoded.train, reporter, accelerator.autocast, processes
            )
            facts |= cached
    with clock.phase("bank"):
        guides, bank = with_bank(config, guides, models, encoded.train, reporter, processes)
    facts = with_facts(facts, bank)
    data_fingerprint = fingerprint(encoded.train.records)
    fingerprints = {"data": data_fingerprint} | processes.share(partial(learned_from, models, facts))
    checkpoint = checkpoint_to_resume(config, data_fingerprint, processes.count) if resume else None
    if resume:
        if checkpoint is None:
            reporter.note("there is no checkpoint to go on from: the run begins at step 1")
        check_same_models(RunDirectory.open(config.output_dir), fingerprints, facts.get("bank", {}).get("encoder"))
    # Everything that is read has been by now, and bad input refused: from here on the main process writes files.
    planned = plan_steps(config, encoded.train.examples, processes.count).steps
    steps_left = resume and (checkpoint is None or checkpoint.state.step < planned)
    with _claimed(config, clock, processes, overwrite, resume, steps_left) as run, processes.one_fate():
        outcome = Outcome(run, len(encoded.final.examples), config.evaluation.split, seconds=clock.seconds)
        processes.last_words = lambda failure: run.finish("failed", str(OtherProcessFailed(failure)))
        asked = (models.tokenizer, encoded.final, config, reporter)

        def describe_and_score() -> None:
            run.write_config(config.to_dict())
            note_provenance(run, config, data, encoded, models, fingerprints, processes.count)
            with clock.phase("scoring before training"):
                outcome.scores |= points(score_trivial_answers(encoded.final.records, data.all_train))
                if models.teacher is not None:
                    outcome.scores |= points(score_teacher(models.teacher, *asked))
                # Kept like the teacher's: runs that differ in their objective alone start from the same student.
                store = cached_store(models.student, models.tokenizer, config)
                outcome.scores[UNTRAINED] = all_scores(score_model(UNTRAINED, models.student, *asked, store))
            run.note(**facts)

        processes.on_main(describe_and_score)
        models = replace(models, teacher=None)  # from here on the guides use it, or nobody
        trim_frozen_models(config, guides)
        objective = make_objective(
            config.objective,
            models.shared_vocabulary,
            lambda tensor: accelerator.reduce(tensor, reduction="sum"),
        )
        trainer = Trainer(
            Stepper(config, accelerator, models.student, encoded.train.examples, guides, objective),
            models.tokenizer,
            run,
            data_fingerprint,
            dev_scorer(models.tokenizer, encoded.dev, config) if encoded.dev.examples else None,
            processes,
            resumes=not taught,
        )
        outcome.training = _train(trainer, run, reporter, clock, checkpoint)
        if outcome.training.interrupted:
            reporter.note(f"stopped after step {outcome.training.steps:,}. The student so far: {run.path / 'student'}")
            reporter.note(f"To go on: {shlex.join(how_to_go_on(config, run, taught))}")
            raise Terminated if outcome.training.terminated else KeyboardInterrupt

        def score_student(student: Any) -> None:
            with clock.phase("scoring"):
                folder = run.evaluation(config.evaluation.split)
                outcome.scores[STUDENT] = all_scores(score_and_store(student, *asked, folder, outcome.scores))
            write_card(run, config, encoded, outcome.scores)
            run.seal()

        with trainer.whole_student() as student:
            processes.on_main(partial(score_student, student))
    return outcome


@contextmanager
def _claimed(
    config: Config, clock: Clock, processes: Processes, overwrite: bool, resume: bool, steps_left: bool
) -> Iterator[RunDirectory]:
    """The run's directory: the main process makes and locks it, and says how it ended; the others open it."""
    with ExitStack() as stack:
        with processes.main_first():
            if processes.is_main:
                claim = RunDirectory.claim(
                    config.output_dir,
                    overwrite=overwrite,
                    resume=resume,
                    steps_left=steps_left,
                    inputs=inputs_of(config),
                )
                run = stack.enter_context(claim)
                stack.enter_context(RunStatus(run, clock))
                if resume:
                    _add_seconds(clock, run.record().get("seconds", {}))
            else:
                run = RunDirectory.open(config.output_dir)
        yield run


def _add_seconds(clock: Clock, earlier: Mapping[str, float]) -> None:
    """Counts what a resumed run took before it was stopped."""
    for phase, seconds in earlier.items():
        clock.seconds[phase] = round(clock.seconds.get(phase, 0.0) + seconds, 3)


def _train(
    trainer: Trainer, run: RunDirectory, reporter: Reporter, clock: Clock, checkpoint: Checkpoint | None
) -> TrainingResult:
    if checkpoint is not None:
        reporter.note(f"going on after step {checkpoint.state.step:,}")
    try:
        with clock.phase("training"):
            result = trainer.train(reporter, checkpoint)
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            "out of memory on the device: lower training.per_device_train_batch_size and raise "
            "gradient_accumulation_steps by the same factor, in a new run; the result stays the same"
        ) from error
    with trainer.whole_student() as student:
        if trainer.processes.is_main:
            with run.replacing("student") as folder:
                save_model(student, trainer.tokenizer, folder)
    if trainer.processes.is_main:
        run.note(
            training={
                "steps": result.steps,
                "planned_steps": trainer.plan.steps,
                "examples": trainer.plan.examples,
                "target_tokens": trainer.state.target_tokens,
                "skipped_steps": trainer.state.skipped,
                "dev_f1": result.dev_f1,
                "best_step": trainer.state.best_step,
            },
        )
    return result

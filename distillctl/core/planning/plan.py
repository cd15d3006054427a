"""What ``distil`` would do, without doing it: everything that can be is loaded and checked, and nothing is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from distillctl.core.analysis.document import Table
from distillctl.core.config.schema import SHAPED_INITS, Config
from distillctl.core.data.encoding import Example
from distillctl.core.data.records import fingerprint
from distillctl.core.distillation import inputs_of
from distillctl.core.materials import (
    Data,
    EncodedData,
    Models,
    bank_opener,
    cache_opener,
    encode_data,
    load_models,
    make_guides,
    open_data,
)
from distillctl.core.models.loading import EMBEDDED, load_tokenizer
from distillctl.core.models.student import shaped_config
from distillctl.core.planning.duration import Shapes
from distillctl.core.planning.estimate import Micro, forward_flops
from distillctl.core.planning.forecast import Known, forecast
from distillctl.core.planning.lengths import Lengths
from distillctl.core.planning.memory import process_bytes
from distillctl.core.planning.shapes import encoder_shape, sequence_shape
from distillctl.core.planning.sources import Source, all_here, find_sources
from distillctl.core.planning.tables import source_table, token_table
from distillctl.core.processes import launched
from distillctl.core.progress import Reporter
from distillctl.core.provenance import learned_from
from distillctl.core.run_dir import RunDirectory
from distillctl.core.teacher.choice import SAMPLED_TOKENS
from distillctl.core.teacher.converted import ConvertedCacheOpener
from distillctl.core.teacher.opening import CacheOpener
from distillctl.core.training.accelerator import resolve_precision, training_device
from distillctl.core.training.batches import StepPlan
from distillctl.core.training.resuming import check_same_models, checkpoint_to_resume
from distillctl.core.training.step_inputs import plan_steps
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS

LONG_WORK = 1e12
"""Floating-point operations that a dry run does not spend on a teacher: half a minute of one CPU core."""


@dataclass
class Plan:
    """What a training would do.

    Attributes:
        facts: by name, in the order in which they are shown.
        tables: by title.
        notes: what could not be checked, one line each; a training started now would stop there.
    """

    facts: dict[str, object] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan(config: Config, reporter: Reporter, *, overwrite: bool = False, resume: bool = False) -> Plan:
    """What ``distil`` would do. Where the weights of all models are here, they are loaded and checked as it would.

    Else at most their configurations and a tokenizer are fetched, and figures come from their shapes. Nothing is
    written but what is cached of the corpus and of the vocabularies. Of several processes one is enough: the others
    have nothing to say.

    Raises:
        DistillError: whatever ``distil`` would be refused for; but not for models that are still to be downloaded.
    """
    rank, _, ranks = launched()
    if rank != 0:
        return Plan()
    config = resolve_precision(config)
    device = training_device(config.device)
    RunDirectory.check(config.output_dir, overwrite=overwrite, resume=resume, inputs=inputs_of(config))
    sources = find_sources(config)
    data = open_data(config, reporter)
    found, process = Plan(), process_bytes(device)
    models = load_models(config) if all_here(sources.values()) else None
    tokenizer, counted_by = (models.tokenizer, "the student's tokenizer") if models else _tokenizer(config, sources)
    before = process_bytes(device)  # besides the models, which are counted by themselves
    encoded = encode_data(config, data, tokenizer, reporter)
    process += max(0, process_bytes(device) - before)
    checkpoint = checkpoint_to_resume(config, fingerprint(encoded.train.records), ranks) if resume else None
    steps = plan_steps(config, encoded.train.examples, ranks)
    found.facts = _facts(config, data, encoded, steps, ranks)
    if resume:
        after = f"after step {checkpoint.state.step:,}" if checkpoint else "at step 1: there is no checkpoint yet"
        found.facts["goes on"] = f"{after}; times are those of all steps"
    known = Known(
        config=config,
        device=device,
        process=process,
        student=_student_config(config, sources),
        shapes=_shapes(config, sources),
        encoded=encoded,
        steps=steps,
        ranks=ranks,
        to_capture=encoded.train.examples if _captures(config) else (),
        golds=[example.labels for example in encoded.train.examples],
    )
    if models is not None:
        known = _with_loaded(known, models, found.facts, reporter, resume)
    parts = {"train": encoded.train, "dev": encoded.dev, config.evaluation.split: encoded.final}
    found.tables["Tokens"] = token_table({name: part for name, part in parts.items() if part.records}, counted_by)
    found.tables["Models"] = source_table(_shown(config, sources), _parameters(known.shapes))
    found.tables |= forecast(known, reporter, found.notes)
    found.notes += _remarks(list(sources.values()))
    return found


def _remarks(sources: Sequence[Source]) -> list[str]:
    """What a user has to do something about: names that nobody could look at in one line, and other notes."""
    away = [source for source in sources if source.place == "out of reach"]
    notes = [
        f"{source.role} {source.name!r}: {source.note}" for source in sources if source.place == "hub" and source.note
    ]
    if away:
        names = ", ".join(f"{source.role} {source.name!r}" for source in away)
        options = " ".join(f"--{source.role} DIR" for source in away)
        notes.append(
            f"not looked at: {names}: neither directories nor in the local hub cache, and {away[0].note}. The "
            f"estimates rest on published shapes. A training would stop here: go online, or give {options}"
        )
    return notes


def _shown(config: Config, sources: Mapping[str, Source]) -> dict[str, Source]:
    """All models of a run: one that is made from the teacher lies where that lies."""
    made = replace(sources["teacher"], role="student", name=f"from the teacher ({config.student.init})", to_fetch=0)
    found = {"student": sources.get("student", made), "teacher": sources["teacher"]}
    if set(config.objective.active_terms) & ENCODER_TERMS:
        inside = replace(sources["teacher"], role="encoder", name="the teacher's own", to_fetch=0)
        found["encoder"] = sources.get("encoder", inside)
    return found


def _captures(config: Config) -> bool:
    return config.teacher.mode == "cached" and bool(set(config.objective.active_terms) & TEACHER_TERMS)


def _facts(config: Config, data: Data, encoded: EncodedData, steps: StepPlan, ranks: int) -> dict[str, object]:
    training = config.training
    warm_up = math.ceil(training.warmup_ratio * steps.steps)
    falls = "stays" if training.lr_scheduler_type == "constant" else f"falls to 0 ({training.lr_scheduler_type})"
    terms = {name: config.objective.terms[name].weight for name in config.objective.active_terms}
    processes = f" x {ranks} processes" if ranks > 1 else ""
    return {
        "training records": f"{len(encoded.train.examples):,} of {len(data.all_train):,}",
        f"{config.evaluation.split} records": f"{len(encoded.final.examples):,}",
        "optimizer steps": f"{steps.steps:,}",
        "examples of a step": f"{steps.step_size} ({training.per_device_train_batch_size} at once x "
        f"{training.gradient_accumulation_steps}{processes})",
        "epochs": f"{steps.epoch_after(steps.steps - 1):.2f}",
        "learning rate": f"rises to {training.learning_rate:g} over {warm_up:,} steps, then {falls}",
        "loss terms": ", ".join(config.objective.active_terms),
        "weights": ", ".join(
            f"{name} {weight.start:g}" + (f" -> {weight.end:g}" if weight.end != weight.start else "")
            for name, weight in terms.items()
        ),
    }


# --- models that are here ---------------------------------------------------------------------------------------------


def _with_loaded(known: Known, models: Models, facts: dict[str, object], reporter: Reporter, resume: bool) -> Known:
    """What loading the models adds, and refuses; facts get what is known of them."""
    config, train = known.config, known.encoded.train
    guides, made = make_guides(config, models, train, torch.device("cpu"), reporter)
    for role, model in (("student", models.student), ("teacher", models.teacher)):
        if model is not None:
            facts[f"{role} parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    if "encoder" in made:
        facts["encoder"] = f"{config.encoder.model}: {made['encoder']['summary']}"
    if "critical_tokens" in made:
        facts["critical tokens"] = made["critical_tokens"]["summary"]
    cache, bank = cache_opener(config, guides, models, train), bank_opener(config, guides, models, train)
    if resume:
        converted = {"teacher": cache.identity.teacher} if isinstance(cache, ConvertedCacheOpener) else {}
        learned = learned_from(models, {"fingerprints": converted})
        encoder = None if bank is None else bank.identity.encoder
        check_same_models(RunDirectory.open(config.output_dir), learned, encoder)
    to_capture: Sequence[Example] = ()
    if isinstance(cache, CacheOpener) and _is_long_work(known):
        facts["teacher cache"] = "not looked at: its k is measured with the teacher, which is large"
        to_capture = known.to_capture
    elif cache is not None:
        facts["teacher cache"], to_capture = cache.outlook(), cache.missing()
    if bank is not None:
        facts["embedding bank"] = bank.outlook()
    golds: Sequence[Sequence[int]] = [] if bank is None else bank.missing()
    return replace(known, student=models.student.config, to_capture=to_capture, golds=golds)


def _is_long_work(known: Known) -> bool:
    """Would choosing the number of ids that a teacher cache keeps take minutes? It runs the teacher on a sample."""
    if known.shapes is None or known.shapes.teacher is None:
        return False
    train = known.encoded.train.examples
    source = Lengths.of([example.input_ids for example in train]).mean
    target = Lengths.of([example.labels for example in train]).mean
    sample = Micro(max(1, round(SAMPLED_TOKENS / target)), round(source), max(1, round(target)), SAMPLED_TOKENS)
    return forward_flops(known.shapes.teacher, sample) > LONG_WORK


# --- models that are not ----------------------------------------------------------------------------------------------


def _tokenizer(config: Config, sources: Mapping[str, Source]) -> tuple[Any, str]:
    """The student's tokenizer, fetched if need be, and what to call it; the package's where the hub is out of reach."""
    source = sources.get("student", sources["teacher"])
    if source.place != "out of reach":
        revision = config.student.trusted_revision if "student" in sources else config.teacher.trusted_revision
        return load_tokenizer(source.name, source.role, revision), f"the tokenizer of {source.name}"
    return load_tokenizer(EMBEDDED), f"the tokenizer in the package, which stands in for that of {source.name}"


def _student_config(config: Config, sources: Mapping[str, Source]) -> Any | None:
    """The student's Hugging Face configuration; None where nobody can know it here."""
    settings = config.student
    own = sources.get("student", sources["teacher"] if settings.model == EMBEDDED else None)
    if own is None or own.config is None or settings.init not in SHAPED_INITS:
        return None if own is None else own.config
    return shaped_config(settings, own.config)


def _shapes(config: Config, sources: Mapping[str, Source]) -> Shapes | None:
    """The shapes of a run's models; None where the student's is not known."""
    student = _student_config(config, sources)
    shape = None if student is None else sequence_shape(student)
    if shape is None:
        return None
    teacher = sources["teacher"].config
    teacher_shape = None if teacher is None else sequence_shape(teacher)
    encoder = None
    if set(config.objective.active_terms) & ENCODER_TERMS:
        role = "teacher" if config.encoder.model == "teacher" else "encoder"
        own, trusted = sources[role].config, getattr(config, role).trusted_revision
        encoder = None if own is None else encoder_shape(own, trusted)
    return Shapes(shape, teacher_shape, encoder)


def _parameters(shapes: Shapes | None) -> dict[str, int]:
    """By role, as far as they are known."""
    if shapes is None:
        return {}
    found = {"student": shapes.student, "teacher": shapes.teacher, "encoder": shapes.encoder}
    return {role: shape.parameters for role, shape in found.items() if shape is not None}

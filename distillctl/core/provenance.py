"""What a run says of itself: the fingerprints of all it is made from, in run.json, and its student's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import describe
from distillctl.core.data.records import fingerprint
from distillctl.core.materials import Data, EncodedData, Models
from distillctl.core.models.loading import tokenizer_fingerprint, weights_fingerprint
from distillctl.core.run_dir import RunDirectory, write_model_card
from distillctl.core.scoring import HEADLINE, SystemScores
from distillctl.core.training.step_inputs import plan_steps


def learned_from(models: Models, facts: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the tokenizer and of the teacher, or of what ``facts`` say was learned from in its place."""
    found = {"tokenizer": tokenizer_fingerprint(models.tokenizer)}
    if models.teacher is not None:
        found["teacher"] = weights_fingerprint(models.teacher)
    found.update(facts.get("fingerprints", {}))
    return found


def note_provenance(
    run: RunDirectory,
    config: Config,
    data: Data,
    encoded: EncodedData,
    models: Models,
    fingerprints: Mapping[str, str],
    processes: int,
) -> None:
    """Says in run.json what the run is made from, before anything is trained.

    Args:
        run, config, data, encoded, models: what it is.
        fingerprints: of the training records, and :func:`learned_from`.
        processes: that train together.
    """
    fingerprints = {
        "config": config.fingerprint(),
        config.evaluation.split: fingerprint(encoded.final.records),
        "student_before": weights_fingerprint(models.student),
        **fingerprints,
    }
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
        planned_steps=plan_steps(config, encoded.train.examples, processes).steps,
        processes=processes,
    )


def write_card(run: RunDirectory, config: Config, encoded: EncodedData, scores: Mapping[str, SystemScores]) -> None:
    """Puts a card beside the student's weights: how it was made, and what it scores beside whom."""
    record = run.record()
    taught = models_taught(config, record)
    write_model_card(
        run.student,
        title=f"Assertion generation, {taught}",
        made={
            "made by": f"distillctl {record['distillctl']['version']}",
            "commit": record["distillctl"]["commit"] or "installed package",
            "teacher": taught.removeprefix("distilled from ")
            if "distilled" in taught
            else "none (plain cross-entropy)",
            "training records": f"{len(encoded.train.examples):,}",
            "optimizer steps": f"{record['training']['steps']:,}",
            "loss terms": ", ".join(config.objective.trained_terms),
            "semantic_loss_scale (beta)": config.objective.semantic_loss_scale,
            "data fingerprint": record["fingerprints"]["data"][:16],
            "configuration": "config.yaml beside this folder, fingerprint " + config.fingerprint()[:16],
        },
        scores={system: {name: values[name] for name in HEADLINE} for system, values in scores.items()},
        scored_on=f"{len(encoded.final.examples):,} records of the {config.evaluation.split} split",
        max_source_length=config.data.max_source_length,
        max_target_length=config.data.max_target_length,
    )


def models_taught(config: Config, record: Mapping[str, Any]) -> str:
    """How a run's model learned, for titles; ``record`` is its run.json."""
    source = record.get("teacher_cache", {}).get("source")
    if source is not None:
        return f"distilled from teacher outputs {source}"
    needs_teacher = set(config.objective.active_terms) - {"focal"}
    return f"distilled from {config.teacher.model}" if needs_teacher else "trained with cross-entropy"

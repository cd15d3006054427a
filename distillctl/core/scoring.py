"""Scores of models and trivial answers on a run's records: decode, score, store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Encoded
from distillctl.core.data.records import Record
from distillctl.core.evaluation.baselines import most_frequent, previous_assertion
from distillctl.core.evaluation.decoding import decode
from distillctl.core.evaluation.evaluate_assertions import Scores, score, write
from distillctl.core.progress import Reporter, SilentReporter
from distillctl.core.run_dir import RunDirectory

MOST_FREQUENT, PREVIOUS = "most frequent assertion", "previous assertion"
TEACHER, UNTRAINED, STUDENT = "teacher", "student before training", "student"
HEADLINE = ("f1", "precision", "recall", "exact_match", "valid_syntax", "bleu", "edit_similarity")


def headline(scores: Scores) -> dict[str, float]:
    """The metrics shown in tables, in points."""
    return {name: float(scores.metrics["scores"][name]) for name in HEADLINE}


def predict(title: str, model: Any, tokenizer: Any, data: Encoded, config: Config, reporter: Reporter) -> list[str]:
    """One prediction per example, as the configuration decodes."""
    with reporter.task(title, len(data.examples)) as task:
        return decode(
            model,
            tokenizer,
            data.examples,
            num_beams=config.evaluation.num_beams,
            max_new_tokens=config.data.max_target_length,
            tokens_per_batch=config.evaluation.batch_tokens,
            bf16=config.training.bf16 is True,
            on_progress=task.update,
        )


def score_trivial_answers(records: Sequence[Record], train: Sequence[Record]) -> dict[str, dict[str, float]]:
    """What costs nothing: the training split's most frequent assertion, and each test's own previous one."""
    frequent = most_frequent(record.assertions for record in train)
    previous = [previous_assertion(record.test_method_masked, record.language) for record in records]
    return {
        MOST_FREQUENT: headline(score(records, [frequent] * len(records))),
        PREVIOUS: headline(score(records, previous)),
    }


def score_models(
    models: Mapping[str, Any], tokenizer: Any, data: Encoded, config: Config, reporter: Reporter
) -> dict[str, dict[str, float]]:
    """Headline scores of each model that there is, by its name."""
    return {
        name: headline(score(data.records, predict(f"scoring the {name}", model, tokenizer, data, config, reporter)))
        for name, model in models.items()
        if model is not None
    }


def dev_scorer(tokenizer: Any, dev: Encoded, config: Config) -> Callable[[Any], float]:
    """F1 (points) of a model on the dev records."""

    def f1(model: Any) -> float:
        return score_models({"student": model}, tokenizer, dev, config, SilentReporter())["student"]["f1"]

    return f1


def score_and_store(
    model: Any,
    tokenizer: Any,
    data: Encoded,
    config: Config,
    reporter: Reporter,
    run: RunDirectory,
    beside: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Scores the final student and writes evaluation/<split>/, the scores it is compared with beside its own."""
    scores = score(data.records, predict(f"scoring the {STUDENT}", model, tokenizer, data, config, reporter))
    details = {
        "split": config.evaluation.split,
        "beside": {name: dict(values) for name, values in beside.items()},
        "decoding": {
            "num_beams": config.evaluation.num_beams,
            "max_new_tokens": config.data.max_target_length,
            "bf16": config.training.bf16,
        },
    }
    write(run.evaluation(config.evaluation.split), scores, details)
    return headline(scores)

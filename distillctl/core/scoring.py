"""Scores of models and trivial answers on a run's records: decode, score, store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import cache_directory
from distillctl.core.data.encoding import Encoded, Example
from distillctl.core.data.records import Record, fingerprint
from distillctl.core.evaluation.baselines import most_frequent, previous_assertion
from distillctl.core.evaluation.decoding import DecodingSettings, decode_groups
from distillctl.core.evaluation.evaluate_assertions import Scores, score, write
from distillctl.core.evaluation.prediction_store import PredictionStore, input_key, store_name
from distillctl.core.models.loading import settings_fingerprint, tokenizer_fingerprint, weights_fingerprint
from distillctl.core.progress import Reporter, SilentReporter

MOST_FREQUENT, PREVIOUS = "most frequent assertion", "previous assertion"
TEACHER, UNTRAINED, STUDENT = "teacher", "student before training", "student"
HEADLINE = ("f1", "precision", "recall", "exact_match", "valid_syntax", "bleu", "edit_similarity")

SystemScores = dict[str, float]
"""All corpus scores of one system, in points."""


def all_scores(scores: Scores) -> SystemScores:
    """Every score of a system, by name, in points."""
    return {name: float(value) for name, value in scores.metrics["scores"].items()}


def decoding_facts(config: Config) -> dict[str, Any]:
    """What predictions depend on besides model and input: two evaluations that differ in it are not compared."""
    return {
        "num_beams": config.evaluation.num_beams,
        "max_new_tokens": config.data.max_target_length,
        "bf16": config.training.bf16 is True,
    }


def model_fingerprints(model: Any, tokenizer: Any) -> dict[str, str]:
    """What names a model's predictions. Every weight is hashed: ask once."""
    return {
        "model": weights_fingerprint(model),
        "settings": settings_fingerprint(model),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }


def open_store(folder: Path, prints: Mapping[str, str], config: Config, stem: str = "") -> PredictionStore:
    """The predictions of a model that a folder holds so far, for the configured way of decoding."""
    facts = decoding_facts(config)
    # Texts that were kept before 2026-11-26 may be those of a head in bf16.
    name = store_name(prints, facts | ({"head": "float32"} if facts["bf16"] else {}))
    return PredictionStore(folder / f"{stem}{name}.jsonl")


def cached_store(model: Any, tokenizer: Any, config: Config) -> PredictionStore:
    """A model's predictions, kept in the cache directory: it is decoded once, whatever runs it teaches or starts."""
    return open_store(cache_directory() / "predictions", model_fingerprints(model, tokenizer), config)


def predict(
    title: str,
    model: Any,
    tokenizer: Any,
    data: Encoded,
    config: Config,
    reporter: Reporter,
    store: PredictionStore | None = None,
) -> list[str]:
    """One prediction per example, as the configuration decodes; what ``store`` holds is not made again.

    Equal inputs are decoded once. What is missing is decoded in groups that are stored when they are done; a decoding
    that was cut off goes on with the groups and batches it would have had, to the same texts.
    """
    keys = [input_key(example.input_ids) for example in data.examples]
    inputs: dict[str, Example] = dict(zip(keys, data.examples, strict=True))
    texts = {key: store[key] for key in inputs if store is not None and key in store}
    missing = [key for key in inputs if key not in texts]
    there = len(texts)
    with reporter.task(title, len(inputs)) as task:
        groups = decode_groups(
            model,
            tokenizer,
            [inputs[key] for key in missing],
            DecodingSettings(**decoding_facts(config), tokens_per_batch=config.evaluation.batch_tokens),
            on_progress=lambda done, total: task.update(there + done),
        )
        for group in groups:
            made = {missing[index]: text for index, text in group.items()}
            if store is not None:
                store.add(made)
            texts |= made
    return [texts[key] for key in keys]


def points(systems: Mapping[str, Scores]) -> dict[str, SystemScores]:
    """The corpus scores of several systems."""
    return {name: all_scores(scores) for name, scores in systems.items()}


def score_trivial_answers(records: Sequence[Record], train: Sequence[Record]) -> dict[str, Scores]:
    """What costs nothing: the training split's most frequent assertion, if there is one, and each test's previous."""
    answers = {}
    if train:
        answers[MOST_FREQUENT] = [most_frequent(record.assertions for record in train)] * len(records)
    answers[PREVIOUS] = [previous_assertion(record.test_method_masked, record.language) for record in records]
    return {name: score(records, texts) for name, texts in answers.items()}


def score_model(
    name: str,
    model: Any,
    tokenizer: Any,
    data: Encoded,
    config: Config,
    reporter: Reporter,
    store: PredictionStore | None = None,
) -> Scores:
    """Scores of one model, and its rows of predictions.jsonl."""
    return score(data.records, predict(f"scoring the {name}", model, tokenizer, data, config, reporter, store))


def score_teacher(teacher: Any, tokenizer: Any, data: Encoded, config: Config, reporter: Reporter) -> dict[str, Scores]:
    """The teacher's scores, from its stored predictions as far as there are some."""
    store = cached_store(teacher, tokenizer, config)
    return {TEACHER: score_model(TEACHER, teacher, tokenizer, data, config, reporter, store)}


def dev_scorer(tokenizer: Any, dev: Encoded, config: Config) -> Callable[[Any], float]:
    """F1 (points) of a model on the dev records."""

    def f1(model: Any) -> float:
        return all_scores(score_model(STUDENT, model, tokenizer, dev, config, SilentReporter()))["f1"]

    return f1


def score_and_store(
    model: Any,
    tokenizer: Any,
    data: Encoded,
    config: Config,
    reporter: Reporter,
    folder: Path,
    beside: Mapping[str, Mapping[str, float]],
    complete: Callable[[Scores], Scores] = lambda scores: scores,
) -> Scores:
    """Scores a student and writes metrics.json and predictions.jsonl, the scores it is compared with beside its own.

    ``complete`` adds what else is known of the predictions before they are written.

    Killed and started again, it goes on with the predictions that were made; they lie in the folder until the files
    are written.
    """
    prints = model_fingerprints(model, tokenizer)
    store = open_store(folder, prints, config, stem=".partial-")
    scores = complete(score_model(STUDENT, model, tokenizer, data, config, reporter, store))
    details = {
        "split": config.evaluation.split,
        "beside": {name: dict(values) for name, values in beside.items()},
        "decoding": decoding_facts(config),
        "truncation": {
            "max_source_length": config.data.max_source_length,
            "inputs_truncated": data.inputs_truncated,
            "targets_truncated": data.targets_truncated,
            "dropped": data.dropped,
        },
        "fingerprints": prints | {"records": fingerprint(data.records)},
    }
    write(folder, scores, details)
    for left in folder.glob(".partial-*.jsonl"):  # this one, and those of models that are no more
        left.unlink(missing_ok=True)
    return scores

"""What metrics are called in reports."""

from __future__ import annotations

from collections.abc import Mapping

METRIC_TITLES: Mapping[str, str] = {
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "exact_match": "Exact match",
    "exact_match_normalised": "Exact match, normalised",
    "valid_syntax": "Valid syntax",
    "non_empty": "Non-empty",
    "contains_assertion": "Contains an assertion",
    "token_accuracy": "Token accuracy",
    "edit_similarity": "Edit similarity",
    "bleu": "BLEU",
    "chrf": "chrF",
}
"""A title for each of :data:`~distillctl.core.evaluation.corpus_sums.METRICS`."""

"""How the student's tokens found their place in the encoder's vocabulary: for run.json and for the eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch

from distillctl.core.encoder.alignment import VocabularyMap

SHOWN = 20
"""Tokens without counterpart that are named, those that the targets use most first."""


def vocabulary_facts(vocabulary: VocabularyMap, tokenizer: Any, targets: Iterable[Sequence[int]]) -> dict[str, Any]:
    """Coverage of the student's vocabulary and, weighted by use, of a run's targets.

    Args:
        vocabulary: from the student's ids to the encoder's.
        tokenizer: the student's.
        targets: label ids without padding, of every example.
    """
    labels = torch.tensor(list(chain.from_iterable(targets)), dtype=torch.int64)
    uses = torch.bincount(labels, minlength=len(vocabulary))
    lost = vocabulary.without_counterpart()
    most_used = lost[uses[lost].argsort(descending=True, stable=True)][:SHOWN].tolist()
    of_all, of_targets = vocabulary.coverage(), vocabulary.coverage(uses)
    summary = f"of {of_all.total:,} student tokens {of_all}; of {of_targets.total:,} target tokens {of_targets}"
    return {
        "same_vocabulary": vocabulary.identical,
        "student_tokens": of_all.to_dict(),
        "target_tokens": of_targets.to_dict(),
        "without_counterpart": tokenizer.convert_ids_to_tokens(most_used),
        "summary": "the student's own vocabulary" if vocabulary.identical else summary,
    }

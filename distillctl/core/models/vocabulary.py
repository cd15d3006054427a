"""Do teacher and student mean the same tokens by the same ids? And which ids mean none?"""

from __future__ import annotations

from typing import Any

from distillctl.core.errors import DataError

SHOWN = 5


def shared_vocabulary(student: Any, teacher: Any, student_width: int, teacher_width: int) -> int:
    """Number of leading ids at which the two models' logits mean the same tokens: those of the tokenizer.

    Widths (number of logits) may differ by padding, as long as every id that either tokenizer knows is the same in
    both. Padding is not shared even where both have it: it means nothing, and a teacher that was widened after its
    training may give it any mass, which the student would learn. Raises DataError naming the first differing ids.
    """
    ours = {index: token for token, index in student.get_vocab().items()}
    theirs = {index: token for token, index in teacher.get_vocab().items()}
    differing = sorted(index for index in ours.keys() | theirs.keys() if ours.get(index) != theirs.get(index))
    if differing:
        shown = "; ".join(
            f"{index}: {ours.get(index)!r} for the student, {theirs.get(index)!r} for the teacher"
            for index in differing[:SHOWN]
        )
        raise DataError(
            f"teacher and student use different token ids ({len(differing):,} differ; {shown}). "
            "A divergence between them would compare unrelated tokens: use models of one tokenizer"
        )
    highest: int = max(ours) + 1
    for role, width in (("student", student_width), ("teacher", teacher_width)):
        if width < highest:
            raise DataError(f"the {role} has {width:,} logits for a tokenizer of {highest:,} ids: a wrong tokenizer")
    return highest


def logit_width(model: Any) -> int:
    """Number of logits of a model: its vocabulary with padding."""
    return int(model.get_output_embeddings().weight.shape[0])


def padded_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that a model has logits for and its tokenizer does not know: no token, and never to be written."""
    known = set(tokenizer.get_vocab().values())
    return [index for index in range(logit_width(model)) if index not in known]


def special_ids(model: Any, role: str) -> tuple[int, int]:
    """(decoder start id, padding id) of a model. Raises DataError where the model does not say."""
    start, padding = model.config.decoder_start_token_id, model.config.pad_token_id
    if start is None or padding is None:
        missing = "decoder_start_token_id" if start is None else "pad_token_id"
        raise DataError(f"the {role}'s config has no {missing}: set it in its config.json")
    return int(start), int(padding)

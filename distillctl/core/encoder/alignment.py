"""From the student's token ids to the frozen encoder's input space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distillctl.core.errors import DataError

# Role of a special token -> the encoder roles that may stand for it, the best first.
_ROLES: dict[str, tuple[str, ...]] = {
    "pad_token": ("pad_token",),
    "eos_token": ("eos_token", "sep_token"),
    "sep_token": ("sep_token", "eos_token"),
    "bos_token": ("bos_token", "cls_token"),
    "cls_token": ("cls_token", "bos_token"),
    "unk_token": ("unk_token",),
    "mask_token": ("mask_token",),
}
_REPLACEMENT = "�"
_EXAMPLES = 20


@dataclass(frozen=True)
class Coverage:
    """How the student's tokens found their place. ``exact + pieces + none`` is the number of its tokens.

    Attributes:
        exact: same token in the encoder's vocabulary, or a special token of the same role.
        pieces: mean of several sub-token embeddings.
        none: no counterpart; these rows hold the encoder's unknown token (its mean embedding if it has none).
        padded: rows beyond the student's vocabulary, which no label uses; zero.
        identical: both vocabularies are the same.
        missing: the first few tokens counted in ``none``, as the tokenizer writes them.
    """

    exact: int
    pieces: int
    none: int
    padded: int
    identical: bool
    missing: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        total = self.exact + self.pieces + self.none
        found = f"{self.exact} of {total} student tokens exact, {self.pieces} by pieces"
        return f"{found}, {self.none} without counterpart"


def align_vocabulary(
    student_tokenizer: Any, encoder_tokenizer: Any, encoder_embedding: Tensor, rows: int | None = None
) -> tuple[Tensor, Coverage]:
    """Table E that gives each student token its place among the encoder's input embeddings.

    Identity when both vocabularies are the same. Else, per token: a special token by its role, the same token
    string, or the mean of the embeddings of the pieces that the encoder's tokenizer cuts the token's text
    into.

    Args:
        student_tokenizer, encoder_tokenizer: HF tokenizers, fast or slow.
        encoder_embedding: [V',D] weight of the encoder's input embedding.
        rows: V of the table, the student's logit width; None is the size of its vocabulary.

    Returns:
        ([V,D] float table without gradient, coverage).

    Raises:
        DataError: rows is smaller than the student's vocabulary, or the encoder's embedding than its own.
    """
    student_vocab: dict[str, int] = student_tokenizer.get_vocab()
    encoder_vocab: dict[str, int] = encoder_tokenizer.get_vocab()
    source = encoder_embedding.detach()
    rows = max(student_vocab.values()) + 1 if rows is None else rows
    _check_sizes(student_vocab, encoder_vocab, rows, len(source))
    if student_vocab == encoder_vocab:
        table = source[:rows]
        if rows > len(source):
            table = torch.cat([source, source.new_zeros(rows - len(source), source.shape[1])])
        return table, Coverage(len(student_vocab), 0, 0, rows - len(student_vocab), identical=True)
    return _aligned(student_tokenizer, encoder_tokenizer, source, rows)


def _check_sizes(student: dict[str, int], encoder: dict[str, int], rows: int, source_rows: int) -> None:
    if max(student.values()) >= rows:
        raise DataError(
            f"The student's tokenizer has ids up to {max(student.values())}, its logits only {rows} columns: "
            "use the tokenizer the student was made with."
        )
    if max(encoder.values()) >= source_rows:
        raise DataError(
            f"The encoder's tokenizer has ids up to {max(encoder.values())}, its embedding only "
            f"{source_rows} rows: use the tokenizer the encoder was made with."
        )


def _aligned(student: Any, encoder: Any, source: Tensor, rows: int) -> tuple[Tensor, Coverage]:
    encoder_vocab: dict[str, int] = encoder.get_vocab()
    roles = _special_ids(student, encoder)
    specials = {*student.all_special_tokens, *student.get_added_vocab()}
    fallback = source.mean(dim=0) if encoder.unk_token_id is None else source[encoder.unk_token_id]
    table = source.new_zeros(rows, source.shape[1])
    exact = pieces = 0
    missing: list[str] = []
    for token, token_id in sorted(student.get_vocab().items(), key=lambda item: item[1]):
        if token_id in roles or token in encoder_vocab:
            table[token_id] = source[roles.get(token_id, encoder_vocab.get(token, 0))]
            exact += 1
            continue
        ids = [] if token in specials else _pieces(_text(student, token, token_id), encoder)
        if ids:
            table[token_id] = source[ids].mean(dim=0)
            pieces += 1
        else:
            table[token_id] = fallback
            missing.append(token)
    padded = rows - exact - pieces - len(missing)
    return table, Coverage(exact, pieces, len(missing), padded, identical=False, missing=tuple(missing[:_EXAMPLES]))


def _special_ids(student: Any, encoder: Any) -> dict[int, int]:
    """Student id -> encoder id, for the special tokens that have a role in both."""
    found: dict[int, int] = {}
    for role, stand_ins in _ROLES.items():
        mine: int | None = getattr(student, f"{role}_id", None)
        known: list[int | None] = [getattr(encoder, f"{name}_id", None) for name in stand_ins]
        theirs = [token_id for token_id in known if token_id is not None]
        if mine is not None and theirs:
            # A token may have two roles (bos and cls of RoBERTa): the first listed decides.
            found.setdefault(mine, theirs[0])
    return found


def _text(tokenizer: Any, token: str, token_id: int) -> str:
    """A token's text with its leading space, which SentencePiece decoders drop from a lone token."""
    text: str = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    return " " + text if token.startswith("▁") and not text.startswith(" ") else text


def _pieces(text: str, encoder: Any) -> list[int]:
    """The encoder's ids of a text; empty where the text is part of a character or unknown to the encoder."""
    if not text or _REPLACEMENT in text:
        return []
    ids: list[int] = encoder(text, add_special_tokens=False)["input_ids"]
    return [token_id for token_id in ids if token_id != encoder.unk_token_id]

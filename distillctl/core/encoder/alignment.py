"""From the student's token ids to the frozen encoder's: which tokens of the one stand for a token of the other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from distillctl.core.encoder.spelling import Spelling
from distillctl.core.errors import DataError

# Role of a special token -> the encoder roles that may stand for it, the best first.
_ROLES: dict[str, tuple[str, ...]] = {
    "eos_token": ("eos_token", "sep_token"),
    "sep_token": ("sep_token", "eos_token"),
    "bos_token": ("bos_token", "cls_token"),
    "cls_token": ("cls_token", "bos_token"),
    "unk_token": ("unk_token",),
    "mask_token": ("mask_token",),
    "pad_token": ("pad_token",),  # the last: where it is the end as well, targets have it as that
}


class Match(IntEnum):
    """How a student token found its place."""

    UNUSED = 0
    """No token has this id."""
    EXACT = 1
    """A token that spells the same bytes, or a special token of the same role."""
    PIECES = 2
    """Several tokens that spell the same bytes together."""
    ALTERED = 3
    """What the encoder's tokenizer makes of the text, which spells something else: lower case, a space more."""
    NONE = 4
    """No counterpart: the encoder's unknown token stands for it."""


@dataclass(frozen=True)
class Coverage:
    """How many tokens found their place in which way: of a vocabulary, or of texts. Numbers of tokens."""

    exact: int
    by_pieces: int
    altered: int
    none: int

    @property
    def total(self) -> int:
        return self.exact + self.by_pieces + self.altered + self.none

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        altered = f", {self._share(self.altered)} altered" if self.altered else ""
        return (
            f"{self._share(self.exact)} exact, {self._share(self.by_pieces)} by pieces{altered}, "
            f"{self._share(self.none)} without counterpart"
        )

    def _share(self, count: int) -> str:
        return f"{100 * count / max(1, self.total):.2f} %"


@dataclass(frozen=True, eq=False)
class VocabularyMap:
    """The encoder's ids that stand for each of the student's.

    Attributes:
        pieces: [P] int32, encoder ids of student token 0, then of 1, and so on.
        counts: [V] int32, how many are a student token's: none where nothing stands for it, or no token has that id.
        matches: [V] uint8, a :class:`Match` each.
        encoder_ids: number of ids that the encoder's tokenizer has.
        identical: both vocabularies are the same.
    """

    pieces: Tensor
    counts: Tensor
    matches: Tensor
    encoder_ids: int
    identical: bool = False

    def __len__(self) -> int:
        """V, the student's ids."""
        return len(self.counts)

    def ids_of(self, token: int) -> list[int]:
        """The encoder's ids of one student token."""
        start = int(self.counts[:token].sum())
        ids: list[int] = self.pieces[start : start + int(self.counts[token])].tolist()
        return ids

    def coverage(self, uses: Tensor | None = None) -> Coverage:
        """How the tokens found their place; with ``uses`` [at most V] int64 weighted by how often each is used."""
        uses = torch.ones(len(self), dtype=torch.int64) if uses is None else uses
        by_match = torch.zeros(len(Match), dtype=torch.int64)
        by_match.index_add_(0, self.matches[: len(uses)].long(), uses)
        found = by_match.tolist()
        return Coverage(found[Match.EXACT], found[Match.PIECES], found[Match.ALTERED], found[Match.NONE])

    def without_counterpart(self) -> Tensor:
        """Ids of the student's tokens that nothing stands for."""
        return (self.matches == Match.NONE).nonzero().squeeze(-1)

    @torch.no_grad()
    def table(self, embeddings: Tensor, rows: int | None = None) -> Tensor:
        """Table E: the mean of the encoder's input embeddings of a student token's pieces.

        Args:
            embeddings: [V',D] weight of the encoder's input embedding.
            rows: of the table, the student's logit width; None is V.

        Returns:
            [rows,D] without gradient; a view of ``embeddings`` where the vocabularies are the same. A token without
            counterpart, of an encoder that has no unknown token, and ids that no token has, unless they are the
            encoder's own, have the direction of the mean of all embeddings and the median of their lengths. (Zero
            would say as little, but the RMS norm of a T5 makes the gradient through it 1,000 times as large.)

        Raises:
            DataError: rows is smaller than V, or the encoder's embedding than its vocabulary.
        """
        source = embeddings.detach()
        rows = len(self) if rows is None else rows
        self._check_sizes(rows, len(source))
        if self.identical:
            beyond = max(0, rows - len(source))
            return source[:rows] if not beyond else torch.cat([source, _no_token(source).expand(beyond, -1)])
        table = _no_token(source).repeat(rows, 1)
        starts = self.counts.long().cumsum(0) - self.counts
        pieces, starts = self.pieces.long().to(source.device), starts.to(source.device)
        found = (self.counts > 0).to(source.device)
        table[: len(self)][found] = embedding_bag(pieces, source, starts, mode="mean")[found]
        return table

    def _check_sizes(self, rows: int, source_rows: int) -> None:
        if len(self) > rows:
            raise DataError(
                f"The student's tokenizer has ids up to {len(self) - 1}, its logits only {rows} columns: "
                "use the tokenizer the student was made with."
            )
        if self.encoder_ids > source_rows:
            raise DataError(
                f"The encoder's tokenizer has ids up to {self.encoder_ids - 1}, its embedding only "
                f"{source_rows} rows: use the tokenizer the encoder was made with."
            )


def same_vocabulary(student: Any, encoder: Any) -> bool:
    """Whether two tokenizers have the same tokens at the same ids."""
    return bool(student.get_vocab() == encoder.get_vocab())


def align_vocabularies(student_tokenizer: Any, encoder_tokenizer: Any) -> VocabularyMap:
    """Which of the encoder's tokens stand for each of the student's.

    The same ids when both vocabularies are the same. Else, per token, the first that there is: a special token of its
    role or name; a token that spells the same bytes; the pieces that the encoder's tokenizer cuts the token's text
    into; those that its model alone cuts the token's bytes into (a part of a character, or a text that the tokenizer
    would put a space before), both only where they spell the token to the byte; what it makes of the text, altered.

    Args:
        student_tokenizer, encoder_tokenizer: HF tokenizers, fast or slow.
    """
    student = Spelling(student_tokenizer)
    if same_vocabulary(student_tokenizer, encoder_tokenizer):
        return _identity(student.vocabulary)
    return _Aligner(student, Spelling(encoder_tokenizer)).map()


def _identity(vocabulary: dict[str, int]) -> VocabularyMap:
    size = max(vocabulary.values()) + 1
    matches = torch.full((size,), int(Match.UNUSED), dtype=torch.uint8)
    matches[list(vocabulary.values())] = int(Match.EXACT)
    ones = torch.ones(size, dtype=torch.int32)
    return VocabularyMap(torch.arange(size, dtype=torch.int32), ones, matches, size, identical=True)


class _Aligner:
    """Finds the place of every token of ``student`` among those of ``encoder``."""

    def __init__(self, student: Spelling, encoder: Spelling) -> None:
        self._student, self._encoder = student, encoder
        self._unknown: int | None = encoder.tokenizer.unk_token_id
        self._roles = _special_ids(student.tokenizer, encoder.tokenizer)
        self._by_spelling = encoder.ids_by_spelling()
        self._found: dict[int, tuple[Match, list[int]]] = {}

    def map(self) -> VocabularyMap:
        left = {}
        for token, token_id in self._student.vocabulary.items():
            known = self._special(token, token_id)
            if known is None:
                spelled = self._student.of(token)
                known = self._same(token, spelled)
                if known is None:
                    left[token_id] = spelled
                    continue
            self._found[token_id] = known
        self._cut(left)
        size = max(self._student.vocabulary.values()) + 1
        rows = [self._found.get(token_id, (Match.UNUSED, [])) for token_id in range(size)]
        return VocabularyMap(
            torch.tensor([piece for _, ids in rows for piece in ids], dtype=torch.int32),
            torch.tensor([len(ids) for _, ids in rows], dtype=torch.int32),
            torch.tensor([int(match) for match, _ in rows], dtype=torch.uint8),
            max(self._encoder.vocabulary.values()) + 1,
        )

    def _special(self, token: str, token_id: int) -> tuple[Match, list[int]] | None:
        """The place of a special token; None for an ordinary one."""
        if token_id in self._roles:
            return Match.EXACT, [self._roles[token_id]]
        if token not in self._student.special:
            return None
        theirs = self._encoder.vocabulary.get(token)
        return self._nothing() if theirs is None else (Match.EXACT, [theirs])

    def _nothing(self) -> tuple[Match, list[int]]:
        return Match.NONE, [] if self._unknown is None else [self._unknown]

    def _same(self, token: str, spelled: bytes | None) -> tuple[Match, list[int]] | None:
        """The one token that spells the same; where spellings cannot be told, the one that is written the same."""
        if self._by_spelling:
            same = None if spelled is None else self._by_spelling.get(spelled)
        else:
            same = None if token in self._encoder.special else self._encoder.vocabulary.get(token)
        return None if same is None else (Match.EXACT, [same])

    def _cut(self, tokens: dict[int, bytes | None]) -> None:
        """The places of tokens that the encoder does not have."""
        texts = {token_id: text for token_id, spelled in tokens.items() if (text := _text(spelled))}
        natural = dict(zip(texts, self._encoder.natural_ids(list(texts.values())), strict=True))
        for token_id, spelled in tokens.items():
            self._found[token_id] = self._pieces(spelled, natural.get(token_id, []))

    def _pieces(self, spelled: bytes | None, natural: list[int]) -> tuple[Match, list[int]]:
        if not spelled:
            return self._nothing()
        for cut in (lambda: natural, lambda: self._encoder.model_ids(spelled)):
            ids = cut()
            if ids and self._encoder.spells(ids, spelled):
                return (Match.PIECES if len(ids) > 1 else Match.EXACT), ids
        known = [piece for piece in natural if piece != self._unknown]
        return (Match.ALTERED, known) if known else self._nothing()


def _no_token(source: Tensor) -> Tensor:
    """[1,D] what stands for no token: the direction of the mean, as long as others are."""
    mean = source.mean(dim=0, keepdim=True)
    lengths: Tensor = source.norm(dim=1)
    return torch.nn.functional.normalize(mean, dim=1) * lengths.median()


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


def _text(spelled: bytes | None) -> str | None:
    """The text that bytes are; None for a part of a character."""
    try:
        return spelled.decode() if spelled else None
    except UnicodeDecodeError:
        return None

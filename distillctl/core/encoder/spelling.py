"""What the tokens of a vocabulary spell, in bytes: what two vocabularies of different notation are compared by.

Byte-level BPEs (GPT-2, RoBERTa, CodeT5+) write every byte as one printable character, so a token may spell a part of a
UTF-8 character; SentencePiece writes a space as "▁", and an unknown byte as "<0x0A>" where it can fall back to bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from distillctl.core.data.encoding import fast_ids

SPACE = "▁"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each of the 256 bytes in a byte-level BPE (Radford et al. 2019, GPT-2).

    Bytes that are printable in Latin-1 stand for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    replaced = {byte: 0x100 + place for place, byte in enumerate(others)}
    return tuple(chr(replaced.get(byte, byte)) for byte in range(256))


_ALPHABET = byte_alphabet()
_BYTES = {character: byte for byte, character in enumerate(_ALPHABET)}


class Notation(Enum):
    """How a tokenizer writes its tokens."""

    BYTES = "a character per byte"
    SPACES = "text, the space as ▁"
    TEXT = "text that only the tokenizer itself can read"


class Spelling:
    """What each token of a tokenizer spells, and which tokens spell something.

    Args:
        tokenizer: an HF tokenizer, fast or slow.

    Attributes:
        vocabulary: token -> id.
        special: tokens that stand for no text (``<pad>``, ``<extra_id_0>``).
        notation: how the others are written.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
        self.special = {*tokenizer.all_special_tokens, *(token for token, special in added.items() if special)}
        self._as_they_are = added.keys() - self.special  # runs of spaces, say: never in the notation
        text = rules_of(tokenizer)
        rules = None if text is None else json.loads(text)
        self.notation = _notation_of_slow(tokenizer) if rules is None else _notation(rules)
        self._falls_back = rules is not None and bool(rules["model"].get("byte_fallback"))

    def of(self, token: str) -> bytes | None:
        """What a token that is not special spells; None where it has no spelling, or none that can be told."""
        if token in self._as_they_are:
            return token.encode()
        if self.notation is Notation.BYTES:
            return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else None
        if self.notation is Notation.SPACES:
            byte = _FALLBACK.fullmatch(token) if self._falls_back else None
            return bytes.fromhex(byte[1]) if byte else token.replace(SPACE, " ").encode()
        text: str = self.tokenizer.decode([self.vocabulary[token]], clean_up_tokenization_spaces=False)
        return None if not text or _REPLACEMENT in text else text.encode()

    def ids_by_spelling(self) -> dict[bytes, int]:
        """The id of each spelling; empty for a notation that only the tokenizer itself can read."""
        if self.notation is Notation.TEXT:
            return {}
        found: dict[bytes, int] = {}
        # A byte that is also written as a character comes last: "<0x41>" stands where there is no "A".
        for token in sorted(self.vocabulary, key=lambda token: (bool(_FALLBACK.fullmatch(token)), token)):
            spelled = None if token in self.special else self.of(token)
            if spelled:
                found.setdefault(spelled, self.vocabulary[token])
        return found

    def natural_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that the tokenizer cuts each text into when it reads it by itself, without special tokens."""
        if not texts:
            return []
        if self.tokenizer.is_fast:
            return fast_ids(self.tokenizer.backend_tokenizer, texts, split_special=True)
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def model_ids(self, spelled: bytes) -> list[int]:
        """The ids that the model alone cuts some bytes into: nothing normalised, no space put before them.

        So a part of a character, which is no text, is cut too. Empty where the tokenizer cannot be asked.
        """
        if self.notation is Notation.TEXT or not self.tokenizer.is_fast:
            return []
        if self.notation is Notation.BYTES:
            written = "".join(_ALPHABET[byte] for byte in spelled)
        else:
            written = spelled.decode(errors="replace").replace(" ", SPACE)
        return [piece.id for piece in self.tokenizer.backend_tokenizer.model.tokenize(written)]

    def spells(self, ids: Sequence[int], spelled: bytes) -> bool:
        """Whether tokens spell these bytes together, neither more nor less."""
        if self.notation is Notation.TEXT:
            text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
            return text.strip().encode() == spelled.strip()
        tokens = self.tokenizer.convert_ids_to_tokens(list(ids))
        parts = [None if token in self.special else self.of(token) for token in tokens]
        return all(part is not None for part in parts) and b"".join(filter(None, parts)) == spelled


def rules_of(tokenizer: Any) -> str | None:
    """All that a fast tokenizer goes by, as JSON: tokens, merges, steps. None of a slow one, which does not say."""
    if not tokenizer.is_fast:
        return None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # what the last call asked for; each call sets its own
    backend.no_padding()
    rules: str = backend.to_str()
    return rules


def _notation(rules: dict[str, Any]) -> Notation:
    parts = [*_parts(rules.get("decoder")), *_parts(rules.get("pre_tokenizer"))]
    if any(part["type"] == "ByteLevel" for part in parts):
        return Notation.BYTES
    spaces = any(part["type"] == "Metaspace" or part.get("pattern") == {"String": SPACE} for part in parts)
    return Notation.SPACES if spaces else Notation.TEXT


def _parts(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A decoder or pre-tokenizer, or those that a sequence of them consists of."""
    if step is None:
        return
    if step["type"] != "Sequence":
        yield step
    for part in (*step.get("decoders", ()), *step.get("pretokenizers", ())):
        yield from _parts(part)


def _notation_of_slow(tokenizer: Any) -> Notation:
    if hasattr(tokenizer, "byte_decoder"):
        return Notation.BYTES
    return Notation.SPACES if hasattr(tokenizer, "sp_model") else Notation.TEXT

"""Critical tokens: the words that decide what an assertion asserts, and their warm-started weight.

Assertion names, comparison and identity operators, and true/false/null literals. They are found in the text
that a label sequence spells, so that a name which the tokenizer splits is found whole (``assert`` +
``Equal``) and a piece that only looks like a word (``is`` of ``th`` + ``is``) is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.term import IGNORE_INDEX

# The one place of the word lists. A trailing `*` matches any longer identifier with that beginning.
# Multi-word operators (`is not`, `not in`) are covered by their words. Operators are matched as whole
# operators: `<` does not match in `<<`, `<=`, `->` or `<>`.
CRITICAL_WORDS: dict[str, tuple[str, ...]] = {
    "python": (
        *("assert", "assert_*", "assertTrue", "assertFalse", "assertEqual", "assertEquals", "assertNotEqual"),
        *("assertIs", "assertIsNot", "assertIsNone", "assertIsNotNone", "assertIn", "assertNotIn"),
        *("assertIsInstance", "assertNotIsInstance", "assertAlmostEqual", "assertNotAlmostEqual"),
        *("assertGreater", "assertGreaterEqual", "assertLess", "assertLessEqual"),
        *(
            "assertRegex",
            "assertNotRegex",
            "assertRaises",
            "assertRaisesRegex",
            "assertWarns",
            "assertWarnsRegex",
        ),
        *("assertCountEqual", "assertSequenceEqual", "assertListEqual", "assertTupleEqual", "assertSetEqual"),
        *("assertDictEqual", "assertMultiLineEqual", "assertLogs", "assertNoLogs"),
        *(
            "raises",
            "warns",
            "approx",
            "fail",
            "isclose",
            "allclose",
            "array_equal",
            "isinstance",
            "all",
            "any",
        ),
        *("==", "!=", "<", "<=", ">", ">=", "is", "not", "in"),
        *("True", "False", "None"),
    ),
    "java": (
        # JUnit 4 and 5, TestNG
        *(
            "assert",
            "assertTrue",
            "assertFalse",
            "assertEquals",
            "assertNotEquals",
            "assertNull",
            "assertNotNull",
        ),
        *("assertSame", "assertNotSame", "assertArrayEquals", "assertIterableEquals", "assertLinesMatch"),
        *("assertThrows", "assertThrowsExactly", "assertDoesNotThrow", "assertInstanceOf", "assertTimeout"),
        *("assertTimeoutPreemptively", "assertAll", "fail"),
        # AssertJ and Truth
        *(
            "assertThat",
            "assertThatThrownBy",
            "assertThatCode",
            "assertThatExceptionOfType",
            "assertWithMessage",
        ),
        *("isEqualTo", "isNotEqualTo", "isSameAs", "isNotSameAs", "isSameInstanceAs", "isNull", "isNotNull"),
        *("isTrue", "isFalse", "isEmpty", "isNotEmpty", "isPresent", "isNotPresent", "isInstanceOf"),
        *(
            "isGreaterThan",
            "isGreaterThanOrEqualTo",
            "isLessThan",
            "isLessThanOrEqualTo",
            "isAtLeast",
            "isAtMost",
        ),
        *("hasSize", "hasMessage", "hasMessageContaining", "contains", "containsExactly", "containsOnly"),
        *("containsKey", "containsEntry", "containsExactlyInAnyOrder", "containsExactlyElementsIn"),
        *("doesNotContain", "startsWith", "endsWith", "isIn", "isNotIn"),
        # Hamcrest
        *(
            "is",
            "not",
            "equalTo",
            "nullValue",
            "notNullValue",
            "sameInstance",
            "instanceOf",
            "hasItem",
            "hasItems",
        ),
        *("hasKey", "hasEntry", "containsString", "closeTo", "greaterThan", "lessThan", "anyOf", "allOf"),
        *("==", "!=", "<", "<=", ">", ">=", "instanceof"),
        *("true", "false", "null"),
    ),
}

_OPERATOR_CHARACTERS = "<>=!"
_STRING = r"""(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""


class CriticalTokens:
    """Weights that raise the loss of critical tokens, built once per tokenizer and language.

    A token is critical when it covers at least one character of a critical word that stands alone in the text
    of its label sequence; what stands in a string literal does not count, nor do special tokens. Java's
    generic brackets look like comparisons and count as such.

    Args:
        tokenizer: an HF tokenizer, fast or slow.
        language: a key of :data:`CRITICAL_WORDS`.
        extra: more words of the caller's, in the same notation.

    Raises:
        UsageError: the language has no word list, or an extra word is empty.
    """

    def __init__(self, tokenizer: Any, language: str, extra: Iterable[str] = ()) -> None:
        if language not in CRITICAL_WORDS:
            known = ", ".join(CRITICAL_WORDS)
            raise UsageError(f"Critical tokens are known for {known}. Found language '{language}'.")
        words = (*CRITICAL_WORDS[language], *extra)
        if any(not word.strip("* ") for word in words):
            raise UsageError("An extra critical word should not be empty.")
        self._pattern = _compile(words)
        self._tokenizer = tokenizer
        self._special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self._texts: dict[int, str] = {}

    def mask(self, labels: Tensor) -> Tensor:
        """[B,T] bool on the labels' device, True at critical tokens; -100 is never critical.

        Reads the labels on the host: call it where they still live on the CPU.
        """
        rows = [self._mask_row(row) for row in labels.tolist()]
        return torch.tensor(rows, dtype=torch.bool, device=labels.device).reshape(labels.shape)

    def token_weights(self, labels: Tensor, target: float, progress_in_first_epoch: float) -> Tensor:
        """w(y), [B,T] float32: 1, and at critical tokens ``1 + (target - 1) * progress``.

        Args:
            labels: [B,T] int64, -100 at padding.
            target: weight at the end of the first epoch, >= 1.
            progress_in_first_epoch: 0 at the first step, 1 from the end of the first epoch on.

        Raises:
            UsageError: target is below 1.
            RunError: progress lies outside 0..1.
        """
        if not target >= 1:
            raise UsageError(f"The weight of critical tokens should be >= 1. Found {target}.")
        if not 0 <= progress_in_first_epoch <= 1:
            raise RunError(f"Progress in the first epoch should be in 0..1. Found {progress_in_first_epoch}.")
        weight = 1 + (target - 1) * progress_in_first_epoch
        return 1 + (weight - 1) * self.mask(labels).float()

    def _mask_row(self, ids: list[int]) -> list[bool]:
        texts = [" " if i == IGNORE_INDEX else self._text(i) for i in ids]
        text = "".join(texts)
        covered = bytearray(len(text))
        for match in self._pattern.finditer(text):
            if match.lastgroup == "word":
                covered[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        row: list[bool] = []
        start = 0
        for piece in texts:
            row.append(any(covered[start : start + len(piece)]))
            start += len(piece)
        return row

    def _text(self, token_id: int) -> str:
        """What one token adds to the text, with its leading space; a special token separates words."""
        if token_id not in self._texts:
            self._texts[token_id] = " " if token_id in self._special else self._decode(token_id)
        return self._texts[token_id]

    def _decode(self, token_id: int) -> str:
        text: str = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        # SentencePiece decoders drop the leading space of a lone token.
        if piece is not None and piece.startswith("▁") and not text.startswith(" "):
            return " " + text
        return text


def _compile(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern: string literals first, to step over them, then the words, the longest first."""
    alternatives = []
    for word in sorted(set(words), key=lambda w: (-len(w), w)):
        stem = re.escape(word.rstrip("*"))
        if word[0].isidentifier():
            alternatives.append(rf"(?<!\w){stem}" + (r"\w*" if word.endswith("*") else r"(?!\w)"))
        else:
            around = re.escape(_OPERATOR_CHARACTERS)
            alternatives.append(rf"(?<![-{around}]){stem}(?![{around}])")
    return re.compile(rf"(?P<string>{_STRING})|(?P<word>{'|'.join(alternatives)})")

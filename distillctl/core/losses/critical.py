"""Critical tokens: the words that decide what an assertion asserts, and their warm-started weight.

Assertion names, comparison and identity operators, and true/false/null literals. They are found in the text
that a label sequence spells, so that a name which the tokenizer splits is found whole (``assert`` +
``Equal``) and a piece that only looks like a word (``is`` of ``th`` + ``is``) is not.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
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
        # JUnit, TestNG, Hamcrest's, AssertJ's and Truth's beginnings, and a project's own assertion methods
        *("assert", "assert*", "fail"),
        # AssertJ and Truth: what is claimed
        *("isEqualTo", "isNotEqualTo", "isSameAs", "isNotSameAs", "isSameInstanceAs", "isNotSameInstanceAs"),
        *(
            "isNull",
            "isNotNull",
            "isTrue",
            "isFalse",
            "isEmpty",
            "isNotEmpty",
            "isNullOrEmpty",
            "isBlank",
            "isNotBlank",
        ),
        *("isPresent", "isNotPresent", "isAbsent", "isInstanceOf", "isNotInstanceOf", "isExactlyInstanceOf"),
        *("isGreaterThan", "isGreaterThanOrEqualTo", "isLessThan", "isLessThanOrEqualTo", "isAtLeast", "isAtMost"),
        *("isBetween", "isCloseTo", "isWithin", "isNotWithin", "isZero", "isNotZero", "isPositive", "isNegative"),
        *(
            "isIn",
            "isNotIn",
            "isAnyOf",
            "isNoneOf",
            "isSubsetOf",
            "isInOrder",
            "isInStrictOrder",
            "isSorted",
            "inOrder",
        ),
        *(
            "hasSize",
            "hasSizeGreaterThan",
            "hasSameSizeAs",
            "hasLength",
            "hasValue",
            "hasToString",
            "hasSameElementsAs",
        ),
        *("hasMessage", "hasMessageContaining", "hasMessageThat", "hasCauseThat", "hasCauseInstanceOf", "hasNoCause"),
        *("contains", "containsExactly", "containsExactlyInAnyOrder", "containsExactlyElementsIn", "containsOnly"),
        *(
            "containsExactlyEntriesIn",
            "containsAtLeast",
            "containsAtLeastElementsIn",
            "containsAnyOf",
            "containsNoneOf",
        ),
        *("containsKey", "containsEntry", "containsValue", "containsSequence", "containsMatch", "doesNotContain"),
        *("doesNotContainKey", "doesNotExist", "doesNotThrow", "startsWith", "endsWith", "matches", "doesNotMatch"),
        *("allMatch", "anyMatch", "noneMatch", "allSatisfy", "anySatisfy", "satisfies"),
        # Hamcrest: matchers
        *(
            "is",
            "isA",
            "not",
            "equalTo",
            "nullValue",
            "notNullValue",
            "sameInstance",
            "theInstance",
            "instanceOf",
            "any",
        ),
        *("hasItem", "hasItems", "hasKey", "hasEntry", "hasProperty", "everyItem", "empty", "emptyString"),
        *(
            "emptyIterable",
            "containsInAnyOrder",
            "arrayContaining",
            "arrayWithSize",
            "containsString",
            "equalToIgnoringCase",
        ),
        *("closeTo", "greaterThan", "greaterThanOrEqualTo", "lessThan", "lessThanOrEqualTo", "anyOf", "allOf"),
        *("either", "both"),
        # What compares where other languages have operators
        *("equals", "equalsIgnoreCase", "compareTo"),
        *("==", "!=", "<", "<=", ">", ">=", "instanceof"),
        *("true", "false", "null"),
    ),
}

_OPERATOR_CHARACTERS = "<>=!"
_STRING = r"""(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""


@dataclass(frozen=True)
class WordTokens:
    """How often a critical word stands in the targets, and the ids of all tokens that it lay in."""

    times: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class CriticalCoverage:
    """What critical words became under a tokenizer, in the targets of a run.

    Attributes:
        target_tokens: all of the targets.
        critical_tokens: of them, those that are weighted.
        words: by word as it stands there, the commonest first.
    """

    target_tokens: int
    critical_tokens: int
    words: dict[str, WordTokens]

    @property
    def share(self) -> float:
        """Share of target tokens that are critical, 0 to 1."""
        return self.critical_tokens / max(1, self.target_tokens)

    def __str__(self) -> str:
        ids = {token for word in self.words.values() for token in word.ids}
        return f"{self.share:.1%} of target tokens ({len(self.words):,} words, {len(ids):,} token ids)"

    def to_dict(self, most: int = 100) -> dict[str, Any]:
        """For run.json, with the ``most`` commonest words."""
        return {
            "share_of_target_tokens": self.share,
            "target_tokens": self.target_tokens,
            "critical_tokens": self.critical_tokens,
            "different_words": len(self.words),
            "words": {
                word: {"times": found.times, "token_ids": list(found.ids)}
                for word, found in list(self.words.items())[:most]
            },
        }


@dataclass(frozen=True, eq=False)
class CriticalTargets:
    """Where the critical tokens of a run's targets are, so that a step only looks them up.

    Reading text anew in every step took a twentieth of one at CodeT5+'s size on a GPU.

    Attributes:
        flat: of all target tokens, one example after the other, True where critical.
        starts: [N + 1] int64, example i's are ``flat[starts[i] : starts[i + 1]]``.
        coverage: what the words became.
        language: whose words they are.
    """

    flat: np.ndarray
    starts: np.ndarray
    coverage: CriticalCoverage
    language: str

    def token_weights(
        self, examples: Sequence[int], width: int, target: float, progress_in_first_epoch: float
    ) -> Tensor:
        """w(y), [B,T] float32: 1, and at critical tokens ``1 + (target - 1) * progress``.

        Args:
            examples: B numbers of examples.
            width: T, at least the length of the longest of their targets.
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
        critical = np.zeros((len(examples), width), dtype=bool)
        for row, example in enumerate(examples):
            found = self.flat[self.starts[example] : self.starts[example + 1]]
            critical[row, : len(found)] = found
        return 1 + (target - 1) * progress_in_first_epoch * torch.from_numpy(critical).float()


class CriticalTokens:
    """Finds critical tokens, built once per tokenizer and language.

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
        self.language = language
        words = (*CRITICAL_WORDS[language], *extra)
        if any(not word.strip("* ") for word in words):
            raise UsageError("An extra critical word should not be empty.")
        self._pattern = _compile(words)
        self._tokenizer = tokenizer
        self._special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self._texts: dict[int, str] = {}

    def read(self, rows: Iterable[Sequence[int]]) -> CriticalTargets:
        """Where the critical tokens of targets are: label sequences, in the run's order; -100 is never critical."""
        times: Counter[str] = Counter()
        ids: dict[str, set[int]] = defaultdict(set)
        starts, flat = [0], bytearray()
        for row in rows:
            mask = bytearray(len(row))
            for word, places in self._found(list(row)):
                times[word] += 1
                ids[word] |= {row[place] for place in places}
                for place in places:
                    mask[place] = 1
            flat += mask
            starts.append(len(flat))
        words = {word: WordTokens(count, tuple(sorted(ids[word]))) for word, count in times.most_common()}
        found = np.frombuffer(flat, dtype=bool)
        coverage = CriticalCoverage(len(found), int(found.sum()), words)
        return CriticalTargets(found, np.array(starts), coverage, self.language)

    def _found(self, ids: list[int]) -> Iterator[tuple[str, list[int]]]:
        """Each critical word in the text that the ids spell, and the places of the tokens that it lies in."""
        texts = [" " if i == IGNORE_INDEX else self._text(i) for i in ids]
        starts = [0, *accumulate(map(len, texts))]
        for match in self._pattern.finditer("".join(texts)):
            if match.lastgroup == "word":
                first, last = bisect_right(starts, match.start()) - 1, bisect_left(starts, match.end())
                yield match[0], [place for place in range(first, last) if texts[place]]

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

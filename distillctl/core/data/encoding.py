"""From records to token ids: the text contract, truncation that keeps the masks, and its count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.core.data.records import Record
from distillctl.core.errors import DataError

_MASK = re.compile(r"<extra_id_\d+>")

# Far more than a code token is long on average: text beyond this many characters a token of room is never kept, so it
# is not worth tokenising.
CHARACTERS_PER_TOKEN = 12


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised record. ``labels`` end with the end-of-sequence id unless they were truncated."""

    key: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokenised records and how many lost something to the length limits."""

    examples: tuple[Example, ...]
    records: tuple[Record, ...]  # of the examples, same order
    inputs_truncated: int
    targets_truncated: int
    dropped: int

    def summary(self) -> str:
        """One line for the console and run.json."""
        total = max(1, len(self.examples))
        return (
            f"{len(self.examples):,} examples; inputs truncated {self.inputs_truncated:,} "
            f"({100 * self.inputs_truncated / total:.1f} %), targets truncated {self.targets_truncated:,} "
            f"({100 * self.targets_truncated / total:.1f} %), dropped {self.dropped:,}"
        )


class Encoder:
    """Turns records into ids for one tokenizer and one pair of length limits (in tokens).

    The input is ``<test method with masks> </s> <focal method> </s>``, with the tokenizer's own start token where it
    has one; the target is the assertions joined by newlines, then ``</s>``.
    """

    def __init__(self, tokenizer: Any, max_source_length: int, max_target_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-sequence token; the text contract needs one")
        self.tokenizer = tokenizer
        self.max_source_length = max_source_length
        self.max_target_length = max_target_length
        self.end = int(tokenizer.eos_token_id)
        frame = list(tokenizer("").input_ids)
        self.start = [token for token in frame if token != self.end][:1]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: no "longer than the maximum" warning, the truncation below is ours
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def encode(self, records: Sequence[Record]) -> Encoded:
        """Tokenises records. One whose target has no token left is dropped and counted."""
        reach = CHARACTERS_PER_TOKEN * self.max_source_length
        tests = self._ids([clip_around_masks(record.test_method_masked, reach) for record in records])
        focals = self._ids([record.focal_method[:reach] for record in records])
        targets = self._ids([record.target for record in records])
        examples, kept = [], []
        inputs_truncated = targets_truncated = dropped = 0
        for record, test, focal, target in zip(records, tests, focals, targets, strict=True):
            source, cut = self._source(test, focal, record)
            labels = [*target, self.end]
            if len(labels) > self.max_target_length:
                labels = labels[: self.max_target_length]
                targets_truncated += 1
            if not target or not labels:
                dropped += 1
                continue
            inputs_truncated += cut
            examples.append(Example(record.key, tuple(source), tuple(labels)))
            kept.append(record)
        return Encoded(tuple(examples), tuple(kept), inputs_truncated, targets_truncated, dropped)

    def _source(self, test: list[int], focal: list[int], record: Record) -> tuple[list[int], bool]:
        """Input ids and whether something was cut: the focal method's end first, then the test far from its masks."""
        budget = self.max_source_length - len(self.start) - 2
        masks = self._mask_positions(test, record)
        if len(masks) > budget:
            raise DataError(
                f"record {record.id}: {len(masks)} masks do not fit in max_source_length={self.max_source_length}"
            )
        window = window_around(len(test), masks, budget)
        room = budget - len(window)
        cut = len(window) < len(test) or room < len(focal)
        ids = [*self.start, *(test[index] for index in window), self.end, *focal[:room], self.end]
        return ids, cut

    def _mask_positions(self, test: list[int], record: Record) -> list[int]:
        wanted = {
            int(self.tokenizer.convert_tokens_to_ids(mask)) for mask in _MASK.findall(record.test_method_masked)
        }
        if None in wanted or self.tokenizer.unk_token_id in wanted:
            raise DataError(
                f"record {record.id}: the tokenizer does not know the masks of this record; it needs <extra_id_*> tokens"
            )
        return [position for position, token in enumerate(test) if token in wanted]


def clip_around_masks(text: str, reach: int) -> str:
    """The lines within ``reach`` characters of the first and last mask (whole lines: their tokens stay the same)."""
    spans = [match.span() for match in _MASK.finditer(text)]
    if not spans or len(text) <= reach:
        return text
    start = text.rfind("\n", 0, max(0, spans[0][0] - reach)) + 1
    end = text.find("\n", min(len(text), spans[-1][1] + reach))
    return text[start:] if end < 0 else text[start : end + 1]


def window_around(length: int, masks: Sequence[int], budget: int) -> Sequence[int]:
    """Positions to keep, in order: all where they fit, else those nearest to a mask, what stands before it first.

    A test is built up before it asserts, so of two positions equally far the earlier one stays; with one mask, three
    quarters of the room go to the text before it as long as there is such text.
    """
    if length <= budget:
        return range(length)
    if len(masks) == 1:
        after = min(length - masks[0] - 1, budget // 4)
        start = max(0, masks[0] - (budget - 1 - after))
        return range(start, start + budget)
    nearest = sorted(range(length), key=lambda i: (min((m - i if m >= i else 3 * (i - m)) for m in masks), i))
    return sorted(nearest[:budget])

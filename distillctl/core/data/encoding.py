"""From records to token ids: the text contract, truncation that keeps the masks, and its count."""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from distillctl.core.data.records import Record
from distillctl.core.errors import DataError

_MASK = re.compile(r"<extra_id_\d+>")

# Longer than a code token is on average: text beyond this many characters a token of room is seldom kept, so
# it is tokenised only where it turns out to be needed.
CHARACTERS_PER_TOKEN = 12
# Where a text was clipped, the tokens next to the cut may differ from those of the whole text.
UNSURE_TOKENS = 16
_AT_ONCE = 512  # texts


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised record. ``labels`` end with the end-of-sequence id unless they were truncated, and begin with the
    tokenizer's own start token where it has one.

    ``key`` names the content; ``id`` is the record's own, for messages.
    """

    key: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    id: str = ""

    def digest(self) -> bytes:
        """16 bytes that name the token ids: equal for equal inputs and targets, whatever record they came from."""
        return ids_digest((len(self.input_ids), *self.input_ids, *self.labels))


def ids_digest(ids: Iterable[int]) -> bytes:
    """16 bytes that name a sequence of ids, the same on every machine."""
    values = array("q", ids)
    if sys.byteorder == "big":
        values.byteswap()
    return hashlib.sha256(values.tobytes()).digest()[:16]


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

    The input is ``<test method with masks> </s> <focal method> </s>``, with the tokenizer's own start token
    where it has one; the target is the assertions joined by newlines as the tokenizer frames them: ``target </s>`` of
    T5, ``<s> target </s>`` of CodeT5+ and BART, which is what they were trained to write (CodeT5+'s
    tune_codet5p_seq2seq.py). Text that only looks like a special token stays text, but for the masks of a test.
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
        # A language code, as of mBART, is no start of text: its decoder is started with it.
        begins = {tokenizer.bos_token_id, tokenizer.cls_token_id}
        self.label_start = [token for token in frame[:1] if token in begins and token != self.end]
        self._budget = max_source_length - len(self.start) - 2  # tokens of test and focal method
        self._reach = CHARACTERS_PER_TOKEN * max_source_length
        special = [re.escape(token) for token in tokenizer.all_special_tokens if not _MASK.fullmatch(token)]
        self._special = re.compile("|".join(special) or "(?!)")
        self._mask_ids: dict[str, int] = {}

    def encode(self, records: Sequence[Record]) -> Encoded:
        """Tokenises records. One whose target has no token left is dropped and counted.

        Raises DataError for a record without a mask, with a mask that the tokenizer does not know, or with
        more masks than fit.
        """
        clips = [clip_around_masks(record.test_method_masked, self._reach) for record in records]
        tests = self._test_ids([record.test_method_masked[clip] for record, clip in zip(records, clips, strict=True)])
        focals = self._ids([record.focal_method[: self._reach] for record in records])
        targets = self._ids([record.target for record in records])
        examples, kept = [], []
        inputs_truncated = targets_truncated = 0
        for record, clip, test, focal, target in zip(records, clips, tests, focals, targets, strict=True):
            framed = [*self.label_start, *target, self.end]
            labels = framed[: self.max_target_length]
            if not record.target.strip() or not target or len(labels) <= len(self.label_start):
                continue
            source, cut = self._source(record, clip, test, focal)
            inputs_truncated += cut
            targets_truncated += len(labels) < len(framed)
            examples.append(Example(record.key, tuple(source), tuple(labels), record.id))
            kept.append(record)
        dropped = len(records) - len(kept)
        return Encoded(tuple(examples), tuple(kept), inputs_truncated, targets_truncated, dropped)

    def _ids(self, texts: Sequence[str], split_special: bool = True) -> list[list[int]]:
        if not texts:
            return []
        if self.tokenizer.is_fast:
            return fast_ids(self.tokenizer.backend_tokenizer, texts, split_special)
        # verbose=False: no "longer than the maximum" warning, the truncation is ours
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=split_special, verbose=False
        )["input_ids"]
        return ids

    def _test_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of tests with their masks as tokens; another special token's text in a test stays text."""
        ids = self._ids(texts, split_special=False)
        for index, text in enumerate(texts):
            if self._special.search(text):
                pieces = self._ids(_MASK.split(text))
                masks = self._ids(_MASK.findall(text), split_special=False)
                ids[index] = [*chain(*chain(*zip_longest(pieces, masks, fillvalue=[])))]
        return ids

    def _source(self, record: Record, clip: slice, test: list[int], focal: list[int]) -> tuple[list[int], bool]:
        """Input ids and whether something was cut: the focal method's end, then the test far from its masks.

        ``test`` and ``focal`` are the ids of the clipped texts; where they do not suffice, the whole is read.
        """
        window = self._window(record, test)
        starts_late, ends_early = clip.start > 0, clip.stop < len(record.test_method_masked)
        unsure_end = len(test) - UNSURE_TOKENS
        if (starts_late and window[0] < UNSURE_TOKENS) or (ends_early and window[-1] >= unsure_end):
            (test,) = self._test_ids([record.test_method_masked])
            window = self._window(record, test)
        room = self._budget - len(window)
        if len(record.focal_method) > self._reach and room > len(focal) - UNSURE_TOKENS:
            (focal,) = self._ids([record.focal_method])
        cut = len(window) < len(test) or room < len(focal)
        ids = [*self.start, *(test[index] for index in window), self.end, *focal[:room], self.end]
        return ids, cut

    def _window(self, record: Record, test: Sequence[int]) -> Sequence[int]:
        masks = self._mask_positions(record, test)
        if len(masks) > self._budget:
            raise DataError(
                f"record {record.id}: {len(masks)} masks do not fit in max_source_length={self.max_source_length}"
            )
        return window_around(len(test), masks, self._budget)

    def _mask_positions(self, record: Record, test: Sequence[int]) -> list[int]:
        masks = _MASK.findall(record.test_method_masked)
        if not masks:
            raise DataError(f"record {record.id}: test_method_masked has no mask")
        wanted = {self._mask_id(mask) for mask in masks}
        positions = [position for position, token in enumerate(test) if token in wanted]
        if len(positions) != len(masks):
            lacking = [mask for mask in dict.fromkeys(masks) if self._mask_id(mask) == -1]
            fewer = (
                ". Mask fewer assertions a test (data.max_assertions_per_test, or in the file), or leave the record out"
            )
            raise DataError(
                f"record {record.id}: the tokenizer does not know the masks of this record; "
                f"it needs the tokens {', '.join(lacking or dict.fromkeys(masks))}"
                f"{'' if masks[0] in lacking else fewer}"
            )
        return positions

    def _mask_id(self, mask: str) -> int:
        if mask not in self._mask_ids:
            found = self.tokenizer.convert_tokens_to_ids(mask)
            self._mask_ids[mask] = -1 if found is None or found == self.tokenizer.unk_token_id else int(found)
        return self._mask_ids[mask]


def fast_ids(backend: Any, texts: Sequence[str], split_special: bool) -> list[list[int]]:
    """Ids by the tokenizers library itself: ``split_special_tokens`` of fast tokenizers is newer than 4.41.

    Args:
        backend: of a fast tokenizer.
        texts: to be cut; nothing is put around them.
        split_special: a text that looks like a special token stays text.
    """
    before = backend.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = split_special
    try:
        # In parts: an encoding holds some hundred bytes a token besides its ids.
        parts = (list(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE))
        return [found.ids for part in parts for found in backend.encode_batch(part, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def clip_around_masks(text: str, reach: int) -> slice:
    """The whole lines within ``reach`` characters of the first and last mask: most tokens stay the same."""
    spans = [match.span() for match in _MASK.finditer(text)]
    if not spans or len(text) <= reach:
        return slice(0, len(text))
    start = text.rfind("\n", 0, max(0, spans[0][0] - reach)) + 1
    end = text.find("\n", min(len(text), spans[-1][1] + reach))
    return slice(start, len(text) if end < 0 else end + 1)


def window_around(length: int, masks: Sequence[int], budget: int) -> Sequence[int]:
    """Positions to keep, in order: all where they fit, else those nearest to a mask, the masks first.

    A test is built up before it asserts: a position behind a mask counts as three times as far, so of the
    room three quarters go to the text before the mask as long as there is such text. Needs a mask, and at
    most ``budget`` of them.
    """
    if length <= budget:
        return range(length)
    if len(masks) == 1:
        after = min(length - masks[0] - 1, budget // 4)
        start = max(0, masks[0] - (budget - 1 - after))
        return range(start, start + budget)
    nearest = sorted(range(length), key=lambda i: (min((m - i if m >= i else 3 * (i - m)) for m in masks), i))
    return sorted(nearest[:budget])

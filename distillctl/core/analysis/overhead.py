"""From step times to what an objective costs: paired ratios with intervals, verdicts, shares, payback.

Arms take the same batches in turn, forwards on one step and backwards on the next (A B C, C B A, ...). Two such steps
are a block: in it every arm has the same mean place in time, so that a machine that steadily gets slower or faster
changes no block's ratio. Blocks, not steps, are what an interval is drawn over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillctl.core.analysis.figures import digits_apart
from distillctl.core.errors import DataError
from distillctl.core.phases import LOGGING, OPTIMIZER

RESAMPLES = 5_000
CONFIDENCE = 0.95
SEED = 13
FEWEST_BLOCKS = 6
"""With fewer, even the smallest and the largest block hold the true median less than 95 times of 100: 1 - 2 / 2^n."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step, and of its parts, which add up to it."""

    seconds: float
    parts: Mapping[str, float]

    def of(self, *names: str) -> float:
        """Seconds of some parts together; 0 for one that was not run."""
        return sum(self.parts.get(name, 0.0) for name in names)

    @property
    def without_optimizer(self) -> float:
        """Seconds of everything but clipping and the update, which are the same in every arm."""
        return self.seconds - self.of(OPTIMIZER)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long one arm takes as another.

    Attributes:
        median: of the blocks' ratios.
        low, high: the median's bootstrap interval over blocks; equal to it where there is one block only.
        of_sums: of all steps' seconds together, in which long and rare steps count as long as they are.
        blocks: how many there were.
    """

    median: float
    low: float
    high: float
    of_sums: float
    blocks: int

    def is_noisy(self, limit: float) -> bool:
        """Whether the interval is wider than what lies between the median and a limit."""
        return self.blocks < FEWEST_BLOCKS or self.high - self.low > abs(limit - self.median)

    def beside(self, limit: float) -> str:
        """As text, with digits enough to tell the median from the limit."""
        digits = digits_apart(self.median, limit, 3)
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio_of(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """The ratio of two arms' seconds, step by step on the same batches.

    A block's ratio is the geometric mean of its two steps' ratios: drift multiplies one by as much as it divides the
    other. The interval is the percentile bootstrap of the median (Efron & Tibshirani 1993, section 13.3).

    Args:
        numerator, denominator: seconds > 0 per step, an even number of them, in the order in which they were run.

    Raises:
        DataError: no steps, an odd number, or other numbers of steps.
    """
    if len(numerator) != len(denominator) or len(numerator) < 2 or len(numerator) % 2:
        raise DataError(
            "both arms should have the same even number of steps, half of them run in reverse order. "
            f"Found {len(numerator)} and {len(denominator)}"
        )
    above, below = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    blocks = np.exp(np.log(above / below).reshape(-1, 2).mean(axis=1))
    low, high = _median_interval(blocks)
    return Ratio(float(np.median(blocks)), low, high, float(above.sum() / below.sum()), len(blocks))


def _median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    drawn = np.random.default_rng(SEED).integers(0, len(values), size=(RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(values[drawn], axis=1), (tail, 1 - tail))
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a ratio keeps a limit.

    Attributes:
        within: the median does.
        certain: the whole interval is on the median's side of the limit, and there were blocks enough to have one.
        text: both in words, with the reason for a doubt.
    """

    within: bool
    certain: bool
    text: str


def limit_text(limit: float) -> str:
    """``1.10``, with as many digits as the limit has."""
    return f"{limit:.2f}" if round(limit, 2) == limit else f"{limit:g}"


def judge(ratio: Ratio, limit: float) -> Verdict:
    """The verdict on a ratio and its limit."""
    within = ratio.median <= limit
    one_sided = ratio.high <= limit if within else ratio.low > limit
    certain = one_sided and ratio.blocks >= FEWEST_BLOCKS
    text = f"{'within' if within else 'above'} the limit of {limit_text(limit)}"
    if not one_sided:
        text += f", not certain: the interval reaches {'above' if within else 'below'} it"
    if ratio.blocks < FEWEST_BLOCKS:
        text += f"; {2 * FEWEST_BLOCKS} steps or more make an interval to be relied on. Found {2 * ratio.blocks}"
    elif ratio.is_noisy(limit):
        width, margin = ratio.high - ratio.low, abs(limit - ratio.median)
        noise = "too noisy to tell" if not one_sided else "noisy"
        text += f"; the machine was {noise}: the interval is {width:.3f} wide, the margin to the limit {margin:.3f}"
    return Verdict(within, certain, text)


def payback_epochs(capture_seconds: float, live_step: float, cached_step: float, batch_size: int) -> float | None:
    """Epochs after which a captured teacher has saved what capturing it took; None where it saves nothing.

    Args:
        capture_seconds: of one example.
        live_step, cached_step: seconds of an optimizer step of ``batch_size`` examples.
    """
    saved = (live_step - cached_step) / batch_size
    return capture_seconds / saved if saved > 0 else None


def logging_share(times: Sequence[StepTime]) -> float:
    """Part of the steps' time that goes into reading and writing what was measured."""
    return sum(time.of(LOGGING) for time in times) / sum(time.seconds for time in times)


def parts_of_median_step(times: Sequence[StepTime]) -> dict[str, float]:
    """The median step's seconds, divided among the parts as those of all steps together are.

    So the parts add up to the step, which medians of each would not. They keep the order in which they first came up.
    """
    names = dict.fromkeys(name for time in times for name in time.parts)
    factor = median_seconds(times) / sum(time.seconds for time in times)
    return {name: factor * sum(time.of(name) for time in times) for name in names}


def median_seconds(times: Sequence[StepTime]) -> float:
    """Median seconds of a step."""
    return float(np.median([time.seconds for time in times]))


def check_alike(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse arms that did not compute the same.

    Args:
        facts: arm -> what has to be equal (batches, dtype, device) -> its value.

    Raises:
        DataError: naming the fact, the arms and both values.
    """
    (first, expected), *others = facts.items()
    for arm, found in others:
        for name in dict.fromkeys([*expected, *found]):
            if expected.get(name) != found.get(name):
                raise DataError(
                    f"the arms cannot be compared: {name} of '{first}' is {_short(expected.get(name))}, of '{arm}' "
                    f"{_short(found.get(name))}. Only the objective and what is logged may differ"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def ratio_record(ratio: Ratio) -> dict[str, float]:
    """A ratio as JSON has it."""
    return asdict(ratio)


def read_ratio(values: Any, where: str) -> Ratio:
    """A ratio from JSON. Raises DataError, naming ``where``, for anything else."""
    names = ("median", "low", "high", "of_sums", "blocks")
    found = {name: values[name] for name in names if name in values} if isinstance(values, Mapping) else {}
    if len(found) != len(names) or not all(_is_positive(value) for value in found.values()):
        raise DataError(f"{where}: should be a ratio ({', '.join(names)}). Found {_short(values)}")
    return Ratio(**found)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0

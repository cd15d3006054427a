"""May two runs be compared? Only on the same samples, scored and decoded in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillctl.core.analysis.run_data import RunData
from distillctl.core.errors import DataError


def check_comparable(runs: Sequence[RunData]) -> None:
    """Raise DataError, naming both runs and the first difference, unless all runs answered the same samples.

    The same sample: the same id, input fingerprint, gold, language, project and path. The same way: equal
    metric versions and decoding settings. The order of the samples may differ.
    """
    first = runs[0]
    for other in runs[1:]:
        if first.metric_version != other.metric_version:
            raise DataError(
                f"{first.path} and {other.path}: different metric versions ({first.metric_version} and "
                f"{other.metric_version}). Score both with the same version of distillctl"
            )
        _check_decoding(first, other)
        _check_samples(first, other)


def in_order_of(first: RunData, other: RunData) -> list[int]:
    """The places in ``other`` of the samples of ``first``."""
    places = {row["id"]: place for place, row in enumerate(other.rows)}
    return [places[row["id"]] for row in first.rows]


def _check_decoding(first: RunData, other: RunData) -> None:
    names = sorted(first.decoding.keys() | other.decoding.keys())
    different = [
        f"{name} {first.decoding.get(name)!r} and {other.decoding.get(name)!r}"
        for name in names
        if first.decoding.get(name) != other.decoding.get(name)
    ]
    if different:
        raise DataError(
            f"{first.path} and {other.path}: different decoding settings ({', '.join(different)}). "
            "Score both with the same settings"
        )


def _check_samples(first: RunData, other: RunData) -> None:
    expected, found = _by_id(first), _by_id(other)
    only_first, only_other = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if only_first or only_other:
        example = f"{only_first[0]!r} only in the first" if only_first else f"{only_other[0]!r} only in the second"
        raise DataError(
            f"{first.path} and {other.path}: different sample ids ({len(expected):,} and {len(found):,}, "
            f"{len(expected.keys() & found.keys()):,} shared; {example}). Score both on the same records"
        )
    for name in ("input_fingerprint", "gold", "language", "project", "path"):
        unlike = [key for key, row in expected.items() if row[name] != found[key][name]]
        if unlike:
            raise DataError(
                f"{first.path} and {other.path}: different data: {name.replace('_', ' ')} of {len(unlike):,} samples "
                f"differs, first {unlike[0]!r}. Score both on the same records"
            )


def _by_id(run: RunData) -> Mapping[str, Mapping[str, Any]]:
    return {row["id"]: row for row in run.rows}

"""What differs between two configurations, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted name, value of the first, value of the second) of the fields that differ, by name; None where unset.

    Both are plain values, as ``Config.to_dict()`` gives them and config.yaml and JSON hold them.
    """
    one, other = dict(_flat(first)), dict(_flat(second))
    return [
        (name, one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

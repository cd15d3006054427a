"""YAML to plain values, strictly: YAML 1.2's plain types, text keys, no duplicate keys, no tags, no aliases.

PyYAML follows YAML 1.1, in which ``1e-4`` is text, ``on`` is true and ``012`` is ten: each has cost somebody
a run. The nodes of its safe loader are converted here instead, which also gives the line of every key for
messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from distillctl.core.errors import UsageError

MAX_CHARACTERS = 1_000_000
_PREFIX = "tag:yaml.org,2002:"
_NULL = re.compile(r"(null|Null|NULL|~|)")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,300}|[0-9]{1,300}(\.[0-9]{0,300})?)([eE][-+]?[0-9]{1,9})?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


_PLAIN = "plain"


class _Loader(yaml.SafeLoader):
    """The safe loader, without YAML 1.1's guesses about unquoted text."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else f"{_PREFIX}str"
        return f"{_PREFIX}map" if kind is yaml.MappingNode else f"{_PREFIX}seq"


@dataclass(frozen=True)
class Document:
    """``values`` of a YAML text; ``lines`` gives the line (from 1) of each key by its path."""

    values: Any
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)


def parse_yaml(text: str, source: str) -> Document:
    """The single document in ``text``. ``source`` names it in messages (a file, or the flag it came from).

    Raises UsageError with ``source:line`` for anything but plain YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{source}: {len(text)} characters are too many for a configuration: is it the right file?")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        lines: dict[tuple[str, ...], int] = {}
        return Document(None if node is None else _Converter(source, lines).value(node, ()), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = source if mark is None else f"{source}:{mark.line + 1}"
        problem = " ".join(", ".join(filter(None, (error.context, error.problem))).split())
        raise UsageError(f"{where}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise UsageError(f"{source}: nested too deeply for a configuration") from error


class _Converter:
    """Turns composed YAML nodes into plain values. Quoted text stays text, whatever it looks like."""

    def __init__(self, source: str, lines: dict[tuple[str, ...], int]) -> None:
        self._source = source
        self._lines = lines
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        if id(node) in self._seen:
            raise self._refuse(node, "anchors and aliases are not supported; use `extends: FILE` to share settings")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
            return [self.value(item, (*path, str(index))) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in (_PLAIN, f"{_PREFIX}str"):
            return plain_scalar(node.value) if node.tag == _PLAIN else str(node.value)
        raise self._refuse(node, f"tag {node.tag.replace(_PREFIX, '!!')} is not supported: write plain values")

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refuse(key_node, "a key should be one word. Found a list or a mapping")
            key = str(key_node.value)
            if key in values:
                raise self._refuse(
                    key_node, f"key {_short(key)} is given twice (first on line {self._lines[*path, key]})"
                )
            self._lines[*path, key] = key_node.start_mark.line + 1
            values[key] = self.value(value_node, (*path, key))
        return values

    def _refuse(self, node: yaml.Node, problem: str) -> UsageError:
        return UsageError(f"{self._source}:{node.start_mark.line + 1}: {problem}")


def plain_scalar(text: str) -> bool | int | float | str | None:
    """The value of an unquoted YAML 1.2 scalar (core schema, decimal numbers)."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(f"{special[1] or ''}{special[2] or special[3]}")
    return text


class _Dumper(yaml.SafeDumper):
    """The safe dumper, quoting every text that :func:`plain_scalar` would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_scalar(text), str) else "'"
    if not text.isprintable():
        style = '"'  # escapes what a plain or block text would change (such as NEL, which reads back as a space)
    return dumper.represent_scalar(f"{_PREFIX}str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """``values`` (mappings, lists, numbers, texts) as YAML that :func:`parse_yaml` reads back the same."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."

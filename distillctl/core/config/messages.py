"""What is wrong with a configuration, in words: file and line, field, what was expected, what was found."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from distillctl.core.config.schema import Config

Path = tuple[str, ...]

_EXPECTED = {
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "string_type": "should be text (quote it if it looks like a number)",
    "string_unicode": "should be valid Unicode text",
    "string_too_short": "should not be empty",
    "tuple_type": "should be a list",
    "model_type": "should be a mapping of keys to values",
    "model_attributes_type": "should be a mapping of keys to values",
    "literal_error": "should be {expected}",
    "greater_than": "should be greater than {gt:g}",
    "greater_than_equal": "should be at least {ge:g}",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be at most {le:g}",
}


@dataclass(frozen=True)
class Layer:
    """Values from one place (a file or a flag), later layers overriding earlier ones."""

    source: str
    values: Mapping[str, Any]
    lines: Mapping[Path, int] = field(default_factory=dict)

    def sets(self, path: Path) -> bool:
        """True if this layer gives the value at ``path`` (or replaces something that holds it)."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping):
                return True
            if part not in value:
                return False
            value = value[part]
        return True

    def at(self, path: Path) -> Mapping[str, Any]:
        """The mapping that this layer has at ``path``."""
        value: Any = self.values
        for part in path:
            value = value[part]
        return cast(Mapping[str, Any], value)

    def where(self, path: Path) -> str:
        """``source:line`` of the deepest key on ``path`` whose line is known."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.lines:
                return f"{self.source}:{self.lines[path[:depth]]}"
        return self.source


@cache
def field_paths() -> dict[str, FieldInfo]:
    """Every section and field of the configuration by its dotted name, in the schema's order."""
    found: dict[str, FieldInfo] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, info in model.model_fields.items():
            found[prefix + name] = info
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                walk(info.annotation, f"{prefix}{name}.")

    walk(Config, "")
    return found


def nearest_field(name: str, section: str = "") -> str | None:
    """The dotted name of the field that ``name`` was probably meant to be, first within ``section``.

    A field of another section is suggested only if its own name is the same or close.
    """
    prefix = f"{section}." if section else ""
    own = {path.removeprefix(prefix): path for path in field_paths() if path.startswith(prefix)}
    direct = {short: path for short, path in own.items() if "." not in short}
    elsewhere = {path.rpartition(".")[2]: path for path in reversed(field_paths())}
    for candidates, cutoff in ((direct, 0.6), (elsewhere, 0.75)):
        if match := difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff):
            return candidates[match[0]]
    return None


def field_to_set(name: str) -> str | None:
    """The dotted name of the field, no section, that ``--set`` was probably meant to name."""
    field = nearest_field(name)
    return None if any(path.startswith(f"{field}.") for path in field_paths()) else field


def describe(error: ValidationError, layers: Sequence[Layer]) -> list[str]:
    """One line for each mistake in ``error``, in the order of the fields."""
    return [_describe_one(problem, layers) for problem in error.errors(include_url=False)]


def not_a_section(layer: Layer, path: Path, found: object) -> str:
    """The message for a plain value where a section or a schedule belongs."""
    expected = "should be a number, [start, end] or {start: ..., end: ...}"
    if path[-1] != "weight":
        expected = _EXPECTED["model_type"]
    return f"{_named(layer.where(path), '.'.join(path))} {expected}. Found {_shown(found)}"


def _describe_one(problem: Any, layers: Sequence[Layer]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    name, kind, found = ".".join(path), problem["type"], problem["input"]
    if kind == "extra_forbidden":
        where = _where(path, layers)
        return f"{where}{': ' if where else ''}unknown key {name}{_suggestion(path)}"
    if kind not in _EXPECTED and isinstance(found, (Mapping, BaseModel)):
        return ": ".join(filter(None, (name, problem["msg"])))  # a rule between fields names them itself
    expected = _EXPECTED.get(kind, problem["msg"].removeprefix("Input ")).format(**problem.get("ctx", {}))
    return f"{_named(_where(path, layers), name)} {expected}. Found {_shown(found)}{_nearest_choice(problem)}"


def _where(path: Path, layers: Sequence[Layer]) -> str:
    return next((layer.where(path) for layer in reversed(layers) if layer.sets(path)), "")


def _named(where: str, name: str) -> str:
    if not where or where.endswith(f" {name}"):  # "--set data.mask" names the field already
        return where or name
    return f"{where}: {name}"


def _suggestion(path: Path) -> str:
    section = ".".join(path[:-1])
    if near := nearest_field(path[-1], section):
        return f": did you mean {near}?"
    prefix = f"{section}." if section else ""
    known = [p.removeprefix(prefix) for p in field_paths() if p.startswith(prefix)]
    return f": known here are {', '.join(k for k in known if '.' not in k)}"


def _nearest_choice(problem: Any) -> str:
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = [choice.strip("'") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")]
    match = difflib.get_close_matches(problem["input"], choices, n=1)
    return f": did you mean {match[0]}?" if match else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."

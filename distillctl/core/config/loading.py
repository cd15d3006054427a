"""From files and flags to one configuration: defaults, then YAML files, then ``--set``, then dedicated flags.

A later layer overrides an earlier one field by field. Everything that is wrong is reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillctl.core.config.messages import Layer, describe, not_a_section
from distillctl.core.config.objective import TERM_NAMES, expand_weight
from distillctl.core.config.schema import Config
from distillctl.core.config.yaml_text import parse_yaml
from distillctl.core.errors import CollectedUsageError, UsageError

EXTENDS = "extends"
_PACKAGE = Path(__file__).resolve().parents[2]
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where configs are: in an installed package, and beside the package in a checkout."""


def load_config(
    files: Iterable[str | Path] = (),
    settings: Iterable[str] = (),
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration that results from all layers.

    Args:
        files: YAML files or names of shipped configs (``trident``), later ones overriding earlier ones.
        settings: ``KEY=VALUE`` with a dotted key and a YAML value, as given to ``--set``.
        flags: dedicated flags by name, each with the dotted keys that it sets: ``{"--beta":
        {"objective.beta": 5}}``. base: a command's own defaults by dotted key, below the files.

    Raises:
        CollectedUsageError: everything wrong with the layers, one message each: file and line or flag, key,
            nearest match.
    """
    layers = [_layer("default", {}), *([_dotted("default", base)] if base else [])]
    problems: list[str] = []
    for name in files:
        try:
            layers.extend(_file_layers(str(name), beside=None, chain=()))
        except UsageError as error:
            problems.append(str(error))
    for setting in settings:
        try:
            layers.append(_setting_layer(setting))
        except UsageError as error:
            problems.append(str(error))
    layers.extend(_dotted(flag, values) for flag, values in (flags or {}).items())
    values = _default_values()
    for layer in layers:
        values = _merged(values, layer, problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise CollectedUsageError([*problems, *describe(error, layers)]) from error
    if problems:
        raise CollectedUsageError(problems)
    return config


def shipped_configs() -> dict[str, Path]:
    """The configs that come with distillctl, by name without ``.yaml``."""
    folder = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str, beside: Path | None = None) -> Path:
    """The file that ``name`` means: a path relative to the folder ``beside``, a path, or a shipped config.

    ``trident``, ``trident.yaml`` and ``configs/trident.yaml`` all find the shipped one where there is no such
    file.
    """
    given = Path(name)
    for path in (*([beside / given] if beside is not None else []), given):
        if _is_file(path):
            return path
    shipped = shipped_configs()
    stem = given.name.removesuffix(".yaml")
    if str(given.parent) in (".", "configs") and stem in shipped:
        return shipped[stem]
    near = difflib.get_close_matches(stem, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"configs that come with distillctl: {', '.join(shipped)}"
    what = "is a directory" if not _is_file(given) and _is_directory(given) else "there is no such file"
    raise UsageError(f"config {name!r}: {what}; {hint}")


def _file_layers(name: str, beside: Path | None, chain: tuple[Path, ...]) -> list[Layer]:
    path = find_config(name, beside)
    if path.resolve() in chain:
        raise UsageError(f"{path}: extends itself through {' -> '.join(str(link) for link in chain)}")
    document = parse_yaml(_read(path), str(path))
    values = {} if document.values is None else document.values
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a config should be a mapping of keys to values. Found {type(values).__name__}")
    parent = values.pop(EXTENDS, None)
    own = _layer(str(path), values, document.lines)
    if parent is None:
        return [own]
    if not isinstance(parent, str):
        raise UsageError(f"{path}:{document.lines[EXTENDS,]}: extends should be the name of one file. Found {parent!r}")
    return [*_file_layers(parent, path.parent, (*chain, path.resolve())), own]


def _setting_layer(setting: str) -> Layer:
    key, separator, text = setting.partition("=")
    key = key.strip()
    if not separator or not all(key.split(".")):
        raise UsageError(f"--set {setting}: should be KEY=VALUE with a dotted key, as in objective.jsd.temperature=2")
    source = f"--set {key}"
    return _dotted(source, {key: parse_yaml(text, source).values})


def _dotted(source: str, values: Mapping[str, Any]) -> Layer:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return _layer(source, nested)


def _layer(source: str, values: dict[str, Any], lines: Mapping[tuple[str, ...], int] | None = None) -> Layer:
    """A layer in the schema's terms: ``beta`` spelled out, weights as mappings, so that layers merge."""
    known_lines = dict(lines or {})
    objective = values.get("objective")
    if isinstance(objective, dict):
        objective = dict(objective)
        if "beta" in objective and "semantic_loss_scale" in objective:
            raise UsageError(
                f"{source}: objective.beta and objective.semantic_loss_scale are the same: give one of them"
            )
        if "beta" in objective:
            objective["semantic_loss_scale"] = objective.pop("beta")
            if line := known_lines.get(("objective", "beta")):
                known_lines["objective", "semantic_loss_scale"] = line
        for name in TERM_NAMES:
            term = objective.get(name)
            if isinstance(term, dict) and "weight" in term:
                objective[name] = {**term, "weight": expand_weight(term["weight"])}
        values = {**values, "objective": objective}
    return Layer(source, values, known_lines)


def _default_values() -> dict[str, Any]:
    values = Config().to_dict()
    values["student"]["init"] = None  # decided by the schema, once student.model is known
    return values


def _merged(lower: Mapping[str, Any], layer: Layer, problems: list[str], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """``lower`` with the layer's values under ``path`` laid over it; misfits go to ``problems``."""
    result = dict(lower)
    for key, value in layer.at(path).items():
        here = (*path, key)
        if not isinstance(result.get(key), Mapping):
            result[key] = value
        elif isinstance(value, Mapping):
            result[key] = _merged(result[key], layer, problems, here)
        # In a file a null section has all its keys commented out; on the command line it was meant to say something.
        elif value is not None or key == "weight" or layer.source.startswith("--set"):
            problems.append(not_a_section(layer, here, value))
    return result


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}): is it a YAML file?") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL
        return False


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False

"""YAML means what it looks like, and whatever is thrown at the loader gives a config or a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillctl.core.config import Config, dump_yaml, field_paths, load_config, parse_yaml
from distillctl.core.errors import DistillError, UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("012", 12),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("'3'", "3"),
        ("-.5", -0.5),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_plain_yaml_means_what_it_looks_like(text: str, value: object) -> None:
    parsed = parse_yaml(text, "here").values
    assert parsed == value
    assert type(parsed) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=10), inner, max_size=3),
    max_leaves=8,
)
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@BOUNDED
@given(values=st.dictionaries(st.text(min_size=1, max_size=10), PLAIN, max_size=4))
def test_plain_values_survive_writing_and_reading(values: dict[str, object]) -> None:
    assert parse_yaml(dump_yaml(values), "here").values == values


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def load_or_refuse(path: Path, overrides: list[str]) -> None:
    """A configuration or a DistillError with a message; anything else fails the test that calls it."""
    try:
        outcome: Config | DistillError = load_config([str(path)], overrides)
    except DistillError as error:
        outcome = error
    assert isinstance(outcome, (Config, UsageError))
    assert str(outcome)


@BOUNDED
@given(content=st.binary(max_size=200))
def test_any_bytes_give_a_config_or_a_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    load_or_refuse(path, [])


@BOUNDED
@given(text=st.text(alphabet="{}[]:,-&*!?|>'\"%@`#\n \t<=.~0e1anyo\\x", max_size=60))
def test_any_yaml_like_text_gives_a_config_or_a_clear_error(text: str, tmp_path: Path) -> None:
    load_or_refuse(write(tmp_path / "any.yaml", text), [f"seed={text}"])


@BOUNDED
@given(path=st.sampled_from(sorted(field_paths())), value=PLAIN)
def test_any_value_of_any_field_gives_a_config_or_a_clear_error(path: str, value: object, tmp_path: Path) -> None:
    nested: object = value
    for part in reversed(path.split(".")):
        nested = {part: nested}
    assert isinstance(nested, dict)
    load_or_refuse(write(tmp_path / "any.yaml", dump_yaml(nested)), [])


@BOUNDED
@given(setting=st.text(max_size=30))
def test_any_setting_gives_a_config_or_a_clear_error(setting: str, tmp_path: Path) -> None:
    load_or_refuse(write(tmp_path / "ok.yaml", "seed: 1"), [setting])

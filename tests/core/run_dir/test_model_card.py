"""The model card: readable front matter, facts, scores, and a snippet that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distillctl.core.run_dir import write_model_card


def card(folder: Path, **changes: Any) -> str:
    values: dict[str, Any] = {
        "title": "A student",
        "made": {"command": "distillctl train --beta 5", "records": 36000, "commit": None},
        "scores": {"teacher": {"F1": 13.123}, "student": {"F1": 9.5, "exact match": None}},
        "scored_on": "500 records of the validation split",
        "max_source_length": 144,
        "max_target_length": 48,
    }
    return write_model_card(folder, **(values | changes)).read_text(encoding="utf-8")


def test_the_front_matter_is_yaml(tmp_path: Path) -> None:
    front = yaml.safe_load(card(tmp_path).split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "base_model" not in front
    assert yaml.safe_load(card(tmp_path, base_model="a/b").split("---\n")[1])["base_model"] == "a/b"


def test_facts_and_scores_are_tables(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert (tmp_path / "README.md").is_file()
    assert "# A student" in text
    assert "| command | distillctl train --beta 5 |" in text
    assert "| commit | - |" in text
    assert "|  | F1 | exact match |" in text
    assert "| teacher | 13.12 | - |" in text
    assert "| student | 9.50 | - |" in text
    assert "500 records of the validation split" in text


def test_a_bar_or_a_line_break_does_not_break_a_table(tmp_path: Path) -> None:
    assert "| note | a \\| b c |" in card(tmp_path, made={"note": "a | b\nc"})


def test_the_snippet_is_python_with_the_right_lengths(tmp_path: Path) -> None:
    snippet = card(tmp_path).split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert "max_length=144" in snippet
    assert "max_new_tokens=48" in snippet
    assert 'focal = "def add(a, b):\\n    return a + b"' in snippet


@pytest.mark.parametrize("metric", [0.0, 100.0])
def test_extreme_scores_are_shown(metric: float, tmp_path: Path) -> None:
    assert f"| student | {metric:.2f} |" in card(tmp_path, scores={"student": {"F1": metric}})

"""The model card: readable front matter, facts, scores, and a snippet that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from distillctl.core.data.encoding import Encoder
from distillctl.core.data.records import Record
from distillctl.core.run_dir import write_model_card
from tests.tokenizers import CODET5_SPECIALS, byte_level_bpe, roberta_bpe

TEST = "def test_add(self):\n    total = add(2, 3)\n    <extra_id_0>"
FOCAL = "def add(a, b):\n    return a + b"


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
    assert "room = max(0, 144 - " in snippet
    assert "max_new_tokens=48" in snippet
    assert 'focal = "def add(a, b):\\n    return a + b"' in snippet


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("made", [byte_level_bpe, partial(roberta_bpe, specials=CODET5_SPECIALS)])
def test_the_snippet_gives_the_model_the_ids_that_it_was_trained_on(
    made: Callable[[Sequence[str], int], Any],
    cut: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = made(["def test_add(self):\n    total = add(2, 3)\n    return a + b"] * 9, 300)
    record = Record("x", "python", "p", "t.py", FOCAL, TEST, ("assert total == 5",))
    length = len(Encoder(tokenizer, 144, 48).encode([record]).examples[0].input_ids) - cut
    asked: list[int] = []

    class Model:
        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
            asked.extend(input_ids[0].tolist())
            assert max_new_tokens == 48
            return input_ids

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder: tokenizer)
    monkeypatch.setattr(transformers.AutoModelForSeq2SeqLM, "from_pretrained", lambda folder: Model())
    names: dict[str, Any] = {}
    exec(card(tmp_path, max_source_length=length).split("```python\n")[1].split("```")[0], names)
    assert (names["test"], names["focal"]) == (TEST, FOCAL)
    encoded = Encoder(tokenizer, length, 48).encode([record])
    assert asked == list(encoded.examples[0].input_ids)
    assert encoded.inputs_truncated == (cut > 0)


@pytest.mark.parametrize("metric", [0.0, 100.0])
def test_extreme_scores_are_shown(metric: float, tmp_path: Path) -> None:
    assert f"| student | {metric:.2f} |" in card(tmp_path, scores={"student": {"F1": metric}})

"""The card of a student: how it was made, what it scores, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillctl.core.config.yaml_text import dump_yaml
from distillctl.core.store.files import write_atomically

CARD_NAME = "README.md"

# The ids are those of data/encoding.py: put together as text, they would be other ones.
_SNIPPET = """```python
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)

test = "def test_add(self):\\n    total = add(2, 3)\\n    <extra_id_0>"
focal = "def add(a, b):\\n    return a + b"


def ids(text):
    return tokenizer(text, add_special_tokens=False).input_ids


end = tokenizer.eos_token_id
start = [token for token in tokenizer("").input_ids if token != end][:1]
room = max(0, {max_source_length} - len(start + ids(test)) - 2)  # a test that leaves none was cut around its mask
source = start + ids(test) + [end] + ids(focal)[:room] + [end]
outputs = model.generate(torch.tensor([source]), max_new_tokens={max_target_length})
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
```"""


def write_model_card(
    folder: Path,
    *,
    title: str,
    made: Mapping[str, object],
    scores: Mapping[str, Mapping[str, float | None]],
    scored_on: str,
    max_source_length: int,
    max_target_length: int,
    base_model: str | None = None,
    limits: str = "Its assertions are guesses: run and read them before they are kept.",
) -> Path:
    """Write ``README.md`` into the model's ``folder`` and return its path.

    Args:
        folder: where the model lies; exists.
        title: what the model is, in a few words.
        made: how it was made, one fact a row: command, commit, teacher, records, objective, seconds.
        scores: system (teacher, student before, student) -> metric -> value; None is shown as a dash.
        scored_on: the records behind the scores: split, number, how chosen.
        max_source_length, max_target_length: tokens the model was trained with, used in the snippet.
        base_model: hub name of the model it was distilled from; None when it has none.
        limits: what a reader should not expect of it.
    """
    front: dict[str, object] = {
        "library_name": "transformers",
        "tags": ["distillctl", "knowledge-distillation", "assertion-generation", "code"],
    }
    if base_model is not None:
        front["base_model"] = base_model
    snippet = _SNIPPET.format(max_source_length=max_source_length, max_target_length=max_target_length)
    sections = [
        f"---\n{dump_yaml(front)}---",
        f"# {title}",
        "An encoder-decoder model that writes unit-test assertions: its input is a test with an assertion "
        "masked "
        "(`<extra_id_0>`), `</s>`, and the method under test; its output is the assertion.",
        "## How it was made",
        _table(["", ""], [[name, _cell(value)] for name, value in made.items()]),
        "## Scores",
        f"On {scored_on}.",
        _scores_table(scores),
        "## Use",
        snippet,
        "## Limits",
        limits,
    ]
    path = folder / CARD_NAME
    write_atomically(path, "\n\n".join(sections) + "\n")
    return path


def _scores_table(scores: Mapping[str, Mapping[str, float | None]]) -> str:
    metrics = list(dict.fromkeys(metric for row in scores.values() for metric in row))
    rows = [[system, *(_cell(row.get(metric)) for metric in metrics)] for system, row in scores.items()]
    return _table(["", *metrics], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")

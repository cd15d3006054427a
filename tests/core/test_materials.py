"""What a training starts from: models against each other and against the configured lengths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, BartConfig

from distillctl.core.errors import UsageError
from distillctl.core.materials import encode_data, open_data
from distillctl.core.materials.models import check_lengths
from distillctl.core.progress import SilentReporter
from tests.core.models.test_head import BART_SHAPE
from tests.tiny import Tiny, tiny_teacher
from tests.tokenizers import metaspace_words


@pytest.mark.parametrize(
    ("field", "asked", "refused"),
    [("source", 32, False), ("source", 33, True), ("target", 32, False), ("target", 33, True)],
)
def test_texts_longer_than_a_models_positions_are_refused_beforehand(
    tiny: Tiny, tmp_path: Path, field: str, asked: int, refused: bool
) -> None:
    model = AutoModelForSeq2SeqLM.from_config(BartConfig(**BART_SHAPE))
    lengths = {"max_source_length": 32, "max_target_length": 32, f"max_{field}_length": asked}
    config = tiny.config(tmp_path / "run", *(f"data.{name}={value}" for name, value in lengths.items()))
    words = f"data.max_{field}_length={asked}: the student reads 32 tokens at most. Lower it"
    if refused:
        with pytest.raises(UsageError, match=f"^{re.escape(words)}$"):
            check_lengths(config, model, "student")
    else:
        check_lengths(config, model, "student")
    check_lengths(config, tiny_teacher(tiny.tokenizer), "teacher")  # relative positions: no limit


class Notes(SilentReporter):
    """What was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_tokenizer_that_cannot_write_the_golds_is_told(tiny: Tiny, tmp_path: Path) -> None:
    config, notes = tiny.config(tmp_path / "run"), Notes()
    data = open_data(config, notes)
    encode_data(config, data, tiny.tokenizer, notes)
    assert not [note for note in notes.said if "note:" in note]
    words = metaspace_words(["assert", "box.size"])
    words.add_tokens([f"<extra_id_{number}>" for number in range(8)], special_tokens=True)
    encode_data(config, data, words, notes)
    (told,) = [note for note in notes.said if "note:" in note]
    assert re.search(r"\d+ of \d+ targets are another text when this tokenizer reads its own ids back \('assert", told)

"""What a training starts from: models against each other and against the configured lengths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, BartConfig

from distillctl.core.errors import UsageError
from distillctl.core.materials.models import check_lengths
from tests.core.models.test_head import BART_SHAPE
from tests.tiny import Tiny, tiny_teacher


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

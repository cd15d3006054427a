"""What a run says of itself."""

from __future__ import annotations

from pathlib import Path

from distillctl.core.distillation import cross_entropy_only
from distillctl.core.provenance import models_taught
from tests.tiny import Tiny


def test_titles_say_how_a_model_learned(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.config(tmp_path)
    assert models_taught(config, {}) == f"distilled from {tiny.teacher}"
    assert models_taught(cross_entropy_only(config), {}) == "trained with cross-entropy"

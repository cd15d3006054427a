"""What every finished run leaves, whatever it trained, each a named assert."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from distillctl.core.run_dir import step_metric_columns
from tests.runs import record
from tests.tiny import ALL_TERMS, file_bytes

STUDENT_FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json")


def assert_has_every_file(run: Path, last_step: int) -> None:
    files = file_bytes(run).keys()
    assert {"config.yaml", "run.json", "step_metrics.csv"} <= files
    assert {f"evaluation/validation/{name}" for name in ("metrics.json", "predictions.jsonl")} <= files
    assert {f"student/{name}" for name in STUDENT_FILES} <= files
    assert {f"checkpoints/step-{last_step}/{name}" for name in ("trainer.json", "optimizer.safetensors")} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".tmp", ".partial"))]


def assert_record_says_what_ran(run: Path) -> None:
    found = record(run)
    assert (found["status"], found["reason"]) == ("finished", None)
    assert {"config", "data", "teacher", "tokenizer", "validation", "student_before"} <= found["fingerprints"].keys()
    assert all(len(value) == 64 for value in found["fingerprints"].values())
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["seconds"]["training"] > 0
    assert found["gate"].keys() == set(ALL_TERMS)
    assert all(norm > 0 for norm in found["gate"].values())


def assert_every_term_has_a_gradient(run: Path, steps: int, every: int, terms: Sequence[str] = ALL_TERMS) -> None:
    """Each gradient step (the first, and ``every`` so many) has a positive norm for each term; no other has one."""
    with (run / "step_metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == step_metric_columns(terms)
    assert len(rows) == steps
    for number, row in enumerate(rows):
        for name in terms:
            assert float(row[f"weight_{name}"]) > 0
            cell = row[f"grad_norm_{name}"]
            assert (cell == "") == bool(number % every)
            assert not cell or (math.isfinite(float(cell)) and float(cell) > 0)
        assert (row["grad_cos_semantic_contrastive"] == "") == bool(number % every)
        assert all(cell != "" for name, cell in row.items() if not name.startswith(("grad_norm_", "grad_cos_")))


def assert_student_loads(run: Path) -> Any:
    """The student, loaded and run by transformers alone."""
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "student")
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    inputs = tokenizer("def test_push(): <extra_id_0> </s> def push(x): return x", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 1
    return model

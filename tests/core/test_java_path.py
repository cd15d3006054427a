"""Java from a source tree to a report: mined, taught, distilled, evaluated, compared, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillctl import cli
from distillctl.core.data.records import read_jsonl
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.models.loading import save_model
from distillctl.core.planning.plan import plan
from tests.javaproject import write_java_project
from tests.runs import Notes, record, run_config
from tests.tiny import Tiny, tiny_teacher


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny world of Java: records mined from a project, a tokenizer made for them, a random teacher."""
    folder = tmp_path_factory.mktemp("java")
    root, corpus = write_java_project(folder / "demo"), folder / "records.jsonl"
    assert cli.run(["prepare", "--source", str(root), "--language", "java", "-o", str(corpus)]) == 0
    texts = [text for r in read_jsonl(corpus).records for text in (r.test_method_masked, r.target, r.focal_method)]
    tokenizer = train_tokenizer(texts, vocabulary_size=400)
    save_model(tiny_teacher(tokenizer), tokenizer, folder / "teacher")
    return Tiny(corpus, folder / "teacher", tokenizer)


def test_a_dry_run_says_what_the_critical_words_of_java_became(java: Tiny, tmp_path: Path) -> None:
    said = plan(java.config(tmp_path / "run", "objective.critical_tokens.extra=[makeStackA]"), Notes()).facts
    share, rest = str(said["critical tokens"]).split(" of target tokens (")
    assert 5 < float(share.removesuffix("%")) < 80
    assert int(rest.split()[0]) >= 8 and "token ids" in rest
    off = java.config(tmp_path / "run", "objective.critical_tokens.weight=1")
    assert "critical tokens" not in plan(off, Notes()).facts


def test_run_json_names_the_words_and_their_token_ids(java: Tiny, tmp_path: Path) -> None:
    run_config(java.config(tmp_path / "run", "training.max_steps=1", "evaluation.limit=1"))
    found = record(tmp_path / "run")["critical_tokens"]
    assert found["language"] == "java"
    assert {"assertEquals", "assertThat", "isEqualTo", "assertThrows", "is", "not"} <= found["words"].keys()
    word = found["words"]["assertEquals"]
    spelled = java.tokenizer.decode(word["token_ids"], clean_up_tokenization_spaces=False)
    assert word["times"] > 5 and "assert" in spelled
    assert found["share_of_target_tokens"] == pytest.approx(found["critical_tokens"] / found["target_tokens"])


@pytest.mark.slow
def test_java_trains_evaluates_and_reports(java: Tiny, tmp_path: Path) -> None:
    more = ("training.num_train_epochs=4", "evaluation.limit=0")
    for name, own in (("a", ("objective.semantic_loss_scale=1",)), ("b", ("objective.semantic_loss_scale=5",))):
        assert cli.run(java.argv("train", tmp_path / name, *more, *own)) == 0
    assert cli.run(["evaluate", str(tmp_path / "b")]) == 0
    metrics = json.loads((tmp_path / "b/evaluation/validation/metrics.json").read_text())
    assert metrics["counts"]["samples"] == metrics["by_project"]["demo"]["counts"]["samples"] > 5
    assert all(kind.startswith("assert") for kind in metrics["by_kind"])
    report = ["report", "--baseline", str(tmp_path / "a"), "--candidate", str(tmp_path / "b")]
    assert cli.run([*report, "-o", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "Syntax" in text or "syntax" in text
    assert "| assertThat |" in text or "assertThat" in text

"""A flipped bit or a cut in any file the product reads: refused, told, or without any effect. Never a wrong number."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.analysis.run_data import read_run
from distillctl.core.assessment import find_subject
from distillctl.core.config import load_config
from distillctl.core.data.corpus import _read_cache, _write_cache
from distillctl.core.data.mining import MinedCorpus
from distillctl.core.data.records import read_jsonl
from distillctl.core.data.splits import SPLITS
from distillctl.core.encoder.stored import BankDirectory, BankIdentity
from distillctl.core.errors import DistillError
from distillctl.core.evaluation.prediction_store import PredictionStore
from distillctl.core.models.loading import load_seq2seq, load_tokenizer
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.step_table import read_step_table
from distillctl.core.store.reader import ShardReader
from distillctl.core.teacher.cache_format import CacheDirectory, Identity
from distillctl.core.teacher.cached import CacheReader
from distillctl.core.training.checkpoints import latest_checkpoint
from tests.runs import run_config
from tests.tiny import Tiny, tiny_records

SEED = 20261124
Read = Callable[[Path], Any]


@pytest.fixture(scope="module")
def world(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its teacher cache, a corpus cache, stored predictions, a model, records and settings."""
    root = tmp_path_factory.mktemp("world")
    settings = ["training.max_steps=3", "teacher.mode=cached", "teacher.top_k=16", "checkpoints.save_steps=2"]
    caches = [f"teacher.cache_dir={root / 'cache'}", f"encoder.cache_dir={root / 'bank'}"]
    run_config(tiny.config(root / "run", *settings, *caches))
    manifests = {name: json.loads((root / name / "cache.json").read_text())["identity"] for name in ("cache", "bank")}
    (root / "identities.txt").write_text(json.dumps(manifests))
    records = tiny_records()
    _write_cache(root / "corpus", MinedCorpus(dict.fromkeys(SPLITS, records[:5]), {"tests": 5}, {"numpy": "2"}))
    PredictionStore(root / "store/one.jsonl").add({"a" * 32: "assert x == 1", "b" * 32: "assert y"})
    shutil.copytree(tiny.teacher, root / "model")
    shutil.copyfile(tiny.corpus, root / "own.jsonl")
    (root / "own.yaml").write_text("seed: 14\ntraining: {learning_rate: 0.001, max_steps: 5}\n")
    return root


def read_checkpoints(root: Path) -> Any:
    found = latest_checkpoint(RunDirectory.open(root / "run"))
    assert found is not None
    return [asdict(found.state), found.config, {name: tensor.tolist() for name, tensor in found.student.items()}]


def read_report(root: Path) -> Any:
    """Everything a report computes with; what it says about damage makes the difference that is allowed."""
    run = read_run(str(root / "run"), "validation")
    return [run.record, run.config, run.decoding, run.sums.tolist(), run.steps, run.beside], run.notes


def read_teacher_cache(root: Path) -> Any:
    cache = CacheDirectory(root / "cache", Identity(**identity(root, "cache")))
    cache.check_files()
    return [CacheReader(cache)._reader._entries.tolist(), cache.rows_file(0).read_bytes()]


def read_bank(root: Path) -> Any:
    bank = BankDirectory(root / "bank", BankIdentity(**identity(root, "bank")))
    bank.check_files()
    return [ShardReader(bank)._entries.tolist(), bank.rows_file(0).read_bytes()]


def identity(root: Path, name: str) -> dict[str, Any]:
    """What a store of the run was made of, noted beside it while it was whole."""
    values: dict[str, Any] = json.loads((root / "identities.txt").read_text())[name]
    return values


def read_corpus_cache(root: Path) -> Any:
    corpus = _read_cache(root / "corpus", "key", ())
    return [corpus.sizes, corpus.counts, corpus.packages, [corpus.records(split) for split in SPLITS]]


READERS: dict[str, tuple[str, Read]] = {
    "checkpoint": ("run/checkpoints/step-3/*", read_checkpoints),
    "run": ("run/*.*", read_report),
    "evaluation": ("run/evaluation/validation/*", read_report),
    "student": (
        "run/student/*.[!m]*",
        lambda root: str(find_subject(str(root / "run"), None, None, load_config()).model),
    ),
    "step table": ("run/step_metrics.csv", lambda root: RunDirectory.open(root / "run").changed_files()),
    "teacher cache": ("cache/*.*", read_teacher_cache),
    "embedding bank": ("bank/*.*", read_bank),
    "corpus cache": ("corpus/*", read_corpus_cache),
    "prediction store": ("store/*", lambda root: PredictionStore(root / "store/one.jsonl")._texts),
}


def damages(content: bytes, chance: random.Random, flips: int) -> Iterator[bytes]:
    """The content with one bit flipped somewhere, and cut at several lengths."""
    for _ in range(flips):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(changed)
    for length in {0, 1, len(content) // 2, len(content) - 1}:
        yield content[:length]


def check_kind(world: Path, kind: str, flips: int) -> int:
    """Damages every file of a kind in turn; returns how many damages were tried."""
    pattern, read = READERS[kind]
    whole, chance, tried = read(world), random.Random(SEED), 0
    files = [file for file in sorted(world.glob(pattern)) if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        for damaged in damages(content, chance, flips) if content else ():
            file.write_bytes(damaged)
            try:
                found = read(world)
            except DistillError as error:
                assert str(error)
            else:
                allowed = found == whole or forgotten(found, whole) or told(found, file)
                assert allowed, f"{file.name}: read as something else without a word"
            tried += 1
        file.write_bytes(content)
    assert read(world) == whole
    return tried


def forgotten(found: Any, whole: Any) -> bool:
    """Whether all that happened to stored predictions is that some are made again."""
    return isinstance(found, dict) and found.items() <= whole.items()


def told(found: Any, file: Path) -> bool:
    """Whether a reader that goes on says of which file it is that the figures may be wrong."""
    notes = found[1] if isinstance(found, tuple) else found
    return any(file.name in str(note) for note in notes)


@pytest.mark.parametrize("kind", READERS)
def test_a_flipped_bit_and_a_cut_are_refused_told_or_without_effect(world: Path, kind: str) -> None:
    assert check_kind(world, kind, flips=2) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_flipped_bits_are_refused_told_or_without_effect(world: Path, kind: str) -> None:
    assert check_kind(world, kind, flips=60) >= 60


# --- files that somebody else wrote: nothing vouches for them, but nothing else than an error may come of it --------

FOREIGN: dict[str, tuple[str, Read]] = {
    "model": ("model/*", lambda root: (load_seq2seq(str(root / "model"), "m"), load_tokenizer(str(root / "model")))),
    "records": ("own.jsonl", lambda root: read_jsonl(root / "own.jsonl")),
    "settings": ("own.yaml", lambda root: load_config([str(root / "own.yaml")])),
    "step log": ("run/step_metrics.csv", lambda root: read_step_table(root / "run/step_metrics.csv")),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "model" else k for k in FOREIGN])
def test_damage_nobody_can_know_of_is_an_error_or_a_result(world: Path, kind: str) -> None:
    pattern, read = FOREIGN[kind]
    chance = random.Random(SEED)
    for file in sorted(world.glob(pattern)):
        content = file.read_bytes()
        for damaged in damages(content, chance, flips=10):
            file.write_bytes(damaged)
            try:
                read(world)
            except DistillError as error:
                assert str(error)
        file.write_bytes(content)

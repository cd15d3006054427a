"""A directory that means harm: nothing of it runs, leads out of it, is written through, or eats the memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distillctl.core.errors import DataError, DistillError, RunError
from distillctl.core.evaluation.evaluate_assertions import Scores, write
from distillctl.core.evaluation.prediction_store import PredictionStore
from distillctl.core.run_dir import RunDirectory, read_json
from distillctl.core.run_dir.manifest import check_sealed, seal
from distillctl.core.store.files import MAX_JSON_BYTES
from distillctl.core.teacher.cache_format import CacheDirectory, Identity

ROOT = Path(__file__).parents[2]
IDENTITY = Identity("t" * 64, "k" * 64, 400, 64, 20, 16, 1.0)


FORBIDDEN = {
    "pickle": r"(?i)pickle|torch\.load",
    "code from text": r"(?<!\.)\beval\(|shell=True",
    "broad except": r"except\s*:|except\b.*\b(Base)?Exception\b|suppress\(.*\b(Base)?Exception\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_that_can_run_code_or_swallow_errors_is_in_the_source(what: str) -> None:
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in sorted((ROOT / "distillctl").rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert found == []


def test_durations_are_never_taken_from_the_clock_on_the_wall() -> None:
    for file in sorted((ROOT / "distillctl").rglob("*.py")):
        assert not re.search(r"\btime\.time\(", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", ".", ""])
def test_a_manifest_names_files_of_its_own_folder_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").write_text("x")
    facts = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (tmp_path / "folder/manifest.json").write_text(json.dumps({"files": {name: facts}}))
    with pytest.raises(DataError, match="should be the name of a file in this folder"):
        check_sealed(tmp_path / "folder")


def test_a_sealed_folder_is_whole_and_any_change_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    seal(tmp_path)
    check_sealed(tmp_path)
    (tmp_path / "b").write_text("tww")
    with pytest.raises(DataError, match="b is not what was written"):
        check_sealed(tmp_path)
    (tmp_path / "b").unlink()
    with pytest.raises(DataError, match="b: No such file"):
        check_sealed(tmp_path)


def forged(folder: Path, shard: dict[str, object]) -> Path:
    """A cache of the right identity whose manifest vouches for a shard."""
    content: dict[str, object] = {
        "identity": IDENTITY.__dict__,
        "facts": {"precisions": ["float32"]},
        "shards": [shard],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "cache.json").write_text(json.dumps(content | {"sha256": digest}))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../elsewhere"}, "should be the name of a shard in this directory"),
        ({"name": "/etc/passwd"}, "should be the name of a shard"),
        ({"name": 7}, "should be the name of a shard"),
        ({"tokens": -1}, "should have counts"),
        ({"tokens": "many"}, "should have counts"),
        ({"examples": 2**60}, "should have counts"),
    ],
)
def test_a_forged_cache_does_not_lead_out_of_its_directory(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    shard = {"name": "shard-00000", "tokens": 1, "examples": 1, "rows_sha256": "0" * 64, "index_sha256": "0" * 64}
    with pytest.raises(DataError, match=words):
        CacheDirectory(forged(tmp_path, shard | change), IDENTITY)


def test_a_json_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse: it takes no room on the disk
    with pytest.raises(DataError, match=r"67,108,865 bytes are too many"):
        read_json(tmp_path / "run.json")


def test_a_run_does_not_vouch_for_files_outside(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.note(files={"../outside": "0" * 64})
    with pytest.raises(DataError, match="files should lie in the run directory"):
        run.changed_files()


def write_predictions(folder: Path) -> None:
    write(folder, Scores({}, []))


def store_predictions(folder: Path) -> None:
    PredictionStore(folder / "predictions.jsonl").add({"a" * 32: "x"})


def replace_student(folder: Path) -> None:
    run = RunDirectory.create(folder / "run")
    (folder / "predictions.jsonl").rename(run.student / "model.safetensors")
    with run.replacing("student") as temporary:
        (temporary / "model.safetensors").write_text("new")
    assert (run.student / "model.safetensors").read_text() == "new"


def a_checkpoint_in_its_place(folder: Path) -> None:
    run = RunDirectory.create(folder / "run")
    (folder / "elsewhere").mkdir()
    (run.folder("checkpoints") / "step-3").symlink_to(folder / "elsewhere")
    assert run.checkpoints() == {}


@pytest.mark.parametrize("act", [write_predictions, store_predictions, replace_student, a_checkpoint_in_its_place])
def test_links_are_replaced_or_refused_and_never_written_through(act: Callable[[Path], None], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("half a line")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("predictions.jsonl", ".predictions.jsonl.partial", ".metrics.json.partial"):
        (folder / name).symlink_to(precious)
    try:
        act(folder)
    except DistillError as error:
        assert isinstance(error, RunError)
    assert precious.read_text() == "half a line"

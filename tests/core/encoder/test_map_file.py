"""The vocabulary map on disk: made once, read back the same, made anew where it is damaged."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

from distillctl.core.data.corpus import cache_directory
from distillctl.core.encoder import map_file
from distillctl.core.encoder.alignment import VocabularyMap, align_vocabularies
from distillctl.core.encoder.map_file import open_map
from distillctl.core.errors import DataError
from distillctl.core.progress import SilentReporter
from tests.runs import Notes
from tests.tokenizers import CODET5_SPECIALS, roberta_bpe

CORPUS = ["assert alpha == beta", "self.assertEqual(alpha, beta)"] * 4
STUDENT = roberta_bpe(CORPUS, 310, CODET5_SPECIALS)
ENCODER = roberta_bpe(CORPUS[1:2], 300)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path))
    return tmp_path / "alignments"


def opened(student: Any = STUDENT, encoder: Any = ENCODER) -> VocabularyMap:
    return open_map(student, encoder, SilentReporter())


def only_file(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


def assert_same(one: VocabularyMap, other: VocabularyMap) -> None:
    for name in ("pieces", "counts", "matches"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.encoder_ids, one.identical) == (other.encoder_ids, other.identical)


def forbid_aligning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_file, "align_vocabularies", lambda *call: pytest.fail("aligned"))


def test_it_is_made_once_and_read_back_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() / "alignments" == cache
    made = opened()
    assert_same(made, align_vocabularies(STUDENT, ENCODER))
    assert only_file(cache).stat().st_size < 20_000
    forbid_aligning(monkeypatch)
    assert_same(opened(), made)
    STUDENT("a" * 99, truncation=True, max_length=3)  # the last call's truncation is no part of a tokenizer
    assert_same(opened(), made)


def test_other_tokenizers_have_other_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    opened(encoder=roberta_bpe(CORPUS, 301))
    opened(encoder=roberta_bpe(CORPUS[1:2], 300, add_prefix_space=True))  # the same tokens and ids
    other_role = roberta_bpe(CORPUS[1:2], 300)
    other_role.unk_token = "<mask>"
    opened(encoder=other_role)
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(map_file, "ALGORITHM", 3)
    monkeypatch.setattr(map_file.MapIdentity.__init__, "__defaults__", (3,))
    opened()
    assert len(list(cache.iterdir())) == 5


def test_the_same_vocabulary_and_slow_tokenizers_need_no_file(cache: Path) -> None:
    assert opened(encoder=STUDENT).identical
    assert opened(ByT5Tokenizer()).coverage().exact > 0
    assert not cache.exists()


def flip(at: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)

    return damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def of_something_else(file: Path) -> None:
    """Whole, and under the name of another pair of tokenizers."""
    tensors = load_file(file)
    with safe_open(file, "pt") as content:
        about = json.loads(content.metadata()["about"])
    save_file(tensors, file, {"about": json.dumps(about | {"student": "0" * 64})})


def without_about(file: Path) -> None:
    save_file(load_file(file), file)


@pytest.mark.parametrize(
    "damage", [flip(-1), flip(-2000), flip(30), flip(3), cut, empty, of_something_else, without_about]
)
def test_a_damaged_file_is_told_and_made_anew(cache: Path, damage: Callable[[Path], None]) -> None:
    made, file = opened(), only_file(cache)
    before = file.read_bytes()
    damage(file)
    reporter = Notes()
    assert_same(open_map(STUDENT, ENCODER, reporter), made)
    (line,) = reporter.lines
    assert line.startswith(f"{file}: damaged (") and line.endswith("): the vocabularies are aligned anew")
    assert file.read_bytes() == before
    assert only_file(cache) == file  # nothing else is left


def test_every_flipped_byte_is_noticed(cache: Path) -> None:
    """Whatever a byte of the file means: tensors, their names and shapes, what it says of itself."""
    made, file = opened(), only_file(cache)
    content = file.read_bytes()
    identity = map_file.MapIdentity(map_file._fingerprint(STUDENT), map_file._fingerprint(ENCODER))
    for at in range(0, len(content), 7):
        flip(at)(file)
        found = map_file._read(file, identity, SilentReporter())
        if found is not None:  # a name or a space that nobody reads
            assert_same(found, made)
        file.write_bytes(content)


def test_a_file_that_cannot_be_read_is_a_data_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()

    def refused(*call: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(map_file, "safe_open", refused)
    with pytest.raises(DataError, match=r"safetensors: cannot be read: Permission denied\. Delete it"):
        opened()


def test_a_cache_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "alignments").write_text("a file where the folder should be")
    reporter = Notes()
    assert_same(open_map(STUDENT, ENCODER, reporter), align_vocabularies(STUDENT, ENCODER))
    (line,) = reporter.lines
    assert "cannot write" in line and line.endswith("Without it the next run aligns the vocabularies again")


def _opens(arguments: tuple[str, Any]) -> int:
    os.environ["DISTILLCTL_CACHE"], barrier = arguments
    barrier.wait(120)
    return int(opened().counts.sum())


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_whole_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        barrier = manager.Barrier(2)
        sizes = pool.map(_opens, [(str(cache.parent), barrier)] * 2, chunksize=1)
    forbid_aligning(monkeypatch)
    assert sizes == [int(opened().counts.sum())] * 2
    assert only_file(cache).suffix == ".safetensors"

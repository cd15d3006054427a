"""The corpus is mined once, read back the same, and a cache that is not what was written is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.data import corpus as corpus_module
from distillctl.core.data.corpus import (
    Corpus,
    cache_directory,
    describe,
    embedded_corpus,
    file_corpus,
    open_corpus,
)
from distillctl.core.data.mining import MinedCorpus, PackageFiles
from distillctl.core.data.records import Record, write_jsonl
from distillctl.core.data.splits import SPLITS, Split
from distillctl.core.errors import DataError, RunError
from tests.core.data.test_mining import install_demo

# Files of project "p" by split (tests/core/data/test_splits.py).
PATHS: dict[Split, str] = {"train": "q/test_1.py", "dev": "q/test_3.py", "validation": "q/test_7.py"}


def record(split: Split, number: int, **changes: object) -> Record:
    words = " ".join(f"{split}{number}_{word}" for word in range(8))
    row = Record(
        f"{split}-{number}",
        "python",
        "p",
        PATHS[split],
        "def f(): é",
        f"{words} <extra_id_0>",
        (f"assert {number}",),
    )
    return replace(row, **changes)


ODD = record("validation", 2, focal_method="", assertions=("assert '\u2028 \x00 𝄞'", "assert b"))
SPLIT_RECORDS: dict[Split, list[Record]] = {
    "train": [record("train", number) for number in range(5)],
    "dev": [],
    "validation": [record("validation", 1), ODD],
}


class Miner:
    """Stands in for mining: gives known records and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.records = SPLIT_RECORDS

    def __call__(self, packages: list[PackageFiles], *_: object) -> MinedCorpus:
        self.calls += 1
        return MinedCorpus(self.records, {"repeated": 4}, {p.name: p.version for p in packages})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "cache"))
    install_demo(tmp_path / "site", monkeypatch)
    return tmp_path / "cache" / "corpus"


@pytest.fixture
def miner(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Miner:
    fake = Miner()
    monkeypatch.setattr(corpus_module, "mine", fake)
    return fake


def open_demo() -> Corpus:
    return embedded_corpus(["demo-pkg", "absent"], "one", 3)


def everything(corpus: Corpus) -> dict[Split, list[Record]]:
    return {split: corpus.records(split) if corpus.sizes[split] else [] for split in SPLITS}


def test_the_second_opening_does_not_mine(miner: Miner, cache: Path) -> None:
    first, second = open_demo(), open_demo()
    assert miner.calls == 1
    assert everything(first) == everything(second) == SPLIT_RECORDS
    for corpus in (first, second):
        assert corpus.sizes == {"train": 5, "dev": 0, "validation": 2}
        assert corpus.counts == {"repeated": 4}
        assert corpus.packages == {"demo-pkg": "1.0"}
        assert corpus.notes == ("absent: not installed, skipped",)
    (directory,) = cache.iterdir()
    assert first.identity == f"embedded corpus {directory.name}"
    assert sorted(file.name for file in directory.iterdir()) == [
        *("corpus.json", "dev.parquet", "train.parquet", "validation.parquet")
    ]


def test_another_form_of_the_records_is_another_corpus(miner: Miner, cache: Path) -> None:
    identities = {open_demo().identity, embedded_corpus(["demo-pkg"], "all", 3).identity}
    identities.add(embedded_corpus(["demo-pkg"], "one", 2).identity)
    assert len(identities) == miner.calls == len(list(cache.iterdir())) == 3


def test_a_named_package_is_mined_again_when_its_tests_change_and_the_default_ones_by_version(
    miner: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "site"
    root.mkdir(exist_ok=True)
    package = PackageFiles("demo-pkg", "1.0", root, ("test_a.py",), ())
    monkeypatch.setattr(corpus_module, "choose_packages", lambda names: ([package], []))
    named, default = set(), set()
    for text in ("assert 1", "assert 2"):
        (root / "test_a.py").write_text(text, encoding="utf-8")
        named.add(embedded_corpus(["demo-pkg"], "one", 3).identity)
        default.add(embedded_corpus(None, "one", 3).identity)
    assert (len(named), len(default)) == (2, 1)


def test_a_real_package_goes_through_the_cache(cache: Path) -> None:
    progress: list[tuple[int, int]] = []
    corpus = open_corpus(None, ["Demo.Pkg"], "one", 3, lambda done, total: progress.append((done, total)))
    assert progress == [(1, 1)]
    assert sum(corpus.sizes.values()) == 3
    assert {row.project for rows in everything(corpus).values() for row in rows} == {"demo-pkg"}
    again = open_corpus(None, ["Demo.Pkg"], "one", 3)
    assert everything(again) == everything(corpus)
    assert describe(again) == describe(corpus)
    assert json.loads(json.dumps(describe(corpus)))["packages"] == {"demo-pkg": "1.0"}


def damage_metadata(directory: Path) -> None:
    (directory / "corpus.json").write_text('{"files": {', encoding="utf-8")


def damage_metadata_bytes(directory: Path) -> None:
    (directory / "corpus.json").write_bytes(b"\xff\xfe")


def other_metadata(directory: Path) -> None:
    (directory / "corpus.json").write_text('{"files": {}, "counts": {}}', encoding="utf-8")


def wrong_metadata(directory: Path) -> None:
    (directory / "corpus.json").write_text("[]", encoding="utf-8")


def remove_metadata(directory: Path) -> None:
    (directory / "corpus.json").unlink()


def remove_records(directory: Path) -> None:
    (directory / "train.parquet").unlink()


def cut_records(directory: Path) -> None:
    content = (directory / "train.parquet").read_bytes()
    (directory / "train.parquet").write_bytes(content[:-20])


def flip_a_bit(directory: Path) -> None:
    content = bytearray((directory / "train.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (directory / "train.parquet").write_bytes(content)


def swap_splits(directory: Path) -> None:
    shutil.copy(directory / "validation.parquet", directory / "train.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        damage_metadata,
        damage_metadata_bytes,
        other_metadata,
        wrong_metadata,
        remove_metadata,
        remove_records,
        cut_records,
        flip_a_bit,
        swap_splits,
    ],
)
def test_a_damaged_cache_is_refused_and_can_be_deleted(miner: Miner, cache: Path, damage: object) -> None:
    open_demo()
    (directory,) = cache.iterdir()
    assert callable(damage)
    damage(directory)
    with pytest.raises(DataError) as caught:
        open_demo().records("train")
    assert str(directory) in str(caught.value)
    assert "Delete that directory" in str(caught.value)
    shutil.rmtree(directory)
    assert open_demo().records("train") == SPLIT_RECORDS["train"]


@pytest.mark.parametrize("name", ["corpus.json", "train.parquet"])
def test_a_cache_that_cannot_be_read_is_not_called_damaged(
    miner: Miner, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    open_demo()
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataError, match=rf"{name}: cannot be read: Permission denied$"):
        open_demo().records("train")


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_who_shares_the_cache_may_read_the_corpus_if_the_umask_says_so(miner: Miner, cache: Path) -> None:
    before = os.umask(0o022)
    try:
        open_demo()
    finally:
        os.umask(before)
    (directory,) = cache.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o755


def test_of_two_writers_the_first_wins(miner: Miner, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine_while_another_does(packages: list[PackageFiles], *arguments: object) -> MinedCorpus:
        monkeypatch.setattr(corpus_module, "mine", miner)
        open_demo()
        return miner(packages)

    monkeypatch.setattr(corpus_module, "mine", mine_while_another_does)
    assert everything(open_demo()) == SPLIT_RECORDS
    assert miner.calls == 2
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("method", ["write_bytes", "write_text", "rename"])
def test_a_failing_write_leaves_nothing_behind(
    miner: Miner, cache: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, full)
        with pytest.raises(RunError, match=r"No space left on device\. Free space there or set DISTILLCTL_CACHE"):
            open_demo()
    assert list(cache.iterdir()) == []
    assert open_demo().sizes["train"] == 5


def test_an_interrupted_write_leaves_nothing_behind(miner: Miner, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> Iterator[None]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_demo()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_fails_before_mining(
    miner: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="set DISTILLCTL_CACHE to another directory"):
        open_demo()
    assert miner.calls == 0


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISTILLCTL_CACHE", "~/own")
    assert cache_directory() == tmp_path / "own"
    monkeypatch.setenv("DISTILLCTL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "distillctl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "distillctl"


def test_a_file_is_split_and_freed_of_repeats(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    first = record("train", 1)
    rows = [
        record("validation", 1),
        first,
        record("train", 2, focal_method=""),
        replace(first, id="repeat"),
        record("dev", 1, test_method_masked=first.test_method_masked, focal_method="other"),
    ]
    write_jsonl(path, rows)
    corpus = open_corpus(str(path), None, "one", 3)
    assert everything(corpus) == {"train": rows[1:3], "dev": [], "validation": rows[:1]}
    assert corpus.counts == {"repeated": 1, "near_duplicates_across_splits": 1, "with_focal_method": 2}
    assert corpus.identity == str(path)
    assert corpus.packages == {}
    with path.open("r+", encoding="utf-8") as file:
        content = file.read()
        file.seek(0)
        file.write('{"made": "today"}\n' + content)
    assert file_corpus(path).notes == (f"{path}:1: header line skipped",)


def test_a_split_without_records_is_an_error_when_it_is_asked_for(miner: Miner, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_jsonl(path, [record("train", 1)])
    for corpus in (file_corpus(path), open_demo()):
        assert corpus.records("train")
        with pytest.raises(DataError, match=r"the dev split has no records .*Add records from more files"):
            corpus.records("dev")


@pytest.mark.slow
def test_many_records_are_read_fast(miner: Miner) -> None:
    """Sixty thousand records in a second or so, each text in memory once."""
    import time

    focal = "def f():\n" + "    pass\n" * 200
    miner.records = {
        "train": [record("train", number, focal_method=focal) for number in range(60_000)],
        "dev": [],
        "validation": [],
    }
    corpus = open_demo()
    start = time.process_time()
    rows = corpus.records("train")
    assert time.process_time() - start < 3
    assert len({id(row.focal_method) for row in rows}) == 1
    assert rows == miner.records["train"]

"""The embedding bank on disk: what memory would hold, in flat memory; and every bad input an error with its name."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import T5EncoderModel

from distillctl.core.data.encoding import Example
from distillctl.core.encoder import stored
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.encoder.opening import BankOpener
from distillctl.core.encoder.stored import BankDirectory, BankIdentity
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.progress import SilentReporter
from tests.core.encoder.in_memory import build_bank
from tests.runs import Notes
from tests.toys import tiny_t5_config, tiny_t5_encoder

VOCAB = 40
ENCODER = tiny_t5_encoder(VOCAB)
WANTED = BankIdentity("a" * 64, "b" * 64, "c" * 64, ENCODER.width, 12, "float32")


def some_examples(count: int, longest: int = 12, seed: int = 0) -> list[Example]:
    """Of every four the last has the gold of the first."""
    draw = random.Random(seed)
    examples: list[Example] = []
    for number in range(count):
        labels = tuple(draw.randrange(2, VOCAB) for _ in range(draw.randrange(1, longest)))
        if number % 4 == 3:
            labels = examples[number - 3].labels
        examples.append(Example(f"key-{number}", (2, 3, number), (*labels,)))
    return examples


EXAMPLES = some_examples(60)
KEYS = [example.key for example in EXAMPLES]


def opener(path: Path, examples: list[Example] = EXAMPLES, **identity: Any) -> BankOpener:
    return BankOpener(str(path), replace(WANTED, **identity), ENCODER, examples)


def opened(path: Path, examples: list[Example] = EXAMPLES) -> EmbeddingBank:
    return opener(path, examples).open(SilentReporter())[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillctl.core.store.writer.SHARD_BYTES", 1000)


def assert_same(bank: EmbeddingBank, other: EmbeddingBank, keys: list[str] = KEYS) -> None:
    assert torch.equal(bank.mean_state, other.mean_state)
    assert torch.equal(bank.vectors(keys), other.vectors(keys))
    assert torch.equal(bank.lookup(keys), other.lookup(keys))
    assert torch.equal(bank.gold_keys(keys), other.gold_keys(keys))


@pytest.mark.usefixtures("small_shards")
def test_the_bank_on_disk_is_the_one_in_memory_to_the_last_bit(path: Path) -> None:
    in_memory = build_bank(ENCODER, ((e.key, e.labels) for e in EXAMPLES))
    assert_same(opened(path), in_memory)
    assert_same(opened(path), in_memory)  # and read back by another run
    assert len(BankDirectory(path, WANTED).shards) > 3


def naive(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    """(mean state, vector by key): all states of all examples at once, equal golds again and again."""
    states = {e.key: ENCODER.gold_states(torch.tensor([e.labels]))[0].half().float() for e in examples}
    mean = torch.cat(list(states.values())).double().mean(dim=0).float()
    return mean, {key: normalize(rows.mean(dim=0) - mean, dim=0) for key, rows in states.items()}


def test_mean_and_vectors_are_those_of_all_states_at_once(path: Path) -> None:
    mean, vectors = naive(EXAMPLES)
    bank = opened(path)
    torch.testing.assert_close(bank.mean_state, mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bank.vectors(KEYS), torch.stack([vectors[key] for key in KEYS]), rtol=2e-3, atol=2e-3)


def test_the_mean_is_that_of_the_run_and_not_of_the_bank(path: Path) -> None:
    opened(path)
    few = EXAMPLES[5:9]
    torch.testing.assert_close(opened(path, few).mean_state, naive(few)[0], rtol=1e-3, atol=1e-3)


def test_equal_golds_are_stored_once_and_more_are_added_to_what_is_there(path: Path) -> None:
    _, facts = opener(path, EXAMPLES[:20]).open(SilentReporter())
    assert (facts["examples"], facts["golds"], facts["stored_golds"]) == (20, 15, 15)
    first = (path / "shard-00000.rows").read_bytes()
    _, facts = opener(path).open(SilentReporter())
    distinct = {example.labels for example in EXAMPLES}
    assert (facts["examples"], facts["golds"], facts["stored_golds"]) == (60, len(distinct), len(distinct))
    assert facts["stored_tokens"] == sum(map(len, distinct))
    assert facts["bytes"] == sum(file.stat().st_size for file in path.iterdir() if file.name != ".lock")
    assert facts["bytes_per_token"] == facts["bytes"] / facts["stored_tokens"]
    assert facts["shards"] == 2
    assert (path / "shard-00000.rows").read_bytes() == first


def test_nothing_is_encoded_for_a_run_whose_golds_are_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path)
    monkeypatch.setattr(stored, "encode_golds", lambda *call, **more: pytest.fail("encoded"))
    assert_same(opened(path, EXAMPLES[::-1]), opened(path, EXAMPLES[::-1]))


def test_without_a_directory_it_is_named_after_what_it_is_of() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"encoder": "d" * 64},
        {"table": "d" * 64},
        {"tokenizer": "d" * 64},
        {"width": 16},
        {"max_target_length": 13},
        {"precision": "bfloat16"},
        {"schema": 2},
    ]
    paths = {BankOpener(None, replace(WANTED, **change), ENCODER, EXAMPLES).path for change in changes}
    assert len(paths) == len(changes)
    assert {found.parent.name for found in paths} == {"banks"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("encoder", "d" * 64, "encoder aaaaaaaaaaaa there, dddddddddddd here"),
        ("table", "d" * 64, "table bbbbbbbbbbbb there, dddddddddddd here"),
        ("tokenizer", "d" * 64, "tokenizer cccccccccccc there, dddddddddddd here"),
        ("width", 16, "width 8 there, 16 here"),
        ("max_target_length", 20, "max target length 12 there, 20 here"),
        ("precision", "bfloat16", "precision float32 there, bfloat16 here"),
    ],
)
def test_a_bank_of_something_else_is_refused(path: Path, field: str, value: Any, words: str) -> None:
    opened(path)
    with pytest.raises(DataError) as caught:
        opener(path, **{field: value}).open(SilentReporter())
    assert str(caught.value) == f"{path}: a bank of something else ({words}). Choose another encoder.cache_dir"
    assert caught.value.exit_code == 3


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        *((damage, name) for damage in (flip, cut, Path.unlink) for name in ("shard-00000.rows", "shard-00001.index")),
        (flip, "cache.json"),
        (cut, "cache.json"),
    ],
)
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_bank_is_refused(path: Path, damage: Callable[[Path], None], name: str) -> None:
    opened(path)
    damage(path / name)
    with pytest.raises(DataError, match=rf"damaged embedding bank \({name}: .*\)\. Delete that directory") as caught:
        opened(path)
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1


def test_a_bank_that_lost_its_manifest_is_captured_anew(path: Path) -> None:
    before = opened(path)
    (path / "cache.json").unlink()
    assert_same(opened(path), before)


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_shard_cut_or_removed_while_in_use_is_an_error(path: Path, damage: Callable[[Path], None]) -> None:
    bank = opened(path)
    damage(path / "shard-00000.rows")
    with pytest.raises(DataError, match=r"damaged embedding bank \(shard-00000\.rows: (cut short|missing)\)"):
        bank.lookup(KEYS)
    with pytest.raises(DataError, match="damaged embedding bank"):
        bank.vectors(KEYS)


def test_without_capture_an_absent_or_incomplete_bank_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no embedding bank\. distillctl prepare makes it"):
        opener(path).open(SilentReporter(), capture=False)
    assert not path.exists()
    opened(path, EXAMPLES[:4])
    with pytest.raises(DataError, match=r"the embedding bank lacks \d+ of 45 golds\. distillctl prepare captures them"):
        opener(path).open(SilentReporter(), capture=False)


def test_the_outlook_writes_nothing(path: Path) -> None:
    assert opener(path).outlook() == "45 of 45 golds to encode first, 0.0 MiB"
    assert not path.exists()
    opened(path, EXAMPLES[:4])
    assert opener(path).outlook() == "42 of 45 golds to encode first, 0.0 MiB"


def test_the_live_encoder_is_asked_whether_the_bank_is_right(path: Path) -> None:
    _, facts = opener(path).open(SilentReporter())
    assert 0 < facts["difference_from_live"] < 4.9e-4  # rounding to fp16
    other = BankOpener(str(path), WANTED, tiny_t5_encoder(VOCAB, seed=1), EXAMPLES)
    with pytest.raises(DataError, match=r"gives other states than the embedding bank \(by up to .* of their norm"):
        other.open(SilentReporter())


def test_states_that_do_not_fit_in_half_precision_are_not_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = FrozenEncoder.gold_states
    monkeypatch.setattr(FrozenEncoder, "gold_states", lambda self, labels: 1e6 * states(self, labels))
    with pytest.raises(RunError, match="do not fit in fp16 or are NaN"):
        opened(path)
    assert not (path / "cache.json").exists()


def test_a_disk_too_small_is_known_beforehand(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("distillctl.core.store.writer.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(RunError, match=r"the embedding bank needs 0 MiB more, and 0 MiB are free\. Free some"):
        opened(path)


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_keeps_what_was_captured_and_the_next_run_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(descriptor)
            if len(synced) == 8:  # the index of the third shard
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("distillctl.core.store.files.os.fsync", full)
        with pytest.raises(
            RunError, match=r"No space left on device; .* The \d+ golds captured so far are kept: start"
        ):
            opened(path)
    kept = BankDirectory(path, WANTED)
    assert 0 < kept.examples < 45
    assert_same(opened(path), opened(path.with_name("other")))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_capture_that_was_stopped_goes_on_where_it_was(
    path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = stored.encode_golds

    def stopped(*call: Any, **more: Any) -> Any:
        for number, found in enumerate(encode(*call, **more)):
            if number == 30:
                raise error
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(stored, "encode_golds", stopped)
        with pytest.raises(error):
            opened(path)
    kept = BankDirectory(path, WANTED)
    assert kept.examples == 30 if error is KeyboardInterrupt else 0 < kept.examples < 30
    reporter = Counted()
    bank, _ = opener(path).open(reporter)
    assert reporter.totals["encoding the golds"] == 45 - kept.examples
    other = opened(path.with_name("other"))  # encoded in other batches: the last bit may differ
    torch.testing.assert_close(bank.lookup(KEYS), other.lookup(KEYS), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bank.vectors(KEYS), other.vectors(KEYS), rtol=1e-3, atol=1e-3)


class Counted(Notes):
    """Remembers how much there was to do."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: dict[str, int | None] = {}

    def task(self, title: str, total: int | None = None) -> Any:
        self.totals[title] = total
        return super().task(title, total)


def test_long_work_is_told(path: Path) -> None:
    reporter = Counted()
    opener(path).open(reporter)
    assert reporter.totals == {"encoding the golds": 45, "checking the embedding bank": 1, "averaging the golds": 45}
    assert [line.split(": ")[0] for line in reporter.lines] == [f"embedding bank {path}"]


def test_one_captures_and_the_other_waits_and_reads_what_it_captured(path: Path) -> None:
    first, reporter = BankDirectory(path, WANTED), Counted()
    waiting = threading.Event()
    reporter.note = lambda text: (reporter.lines.append(text), waiting.set())[0]  # type: ignore[method-assign]
    banks: list[EmbeddingBank] = []
    second = threading.Thread(target=lambda: banks.append(opener(path).open(reporter)[0]))
    with first.capturing(lambda: pytest.fail("nobody else is here")):
        second.start()
        assert waiting.wait(20)
        assert reporter.lines == [f"{path}: another process captures it; waiting for it"]
        golds = list({example.labels: None for example in EXAMPLES})
        stored.capture_golds(first, ENCODER, golds)
    second.join(20)
    assert "encoding the golds" not in reporter.totals
    assert_same(banks[0], opened(path))


def wide_encoder(width: int) -> FrozenEncoder:
    """Wide states that cost little to compute."""
    torch.manual_seed(0)
    config = tiny_t5_config(VOCAB, width)
    config.d_ff = 8
    stack = T5EncoderModel(config).get_encoder()
    return FrozenEncoder(stack, stack.get_input_embeddings().weight)


def test_memory_does_not_grow_with_the_bank(tmp_path: Path) -> None:
    encoder, process, used, sizes = wide_encoder(1024), psutil.Process(), [], []
    openers = []
    for factor in (1, 4, 16):
        examples = [Example(f"key-{n}", (2,), (*divmod(n, VOCAB), *range(2, 30))) for n in range(64 * factor)]
        identity = replace(WANTED, width=1024, max_target_length=30)
        openers.append((BankOpener(str(tmp_path / str(factor)), identity, encoder, examples), examples))
        openers[-1][0].open(SilentReporter())
    for made, examples in openers:
        bank, facts = made.open(SilentReporter(), capture=False)
        for start in range(0, len(examples), 16):
            keys = [example.key for example in examples[start : start + 16]]
            bank.lookup(keys)
            bank.vectors(keys)
        used.append(process.memory_info().rss)
        sizes.append(facts["bytes"])
    assert used[2] <= 1.05 * used[0]
    assert used[2] - used[0] < (sizes[2] - sizes[0]) / 2  # held in memory, it would be all of that


@pytest.mark.gpu
def test_a_bank_made_on_a_gpu_is_the_processors(path: Path) -> None:
    BankOpener(str(path), WANTED, tiny_t5_encoder(VOCAB).to("cuda"), EXAMPLES).open(SilentReporter())
    _, facts = opener(path).open(SilentReporter(), capture=False)
    assert facts["difference_from_live"] < 6e-4

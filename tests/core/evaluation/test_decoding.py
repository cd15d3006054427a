"""Batched decoding against a plain loop that shares no code with it."""

from __future__ import annotations

import copy
import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from distillctl.core.errors import DataError, RunError
from distillctl.core.evaluation import decoding
from distillctl.core.evaluation.decoding import DecodingSettings, decode, decode_groups
from distillctl.core.models.head import Float32Head, run_head_in_float32

SPECIALS = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{index}>" for index in range(4))]


@dataclass
class Example:
    input_ids: list[int]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made: PreTrainedTokenizerFast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=True,  # decode() has to overrule it
    )
    return made


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    torch.manual_seed(3)
    config = cast(Any, T5Config)(
        vocab_size=len(tokenizer) + 5,  # a padded vocabulary: ids that the tokenizer does not know
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.3,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    made = T5ForConditionalGeneration(config)
    with torch.no_grad():  # a random model repeats one token; sharper layers make its texts differ
        for name, weight in made.named_parameters():
            if "layer_norm" not in name:
                weight.mul_(4)
    # The end of sequence is a token the model does write, so that rows end early and apart.
    made.config.eos_token_id = most_scattered_token([greedy(made, ids, 12, -1) for ids in random_inputs(24)])
    return made


def most_scattered_token(texts: list[list[int]]) -> int:
    tokens = sorted({token for text in texts for token in text if 7 <= token < 263})
    return max(tokens, key=lambda token: len({text.index(token) for text in texts if token in text}))


def random_inputs(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(7, 263) for _ in range(draw.randrange(1, 30))] for _ in range(count)]


@torch.no_grad()
def greedy(
    model: T5ForConditionalGeneration, ids: list[int], limit: int, end: int, width: int | None = None
) -> list[int]:
    """One example, one token at a time, without cache, padding or generate(): of the first ``width`` ids, or of all."""
    training = model.training
    cast(Any, model).eval()
    tokens = [0]
    while len(tokens) <= limit:
        logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1, :width].argmax()))
        if tokens[-1] == end:
            tokens.pop()
            break
    model.train(training)
    return tokens[1:]


def plain_text(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    pieces = [tokenizer.convert_ids_to_tokens(token) for token in tokens if 7 <= token < len(tokenizer)]
    return str(tokenizer.backend_tokenizer.decoder.decode(pieces)) if pieces else ""


@pytest.mark.parametrize("stage", [1, 5, 32])
def test_batched_equals_one_by_one_in_order(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    stage: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "STAGE_TOKENS", stage)
    inputs = random_inputs(24)
    rows = [greedy(model, ids, 12, cast(int, model.config.eos_token_id), len(tokenizer)) for ids in inputs]
    expected = [plain_text(tokenizer, row) for row in rows]
    # the comparison would say little about rows that are all alike
    assert len(set(expected)) > 8
    assert len({len(row) for row in rows}) > 2
    examples = [Example(ids) for ids in inputs]
    assert decode(model, tokenizer, examples, max_new_tokens=12, tokens_per_batch=200) == expected
    mappings = [{"input_ids": ids} for ids in inputs]
    assert decode(model, tokenizer, mappings, max_new_tokens=12, batch_size=1) == expected


@pytest.mark.parametrize("beams", [1, 3])
def test_ids_that_are_no_token_are_never_written(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, beams: int
) -> None:
    """The logits beyond the tokenizer were never trained: here they win over every token in the first place."""
    inputs = random_inputs(8)
    wide = copy.deepcopy(model)
    head = wide.lm_head.weight.detach().clone()
    with torch.no_grad():
        found = wide(
            input_ids=torch.tensor(inputs[:1]), decoder_input_ids=torch.tensor([[0]]), output_hidden_states=True
        )
    head[len(tokenizer) :] = 100 * found.decoder_hidden_states[-1][0, 0]
    wide.lm_head.weight = torch.nn.Parameter(head)
    assert greedy(wide, inputs[0], 1, -1)[0] >= len(tokenizer)
    texts = decode(wide, tokenizer, [Example(ids) for ids in inputs], num_beams=beams, max_new_tokens=6)
    assert any(texts)  # nothing is left of ids that are no token
    if beams == 1:
        narrow = copy.deepcopy(wide)
        narrow.lm_head.weight = torch.nn.Parameter(head[: len(tokenizer)].clone())
        assert texts == decode(narrow, tokenizer, [Example(ids) for ids in inputs], max_new_tokens=6)


def test_beam_search_does_not_depend_on_batches(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = [Example(ids) for ids in random_inputs(8)]
    together = decode(model, tokenizer, examples, num_beams=3, max_new_tokens=8)
    apart = decode(model, tokenizer, examples, num_beams=3, max_new_tokens=8, batch_size=1)
    assert together == apart
    assert together != decode(model, tokenizer, examples, max_new_tokens=8)


def test_interrupted_groups_go_on_with_the_same_texts(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "GROUP_EXAMPLES", 5)
    examples = [Example(ids) for ids in random_inputs(12)]
    settings = DecodingSettings(max_new_tokens=6)
    whole = list(decode_groups(model, tokenizer, examples, settings))
    assert [len(group) for group in whole] == [5, 5, 2]
    seen: list[tuple[int, int]] = []
    rest = list(
        decode_groups(
            model,
            tokenizer,
            examples,
            settings,
            done=set(whole[0]),
            on_progress=lambda *now: seen.append(now),
        )
    )
    assert rest == whole[1:]
    assert seen[-1] == (12, 12)
    assert all(5 <= done <= 12 for done, _ in seen)


def test_the_model_is_left_as_it_was(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    model.train()
    cast(Any, model.encoder).eval()
    before = {name: module.training for name, module in model.named_modules()}
    stored = model.generation_config
    first = decode(model, tokenizer, [Example([9, 8])] * 3, max_new_tokens=6)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.generation_config is stored
    assert first == decode(model, tokenizer, [Example([9, 8])] * 3, max_new_tokens=6)  # no dropout
    with pytest.raises(ZeroDivisionError):
        decode(model, tokenizer, [Example([9])], max_new_tokens=2, on_progress=lambda *_: print(1 // 0))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_inference_mode_enabled() is False


def test_the_models_own_generation_settings_are_not_consulted_and_nothing_is_logged(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    examples = [Example(ids) for ids in random_inputs(6)]
    expected = decode(model, tokenizer, examples, max_new_tokens=8)
    odd = cast(Any, GenerationConfig)(num_beams=2, max_length=3, repetition_penalty=5.0, forced_bos_token_id=20)
    monkeypatch.setattr(model, "generation_config", odd)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    capfd.readouterr()
    try:
        assert decode(model, tokenizer, examples, max_new_tokens=8) == expected
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []
    assert capfd.readouterr() == ("", "")


def test_only_special_tokens_are_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    skipped = decoding._skipped_ids(tokenizer)
    text = "assert x == 'a , b .' and it 's\n  not \u00e9"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with_specials = [0, 3, *ids[:5], 4, *ids[5:], 265, 1]
    assert decoding._text(tokenizer, with_specials, skipped) == text
    assert decoding._text(tokenizer, [0, 1, 3], skipped) == ""


def test_batches_keep_the_limits() -> None:
    inputs = [[1] * length for length in (50, 10, 10, 9, 3, 2, 1)]
    settings = DecodingSettings(num_beams=2, batch_size=3, tokens_per_batch=40)
    batches = list(decoding._batches(range(7), inputs, settings))
    assert batches == [[0], [1, 2], [3, 4], [5, 6]]


def test_bf16_is_autocast_for_decoding_only(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    dtypes: set[tuple[str, torch.dtype]] = set()
    watched = {"trunk": model.encoder.block[0].layer[0].SelfAttention.q, "head": model.lm_head}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: dtypes.add((name, output.dtype)))
        for name, module in watched.items()
    ]
    examples = [Example([9, 8, 7]), Example([20])]
    try:
        assert len(decode(model, tokenizer, examples, max_new_tokens=4, bf16=True, device="cpu")) == 2
        # As in training, whose students are scored with the head that they have there.
        assert dtypes == {("trunk", torch.bfloat16), ("head", torch.float32)}
        assert "forward" not in vars(model.lm_head)
        dtypes.clear()
        decode(model, tokenizer, examples, max_new_tokens=4)
        assert dtypes == {("trunk", torch.float32), ("head", torch.float32)}
    finally:
        for hook in hooks:
            hook.remove()
    # autocast must not leave inference tensors behind for the next training step
    model.train()
    model(input_ids=torch.tensor([[9]]), labels=torch.tensor([[8]])).loss.backward()
    model.zero_grad()


def test_a_head_in_float32_stays_one(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    trained = copy.deepcopy(model)
    run_head_in_float32(trained)
    examples = [Example([9, 8, 7]), Example([20])]
    texts = decode(trained, tokenizer, examples, max_new_tokens=8, bf16=True)
    assert isinstance(trained.lm_head.forward, Float32Head)
    assert decode(model, tokenizer, examples, max_new_tokens=8, bf16=True) == texts


def test_device_memory_that_runs_out_names_what_decoding_takes(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**asked: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(RunError, match=r"while decoding 3 texts at once: lower evaluation\.batch_tokens"):
        decode(model, tokenizer, [{"input_ids": ids} for ids in random_inputs(3)])


def test_nothing_to_decode(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    assert decode(model, tokenizer, []) == []


def test_errors_name_the_trouble(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="example 1 has no input token"):
        decode(model, tokenizer, [Example([9]), Example([])])
    with pytest.raises(DataError, match=r"max_new_tokens should be at least 1\. Found 0"):
        decode(model, tokenizer, [Example([9])], max_new_tokens=0)
    monkeypatch.setattr(model.config, "decoder_start_token_id", None)
    monkeypatch.setattr(model, "generation_config", cast(Any, GenerationConfig)())
    with pytest.raises(DataError, match="decoder_start_token_id is set neither"):
        decode(model, tokenizer, [Example([9])])


def test_a_saved_model_decodes_alike(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path)
    examples = [Example(ids) for ids in random_inputs(4)]
    assert decode(loaded, tokenizer, examples, max_new_tokens=5) == decode(model, tokenizer, examples, max_new_tokens=5)

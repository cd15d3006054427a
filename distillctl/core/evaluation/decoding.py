"""Predictions of any Hugging Face encoder-decoder model: batched by length, greedy or by beam search."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distillctl.core.errors import DataError, RunError
from distillctl.core.models.head import float32_head
from distillctl.core.models.vocabulary import padded_ids

# Greedy decoding goes in stages of this many tokens: most assertions end in the first, and only the rows that
# have not ended pay for the next. Rows that go on are batched anew.
STAGE_TOKENS = 32
# Examples that are finished together. A group's batches depend on nothing outside it, so a decoding that was
# cut off goes on group by group with the very same batches.
GROUP_EXAMPLES = 1024

_SENTINEL = re.compile(r"<extra_id_\d+>")


class Encoded(Protocol):
    """A tokenised example: anything with ``input_ids`` (end-of-sequence included, no padding)."""

    @property
    def input_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How predictions are made. ``tokens_per_batch`` counts source tokens with padding, times beams."""

    num_beams: int = 1
    max_new_tokens: int = 128
    batch_size: int = 128
    tokens_per_batch: int = 16_384
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "batch_size", "tokens_per_batch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} should be at least 1. Found {getattr(self, name)}")


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded_examples: Sequence[Encoded | Mapping[str, Any]],
    *,
    num_beams: int = 1,
    max_new_tokens: int = 128,
    batch_size: int = 128,
    tokens_per_batch: int = 16_384,
    device: torch.device | str | None = None,
    bf16: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Generates one text per example, in the examples' order. See :func:`decode_groups` for what is promised.

    ``on_progress(done, total)`` is called after every batch that finished an example.
    """
    settings = DecodingSettings(num_beams, max_new_tokens, batch_size, tokens_per_batch, bf16)
    texts: dict[int, str] = {}
    for group in decode_groups(model, tokenizer, encoded_examples, settings, device=device, on_progress=on_progress):
        texts.update(group)
    return [texts[index] for index in range(len(encoded_examples))]


def decode_groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded_examples: Sequence[Encoded | Mapping[str, Any]],
    settings: DecodingSettings,
    *,
    done: Collection[int] = (),
    device: torch.device | str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[int, str]]:
    """Yields the texts of one group of examples after the other, by index; the longest inputs come first.

    Groups whose indices are all in ``done`` are passed over, the others decoded in the same batches as ever:
    a caller that stores whole groups ends with the same texts whether or not it was interrupted. Special
    tokens and ``<extra_id_i>`` are left out of the texts, nothing else is altered; ids that are no token of the
    tokenizer (a padded vocabulary) are never written. The model's generation
    config is not consulted and stays as it is; its modules run in eval mode and get their modes back between
    groups. ``device`` is where the inputs go (default: where the model is). ``model`` is the plain model, not
    a DDP wrapper. Raises DataError for an empty input or missing special ids, RunError where the
    device's memory runs out.
    """
    inputs = [_input_ids(example) for example in encoded_examples]
    for index, ids in enumerate(inputs):
        if not ids:
            raise DataError(f"example {index} has no input token: nothing to decode from")
    place = torch.device(device) if device is not None else next(model.parameters()).device
    config = _generation_config(model, tokenizer, settings)
    skipped = _skipped_ids(tokenizer)
    order = sorted(range(len(inputs)), key=lambda index: (-len(inputs[index]), index))
    groups = [order[start : start + GROUP_EXAMPLES] for start in range(0, len(order), GROUP_EXAMPLES)]
    finished = set(done)
    count = sum(len(group) for group in groups if finished.issuperset(group))
    for group in groups:
        if finished.issuperset(group):
            continue
        texts: dict[int, str] = {}
        with _decoding_mode(model, config, place, settings.bf16):
            for finished_rows in _generate_group(model, config, inputs, group, settings, place):
                texts |= {index: _text(tokenizer, ids, skipped) for index, ids in finished_rows.items()}
                on_progress(count + len(texts), len(inputs))
        count += len(group)
        yield texts


def _input_ids(example: Encoded | Mapping[str, Any]) -> list[int]:
    return list(example["input_ids"] if isinstance(example, Mapping) else example.input_ids)


def _generate_group(
    model: PreTrainedModel,
    config: GenerationConfig,
    inputs: Sequence[Sequence[int]],
    group: Sequence[int],
    settings: DecodingSettings,
    device: torch.device,
) -> Iterator[dict[int, list[int]]]:
    """New token ids, up to the end-of-sequence token, of the examples that each batch of a group finishes."""
    ends = set(cast("list[int]", config.eos_token_id))
    greedy = settings.num_beams == 1
    prefixes: dict[int, list[int]] = {index: [] for index in group}
    length = 0
    while prefixes:
        stage = min(STAGE_TOKENS, settings.max_new_tokens - length) if greedy else settings.max_new_tokens
        config.max_new_tokens = stage
        length += stage
        unfinished: dict[int, list[int]] = {}
        for batch in _batches(list(prefixes), inputs, settings):
            rows = _generate(model, config, [inputs[i] for i in batch], [prefixes[i] for i in batch], device)
            finished: dict[int, list[int]] = {}
            for index, row in zip(batch, rows, strict=True):
                end = next((place for place, token in enumerate(row) if token in ends), None)
                goes_on = end is None and length < settings.max_new_tokens
                (unfinished if goes_on else finished)[index] = prefixes[index] + row[:end]
            yield finished
        prefixes = unfinished


def _batches(order: Sequence[int], inputs: Sequence[Sequence[int]], settings: DecodingSettings) -> Iterator[list[int]]:
    """Cuts indices, longest input first, into batches within the row and token limits (one row at least)."""
    start = 0
    while start < len(order):
        width = len(inputs[order[start]]) * settings.num_beams
        rows = max(1, min(settings.batch_size, settings.tokens_per_batch // width))
        yield list(order[start : start + rows])
        start += rows


def _generate(
    model: PreTrainedModel,
    config: GenerationConfig,
    sources: Sequence[Sequence[int]],
    prefixes: Sequence[Sequence[int]],
    device: torch.device,
) -> list[list[int]]:
    """New tokens [rows, <= max_new_tokens] after each row's prefix; all prefixes are equally long."""
    pad, width = cast("int", config.pad_token_id), max(map(len, sources))
    ids = torch.full((len(sources), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = torch.tensor(source, dtype=torch.long)
        mask[row, : len(source)] = 1
    start = torch.tensor([[config.decoder_start_token_id, *prefix] for prefix in prefixes])
    try:
        output = cast(Any, model).generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            decoder_input_ids=start.to(device),
            generation_config=config,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            f"out of memory on the device while decoding {len(sources)} texts at once: lower evaluation.batch_tokens; "
            "a run that was training may go on with that (--resume)"
        ) from error
    rows: list[list[int]] = output[:, start.shape[1] :].tolist()
    return rows


@contextmanager
def _decoding_mode(
    model: PreTrainedModel, config: GenerationConfig, device: torch.device, bf16: bool
) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    # generate() fills what a given config leaves open from the model's own: beams, penalties, forced tokens.
    stored = model.generation_config
    model.generation_config = config
    cast(Any, model).eval()
    try:
        # The head is in float32 as in training: else the same weights would write other texts when scored later.
        head = float32_head(model) if bf16 else nullcontext()
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16), head:
            yield
    finally:
        model.generation_config = stored
        for module, training in modes:
            module.training = training


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: DecodingSettings
) -> GenerationConfig:
    start = _first_id(model.config, model.generation_config, name="decoder_start_token_id")
    end = _first_id(model.config, tokenizer, name="eos_token_id")
    pad = _first_id(model.config, tokenizer, name="pad_token_id")
    never = sorted(set(padded_ids(model, tokenizer)) - {*end, pad[0]})
    config: GenerationConfig = cast(Any, GenerationConfig)(
        suppress_tokens=never or None,
        decoder_start_token_id=start[0],
        eos_token_id=end,
        pad_token_id=pad[0],
        num_beams=settings.num_beams,
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        use_cache=True,
    )
    return config


def texts_of(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text that each row of ids is, read as a prediction is."""
    skipped = _skipped_ids(tokenizer)
    return [_text(tokenizer, ids, skipped) for ids in rows]


def _first_id(*places: object, name: str) -> list[int]:
    for place in places:
        value = getattr(place, name, None)
        if value is not None:
            return [value] if isinstance(value, int) else list(value)
    raise DataError(f"{name} is set neither in the model's config nor in the tokenizer: decoding needs it")


def _skipped_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special ids, and the sentinels even where a tokenizer holds them as ordinary tokens."""
    sentinels = (index for token, index in tokenizer.get_vocab().items() if _SENTINEL.fullmatch(token))
    return frozenset([*tokenizer.all_special_ids, *sentinels])


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skipped: frozenset[int]) -> str:
    kept = [token for token in ids if token not in skipped]
    if not kept:
        return ""
    return cast("str", tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

"""CodeT5+ and CodeBERT in their own file layout, at full width and two layers: loaded, saved, distilled."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

import distillctl
from distillctl import cli
from distillctl.core.config import load_config
from distillctl.core.data.encoding import Encoder
from distillctl.core.data.records import write_jsonl
from distillctl.core.data.source_files import read_source
from distillctl.core.encoder.alignment import align_vocabularies
from distillctl.core.materials import load_models
from distillctl.core.models.encoders import load_encoder
from distillctl.core.models.loading import load_seq2seq, load_tokenizer, save_model
from distillctl.core.profiling.codet5p import ENCODER, TEACHER, VOCABULARY
from tests import codet5p
from tests.codet5p import ENCODER_FILES, ENCODER_MERGES, MERGES, SENTINELS, T5_FILES, Bpe, Checkpoints
from tests.contract import (
    assert_every_term_has_a_gradient,
    assert_has_every_file,
    assert_record_says_what_ran,
    assert_student_loads,
)
from tests.runs import record
from tests.tiny import Tiny, tiny_records

TEXTS = [
    "def test_push():\n    stack = make_stack(3)\n    <extra_id_0>\n    <extra_id_1>",
    "assert stack.push(3) == {'a' : 'é  漢'}",
    " x\t\tif (a<=b) { return a ; }",
    "",
]


def sources(folder: Path) -> list[str]:
    return [read_source(path) for path in sorted(folder.rglob("*.py"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Full width, two layers, vocabularies of a few hundred merges; tests never write to them."""
    bpe = Bpe.trained(sources(Path(distillctl.__file__).parent / "core/losses"), 700)
    encoder_bpe = Bpe.trained(sources(Path(__file__).parent / "losses"), 900)
    return codet5p.write_checkpoints(tmp_path_factory.mktemp("hub"), bpe, encoder_bpe, layers=2)


# --- the layout -----------------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_hub(made: Checkpoints) -> None:
    for place, expected in ((made.teacher, T5_FILES), (made.student, T5_FILES), (made.encoder, ENCODER_FILES)):
        assert {path.name for path in place.iterdir()} == expected
    assert made.teacher.relative_to(made.folder).as_posix() == "Salesforce/codet5p-770m"
    weights = load_file(made.student / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert not {"lm_head.weight", "encoder.embed_tokens.weight"} & weights.keys()
    assert "embeddings.word_embeddings.weight" in load_file(made.encoder / "model.safetensors")


def test_the_vocabularies_have_the_sizes_of_the_real_ones() -> None:
    tokens = tuple(str(number) for number in range(codet5p.BYTES + MERGES))
    assert len((*codet5p.FIRST, *tokens, *SENTINELS)) == VOCABULARY == 32_100
    rest = (*codet5p.ENCODER_FIRST, *codet5p.ENCODER_LAST)
    assert len(rest) + codet5p.BYTES + ENCODER_MERGES == ENCODER["vocab_size"] == 50_265


def test_config_files_have_the_sizes_of_the_hubs() -> None:
    teacher = codet5p.t5_config(codet5p.TEACHER_NAME, TEACHER, VOCABULARY)
    assert len(codet5p.config_text(teacher)) == 770
    assert len(codet5p.config_text(codet5p.encoder_config({}, ENCODER["vocab_size"]))) == 498


def test_special_tokens_have_their_places(made: Checkpoints) -> None:
    tokenizer = load_tokenizer(str(made.student), "student")
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    size = len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<extra_id_99>", "<extra_id_0>"]) == [size - 100, size - 1]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    # A mask is one token, and takes the blanks before it along.
    assert tokenizer("a  <extra_id_0>", add_special_tokens=False).input_ids == [*tokenizer.encode("a")[1:-1], size - 1]
    encoder = load_tokenizer(str(made.encoder), "encoder")
    assert encoder.convert_ids_to_tokens(range(4)) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert encoder.mask_token_id == len(encoder) - 1


def test_equal_texts_give_equal_vocabularies_and_too_few_are_refused() -> None:
    texts = sources(Path(__file__).parent / "losses")
    assert Bpe.trained(texts, 300) == Bpe.trained(texts, 300)
    with pytest.raises(ValueError, match="give more texts"):
        Bpe.trained(["assert x"], 300)


# --- loading, saving ------------------------------------------------------------------------------------------


def logits(model: Any) -> torch.Tensor:
    inputs = torch.tensor([[1, 40, 41, 42, 2]])
    with torch.no_grad():
        return model(input_ids=inputs, decoder_input_ids=torch.tensor([[0, 50, 51]])).logits


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_model_is_the_same_by_transformers_and_after_saving(made: Checkpoints, tmp_path: Path, role: str) -> None:
    place = getattr(made, role)
    model, tokenizer = load_seq2seq(str(place), role), load_tokenizer(str(place), role)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight.data_ptr() == model.shared.weight.data_ptr()
    assert (model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id) == (0, 0, 2)
    save_model(model, tokenizer, tmp_path / "saved")
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    written = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
    for folder in (place, tmp_path / "saved"):
        other = AutoModelForSeq2SeqLM.from_pretrained(folder).float()
        assert torch.equal(logits(other), logits(model))
        assert torch.equal(other.generate(input_ids=ids, max_new_tokens=8, do_sample=False), written)
    assert written[0, 0] == 0
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")  # transformers 5.23 alone cannot load the first one
    assert theirs.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS:
        assert theirs(text).input_ids == tokenizer(text).input_ids


def test_texts_come_back_as_they_were(made: Checkpoints) -> None:
    for place in (made.student, made.encoder):
        tokenizer = load_tokenizer(str(place))
        for text in TEXTS[1:]:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_records_are_encoded_with_the_frame_of_the_tokenizer(made: Checkpoints) -> None:
    tokenizer = load_tokenizer(str(made.student))
    found = Encoder(tokenizer, 64, 20).encode(tiny_records()[:8])
    assert found.dropped == 0
    mask = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for example in found.examples:
        assert (example.input_ids[0], example.input_ids[-1]) == (1, 2)
        assert example.input_ids.count(mask) == 1 and example.input_ids.count(2) == 2
        assert example.labels[-1] == 2 or len(example.labels) == 20


@pytest.mark.parametrize("pooler", [True, False])
def test_the_encoder_loads_with_and_without_a_pooler(made: Checkpoints, tmp_path: Path, pooler: bool) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in made.encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    assert "pooler.dense.weight" in weights
    if not pooler:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler")}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    ids = torch.tensor([[0, 40, 41, 2]])
    ours = load_encoder(str(folder)).eval()(input_ids=ids).last_hidden_state
    theirs = AutoModel.from_pretrained(made.encoder).eval()(input_ids=ids).last_hidden_state
    assert torch.equal(ours, theirs)


def test_tied_embeddings_are_found_under_any_of_their_names(made: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    for file in made.student.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    expected = logits(load_seq2seq(str(made.student), "student"))
    for name in sorted(codet5p.TIED):
        other = {name if key == "shared.weight" else key: tensor for key, tensor in weights.items()}
        save_file(other, folder / "model.safetensors", {"format": "pt"})
        assert torch.equal(logits(load_seq2seq(str(folder), "student")), expected)


def test_two_vocabularies_are_aligned(made: Checkpoints) -> None:
    config = load_config(settings=[f"student.model={made.student}", f"teacher.model={made.teacher}"])
    models = load_models(config)
    assert models.shared_vocabulary == len(models.tokenizer)
    encoder = load_encoder(str(made.encoder))
    found = align_vocabularies(models.tokenizer, load_tokenizer(str(made.encoder)))
    assert found.table(encoder.get_input_embeddings().weight).shape == (len(models.tokenizer), 768)
    coverage = found.coverage()
    assert coverage.exact > 256
    assert coverage.by_pieces > 100
    assert coverage.none == 100  # <extra_id_*>: CodeBERT has nothing of the kind


# --- distilling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["live", pytest.param("cached", marks=pytest.mark.slow)])
def test_the_pair_is_distilled_from_the_command_line(made: Checkpoints, tiny: Tiny, tmp_path: Path, mode: str) -> None:
    run = tmp_path / "run"
    settings = tiny.settings(
        run,
        f"teacher.mode={mode}",
        "teacher.top_k=64",
        "student.init=pretrained",
        "training.max_steps=2",
        "training.per_device_train_batch_size=2",
        "training.gradient_checkpointing=true",
        "training.bf16=true",
        "logging.gradient_steps=1",
    )
    sets = [part for setting in settings if "teacher.model" not in setting for part in ("--set", setting)]
    assert cli.run(["train", *sets, *made.flags]) == 0
    assert_has_every_file(run, last_step=2)
    assert_record_says_what_ran(run)
    assert_every_term_has_a_gradient(run, steps=2, every=1)
    model = assert_student_loads(run)
    assert (model.config.d_model, model.config.num_layers, model.config.decoder_start_token_id) == (768, 2, 0)
    assert record(run)["encoder"]["width"] == 768
    saved = json.loads((run / "student/tokenizer_config.json").read_text())
    assert saved["tokenizer_class"]
    theirs = AutoTokenizer.from_pretrained(run / "student")
    ours = load_tokenizer(str(made.student))
    assert [theirs(text).input_ids for text in TEXTS] == [ours(text).input_ids for text in TEXTS]


@pytest.mark.slow
def test_a_full_size_step_at_512_tokens_fits_in_16_gb(tmp_path: Path) -> None:
    """220M, 770M and 125M on a CPU, one example at a time, through the command line; some minutes and 12 GB of disk."""
    full = codet5p.write_checkpoints(tmp_path / "hub", *codet5p.full_size_vocabularies())
    corpus, run = tmp_path / "long.jsonl", tmp_path / "run"
    write_jsonl(corpus, codet5p.long_records())
    settings = [
        "device=cpu",
        "data.max_source_length=512",
        "data.max_target_length=128",
        "teacher.mode=live",
        "training.max_steps=1",
        "training.per_device_train_batch_size=1",
        "training.gradient_accumulation_steps=2",
        "training.gradient_checkpointing=true",
        "training.bf16=true",
        "evaluation.limit=1",
        "evaluation.on_epoch_end=false",
    ]
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "distillctl", "train", "--data", str(corpus), "--output-dir", str(run)]
    subprocess.run([*command, *full.flags, *sets], check=True)
    assert_has_every_file(run, last_step=1)
    assert_every_term_has_a_gradient(run, steps=1, every=1)
    peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of the whole command: {peak_kb / 2**20:.1f} GiB")
    assert peak_kb * 1024 < 16e9

"""Layers, shipped files, and the messages for everything that can be wrong with a configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from distillctl.core.config import (
    Config,
    dump_yaml,
    field_to_set,
    find_config,
    load_config,
    loading,
    nearest_field,
    shipped_configs,
)
from distillctl.core.errors import CollectedUsageError


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def messages_of(files: list[str] | None = None, settings: list[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(CollectedUsageError) as caught:
        load_config(files or [], settings or [])
    assert caught.value.exit_code == 2
    return caught.value.messages


# --- layers -------------------------------------------------------------------------------------------------


def test_later_layers_override_earlier_ones_field_by_field(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "seed: 1\ntraining: {learning_rate: 1e-4, weight_decay: 0.5}\n")
    second = write(tmp_path, "b.yaml", "seed: 2\ntraining:\n  learning_rate: 2e-4\n")
    config = load_config(
        [first, second],
        ["seed=3", "training.adam_beta1=0.5"],
        {"--seed": {"seed": 4}},
        base={"seed": 0, "output_dir": "results/teacher", "training.adam_beta2": 0.5},
    )
    assert config.seed == 4
    assert config.output_dir == "results/teacher"
    training = config.training
    assert (training.learning_rate, training.weight_decay) == (2e-4, 0.5)
    assert (training.adam_beta1, training.adam_beta2) == (0.5, 0.5)
    assert config.objective == Config().objective


def test_one_end_of_a_schedule_can_be_changed_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "objective: {focal: {weight: 0.4}}\n")
    config = load_config([path], ["objective.focal.weight.end=0.1", "objective.jsd.weight.start=0.9"])
    assert (config.objective.focal.weight.start, config.objective.focal.weight.end) == (0.4, 0.1)
    assert (config.objective.jsd.weight.start, config.objective.jsd.weight.end) == (0.9, 0.7)


def test_beta_is_the_semantic_loss_scale(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "objective: {beta: 7}\n")
    assert load_config([path]).objective.semantic_loss_scale == 7
    assert load_config([path], ["objective.semantic_loss_scale=3"]).objective.semantic_loss_scale == 3
    both = write(tmp_path, "b.yaml", "objective: {beta: 7, semantic_loss_scale: 7}\n")
    assert "are the same: give one" in messages_of([both])[0]


def test_a_file_extends_another_beside_it_and_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "extends: trident\nseed: 5\n")
    path = write(tmp_path, "own.yaml", "extends: base.yaml\ndata: {mask: all}\n")
    config = load_config([path])
    assert (config.seed, config.data.mask, config.objective.semantic_loss_scale) == (5, "all", 1.0)


def test_a_parent_is_the_file_beside_whatever_lies_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("base.yaml", 1), ("loss-improvements-v1.yaml", 2)):
        write(tmp_path, name, f"seed: {seed}\n")
    (tmp_path / "conf").mkdir()
    write(tmp_path / "conf", "base.yaml", "seed: 3\n")
    path = write(tmp_path / "conf", "own.yaml", "extends: base.yaml\n")
    shipped = load_config(["trident"])
    monkeypatch.chdir(tmp_path)
    assert load_config([path]).seed == 3
    assert load_config(["trident"]) == shipped


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    path = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    assert "extends itself" in messages_of([path])[0]


def test_a_section_with_everything_commented_out_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "objective:\n  # beta: 3\ndata:\n")
    assert load_config([path]) == load_config()


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(["trident"], ["data.packages=['1e-4', 'on', '012']", "training.max_steps=7"])
    path = write(tmp_path, "config.yaml", dump_yaml(config.to_dict()))
    assert load_config([path]) == config
    assert load_config([path]).fingerprint() == config.fingerprint()


# --- shipped configs ----------------------------------------------------------------------------------------


def test_the_defaults_are_the_candidate() -> None:
    assert load_config(["loss-improvements-v1"]) == load_config()
    objective = load_config().objective
    assert objective.semantic_loss_scale == 5.0
    assert objective.max_auxiliary_share == 0.1
    weights = {name: (term.weight.start, term.weight.end) for name, term in objective.terms.items()}
    assert weights == {
        "focal": (0.05, 0.05),
        "jsd": (1.0, 0.7),
        "semantic": (0.05, 0.35),
        "contrastive": (0.1, 0.2),
    }


def test_trident_differs_from_the_candidate_in_the_objective_only() -> None:
    trident, candidate = load_config(["trident"]), load_config()
    same = {"objective": candidate.objective, "output_dir": candidate.output_dir}
    assert trident.model_copy(update=same) == candidate
    objective = trident.objective
    assert objective.active_terms == ("focal", "jsd", "semantic")
    assert (objective.semantic_loss_scale, objective.max_auxiliary_share) == (1.0, None)
    assert objective.critical_tokens.weight == 1.0
    assert (objective.jsd.weight.start, objective.jsd.weight.end) == (0.7, 0.35)
    assert (objective.semantic.weight.start, objective.semantic.weight.end) == (0.0, 0.35)


def test_codet5p_is_the_real_target() -> None:
    config = load_config(["codet5p"])
    models = (config.student.model, config.student.init, config.teacher.model, config.encoder.model)
    hub = ("Salesforce/codet5p-220m", "pretrained", "Salesforce/codet5p-770m", "microsoft/codebert-base")
    assert models == hub
    assert (config.data.max_source_length, config.data.max_target_length) == (512, 128)
    assert config.objective == load_config().objective
    training = config.training
    assert training.bf16 is True and training.gradient_checkpointing
    assert training.gradient_accumulation_steps > 1 and training.step_batch_size == 32


def test_the_two_codet5p_configs_differ_in_the_objective_only() -> None:
    trident, candidate = load_config(["codet5p-trident"]), load_config(["codet5p"])
    assert trident.objective == load_config(["trident"]).objective
    assert trident.output_dir != candidate.output_dir
    same = {"objective": candidate.objective, "output_dir": candidate.output_dir}
    assert trident.model_copy(update=same) == candidate


def test_every_shipped_config_loads() -> None:
    assert set(shipped_configs()) >= {"codet5p", "codet5p-trident", "loss-improvements-v1", "smoke", "trident"}
    for name in shipped_configs():
        assert load_config([name]).objective.trained_terms


@pytest.mark.parametrize("name", ["trident", "trident.yaml", "configs/trident.yaml", "configs/trident"])
def test_shipped_configs_are_found_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == shipped_configs()["trident"]


def test_a_given_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "trident.yaml", "seed: 99\n")
    assert load_config(["trident.yaml"]).seed == 99


def test_the_packaged_copy_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, checkout = tmp_path / "distillctl" / "configs", tmp_path / "configs"
    for folder, seed in ((packaged, 1), (checkout, 2)):
        folder.mkdir(parents=True)
        write(folder, "mine.yaml", f"seed: {seed}\n")
    monkeypatch.setattr(loading, "_SHIPPED", (packaged, checkout))
    assert load_config(["mine"]).seed == 1
    monkeypatch.setattr(loading, "_SHIPPED", (tmp_path / "nowhere", checkout))
    assert load_config(["mine"]).seed == 2


# --- what can be wrong --------------------------------------------------------------------------------------

BAD_SETTINGS = [
    ("training.learnin_rate=1", "unknown key training.learnin_rate: did you mean training.learning_rate?"),
    ("learning_rate=1e-4", "unknown key learning_rate: did you mean training.learning_rate?"),
    ("objective.jsd.temprature=1", "did you mean objective.jsd.temperature?"),
    ("zzz=1", "unknown key zzz: known here are seed, device"),
    ("extends=trident", "unknown key extends"),
    ("objective.contrastive=null", "objective.contrastive should be a mapping"),
    ("seed=1.5", "--set seed should be a whole number. Found 1.5"),
    ("seed=-1", "--set seed should be at least 0. Found -1"),
    ("seed='3'", "should be a whole number"),
    ("training.bf16=1", "training.bf16 should be true, false or auto. Found 1"),
    ("training.learning_rate=0", "should be greater than 0. Found 0"),
    ("training.learning_rate=.nan", "should be a finite number"),
    ("training.num_train_epochs=-1", "should be greater than 0"),
    ("objective.beta=0", "objective.semantic_loss_scale should be greater than 0"),
    ("objective.max_auxiliary_share=11", "should be at most 10. Found 11"),
    ("objective.max_auxiliary_share=0", "should be greater than 0. Found 0"),
    ("objective.critical_tokens.weight=0.5", "should be at least 1. Found 0.5"),
    ("objective.balance=bnad", "should be 'fixed' or 'band'. Found \"bnad\": did you mean band?"),
    ("objective.focal.weight=-0.1", "objective.focal.weight.start should be at least 0"),
    ("objective.focal.weight=true", "should be a number, [start, end]"),
    ("objective.focal.weight=[1, 2, 3]", "should be a number, [start, end]"),
    ("objective.focal.weight=null", "should be a number, [start, end]"),
    ("objective.focal=3", "should be a mapping"),
    ("objective.contrastive.direction=tripplet", "did you mean triplet?"),
    ("teacher.mode=chached", "did you mean cached?"),
    ("teacher.top_k=0", "should be at least 1"),
    ("teacher.cache_dir=results/run/cache", "lies in output_dir, which --overwrite empties"),
    ("teacher.cache_dir=results/../results/run", "lies in output_dir, which --overwrite empties"),
    ("encoder.cache_dir=results/run/bank", "encoder.cache_dir lies in output_dir, which --overwrite empties"),
    ("data.mask=alll", "did you mean all?"),
    ("data.packages=numpy", "should be a list"),
    ("data.packages=[]", "packages is empty"),
    ("data.path=7", "should be text"),
    ("data.path=''", "should not be empty"),
    ('data.path="a\\0b"', "should be one line of text"),
    ("data.max_train_samples=0", "should be at least 1"),
    ("device=gpu", "should be auto, cpu, cuda, cuda:N or mps"),
    ("student.init=pretrained", "the embedded student has none"),
    ("student={model: some/model, encoder_layers: 2}", "only apply to init teacher-layers, random and induction"),
    ("data={path: a.jsonl, packages: [numpy]}", "choose one"),
    ("training.per_device_train_batch_size=1", "a batch of one with in-batch negatives"),
    ("evaluation.split=test", "should be 'validation' or 'dev'"),
    ("checkpoints.save_total_limit=1", "should be at least 2"),
    ("novalue", "should be KEY=VALUE"),
    ("=3", "should be KEY=VALUE"),
    ("a..b=3", "should be KEY=VALUE"),
    ("seed=[", "--set seed:1: not valid YAML"),
    ("seed=!!int 3", "tag !!int is not supported"),
]


def test_one_directory_is_not_both_caches() -> None:
    messages = messages_of(settings=["teacher.cache_dir=one/place", "encoder.cache_dir=one/other/../place"])
    assert "are the same: each needs a directory of its own" in "\n".join(messages)


@pytest.mark.parametrize(("setting", "words"), BAD_SETTINGS, ids=[setting for setting, _ in BAD_SETTINGS])
def test_bad_settings_are_refused_in_words(setting: str, words: str) -> None:
    messages = messages_of(settings=[setting])
    assert words in "\n".join(messages)
    assert all("\n" not in message for message in messages)


BAD_FILES = [
    ("seed: 1\nseed: 2\n", ":2: key 'seed' is given twice (first on line 1)"),
    ("seed: 1\ntraining:\n  learnin_rate: 3\n", ":3: unknown key training.learnin_rate"),
    ("objective:\n  jsd:\n    weight: [0.1, -1]\n", ":3: objective.jsd.weight.end should be at least 0"),
    ("a: &x 1\nb: *x\n", ":1: anchors and aliases are not supported"),
    ("a: !!python/object/apply:os.system [ls]\n", ":1: tag !!python/object/apply:os.system is not supported"),
    ("- 1\n", "should be a mapping of keys to values. Found list"),
    ("just words\n", "should be a mapping of keys to values. Found str"),
    ("a: [1\n", "not valid YAML"),
    ("{[1]: 2}\n", "a key should be one word"),
    ("[" * 3000, "nested too deeply"),
    ("seed: 1\n---\nseed: 2\n", "expected a single document"),
    ("extends: [trident]\n", ":1: extends should be the name of one file"),
    ("extends: no-such-file\n", "there is no such file"),
    ("x: " + "a" * 1_000_001, "too many for a configuration"),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_bad_files_are_refused_naming_file_and_line(text: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, "run.yaml", text)
    message = "\n".join(messages_of([path]))
    assert words in message
    assert "run.yaml" in message or "no-such-file" in message


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    assert messages_of(["tridnt.yaml"]) == ("config 'tridnt.yaml': there is no such file; did you mean trident?",)
    assert "is a directory" in messages_of([str(tmp_path)])[0]
    assert "there is no such file" in messages_of(["a\0b"])[0]
    assert "there is no such file" in messages_of(["x" * 5000])[0]


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: 1\n\xff\xfe")
    assert "not UTF-8 text (byte 8)" in messages_of([str(path)])[0]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    broken = write(tmp_path, "broken.yaml", "a: [1\n")
    wrong = write(tmp_path, "wrong.yaml", "sed: 1\ntraining: {learning_rate: -1}\n")
    messages = messages_of([broken, wrong, "nowhere.yaml"], ["device=gpu", "oops"])
    assert len(messages) == 6
    text = "\n".join(messages)
    for words in ("broken.yaml:2", "sed: did you mean seed", "wrong.yaml:2", "nowhere", "device", "oops"):
        assert words in text


def test_a_trained_term_is_needed() -> None:
    off = [f"objective.{name}.weight=0" for name in ("focal", "jsd", "contrastive")]
    assert "no term is trained" in messages_of(settings=[*off, "objective.semantic.weight=0"])[0]
    assert "no term is trained" in messages_of(settings=[*off, "objective.semantic.log_only=true"])[0]


def test_a_batch_of_one_is_fine_without_negatives() -> None:
    settings = ["training.per_device_train_batch_size=1", "objective.contrastive.weight=0"]
    assert load_config(settings=settings).training.step_batch_size == 1


def test_fields_of_hugging_face_are_found_by_their_own_name() -> None:
    assert nearest_field("learning_rate") == "training.learning_rate"
    assert nearest_field("learnin_rate") == "training.learning_rate"
    assert nearest_field("qqqq") is None
    assert nearest_field("seeed") == "seed"
    assert (nearest_field("teacher"), field_to_set("teacher")) == ("teacher", None)  # a section has no value
    assert field_to_set("seeed") == "seed"


def test_a_place_may_be_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = ["output_dir=~/run", "data.path=~/a.jsonl", "teacher.cache_dir=~/t", "encoder.cache_dir=/x/~/e"]
    config = load_config(settings=settings)
    assert config.output_dir == "/home/somebody/run"
    assert config.data.path == "/home/somebody/a.jsonl"
    assert (config.teacher.cache_dir, config.encoder.cache_dir) == ("/home/somebody/t", "/x/~/e")
    problem = messages_of(settings=["output_dir=~/run", "teacher.cache_dir=/home/somebody/run/cache"])
    assert "teacher.cache_dir lies in output_dir" in problem[0]


def test_configs_are_committed_where_the_package_looks() -> None:
    """The wheel takes configs/ from the repository's root; nothing ignores them there."""
    folder = Path(loading.__file__).resolve().parents[3] / "configs"
    if not (folder.parent / ".git").exists():
        pytest.skip("not a checkout")
    names = [str(path) for path in folder.glob("*.yaml")]
    ignored = subprocess.run(
        ["git", "-C", str(folder), "check-ignore", *names], capture_output=True, text=True, check=False
    )
    assert ignored.stdout == ""

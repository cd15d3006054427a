"""Two processes train what one does, one of them writes, and the failure of one ends both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from distillctl.core.store.shards import INDEX_DTYPE
from distillctl.core.teacher.rows import Layout
from tests.runs import record, run_config, student_bytes
from tests.tiny import Tiny, distance, rows_of
from tests.together import SECONDS, free_port, run_jobs

ROOT = Path(__file__).resolve().parents[2]
CLOSE = 1e-5
CACHED = ("teacher.mode=cached", "teacher.top_k=32")
WHOLE = ("training.per_device_train_batch_size=8",)
HALVES = ("training.per_device_train_batch_size=4",)
QUARTERS = ("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2")


def same_losses(one: Path, other: Path) -> None:
    first, second = rows_of(one), rows_of(other)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name, text in a.items():
            assert (text == "") == (b[name] == ""), name
            if text and name.startswith(("loss", "scale", "weight", "grad_norm", "auxiliary", "teacher")):
                assert float(b[name]) == pytest.approx(float(text), rel=CLOSE, abs=1e-9), (name, a["step"])
            elif text and not name.startswith("grad_cos"):
                assert float(b[name]) == pytest.approx(float(text), rel=1e-8), name


def same_student(one: Path, other: Path) -> None:
    assert distance(*(load_file(run / "student/model.safetensors") for run in (one, other))) < CLOSE


def test_two_processes_train_the_student_of_one(tiny: Tiny, tmp_path: Path) -> None:
    live = tiny.settings(tmp_path / "live", *QUARTERS, "evaluation.on_epoch_end=true")
    cached = tiny.settings(tmp_path / "cached", *HALVES, *CACHED, f"teacher.cache_dir={tmp_path / 'shared'}")
    ends = run_jobs(tmp_path, [{"settings": live}, {"settings": cached}])
    assert ends == [(0, "", ""), (0, "", "")]
    run_config(tiny.config(tmp_path / "one", *WHOLE, "evaluation.on_epoch_end=true"))
    run_config(tiny.config(tmp_path / "one-cached", *WHOLE, *CACHED, f"teacher.cache_dir={tmp_path / 'own'}"))
    for one, two in (("one", "live"), ("one-cached", "cached")):
        same_losses(tmp_path / one, tmp_path / two)
        same_student(tmp_path / one, tmp_path / two)
        assert record(tmp_path / one)["training"] == record(tmp_path / two)["training"]
        assert (record(tmp_path / one)["processes"], record(tmp_path / two)["processes"]) == (1, 2)
    assert record(tmp_path / "cached")["teacher_cache"]["examples"] == 48


SETTINGS = {
    "plain": (),
    "fixed": ("objective.balance=fixed", "objective.max_auxiliary_share=null"),
    "limited": ("objective.max_auxiliary_share=0.05", "training.num_train_epochs=2"),
    "gated": ("objective.jsd.gating=true", "objective.jsd.temperature=2", "objective.contrastive.direction=triplet"),
    "muon": ("training.optimizer=muon", "training.max_grad_norm=0.1"),
    "saving": ("training.gradient_checkpointing=true", "training.lr_scheduler_type=cosine"),
    "odd": ("training.max_steps=9", "data.max_train_samples=37", "objective.critical_tokens.weight=2"),
    "untied": ("student.init=random", "student.decoder_layers=1", "objective.semantic.log_only=true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [(), CACHED], ids=["live", "cached"])
def test_whatever_the_settings_processes_change_nothing(tiny: Tiny, tmp_path: Path, teacher: tuple[str, ...]) -> None:
    jobs, alone = [], []
    # Muon rounds to bfloat16 inside: even in one process, other micro-batches end 5e-5 apart.
    whole = {"muon": ("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2")}
    for number, (name, more) in enumerate(SETTINGS.items()):
        own = (*teacher, f"teacher.cache_dir={tmp_path / f'cache-{name}'}") if teacher else ()
        split = (HALVES, QUARTERS)[number % 2]
        jobs.append({"settings": tiny.settings(tmp_path / f"{name}-2", *own, *split, *more)})
        alone.append(tiny.config(tmp_path / f"{name}-1", *own, *whole.get(name, WHOLE), *more))
    assert run_jobs(tmp_path, jobs) == [(0, "", ""), (0, "", "")]
    for config in alone:
        run_config(config)
    for name in SETTINGS:
        same_losses(tmp_path / f"{name}-1", tmp_path / f"{name}-2")
        same_student(tmp_path / f"{name}-1", tmp_path / f"{name}-2")


@pytest.mark.slow
def test_four_processes_train_the_student_of_one(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path / "four", "training.per_device_train_batch_size=2", *CACHED)
    settings.append(f"teacher.cache_dir={tmp_path / 'cache'}")
    assert [code for code, _, _ in run_jobs(tmp_path, [{"settings": settings}], count=4)] == [0] * 4
    run_config(tiny.config(tmp_path / "one", *WHOLE, *CACHED, f"teacher.cache_dir={tmp_path / 'cache'}"))
    same_losses(tmp_path / "one", tmp_path / "four")
    same_student(tmp_path / "one", tmp_path / "four")


FSDP = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: T5Block
  fsdp_reshard_after_forward: true
  fsdp_offload_params: false
  fsdp_cpu_ram_efficient_loading: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""
"""A configuration as ``accelerate config`` writes it."""
DEEPSPEED = """\
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
mixed_precision: 'no'
num_machines: 1
num_processes: 2
deepspeed_config:
  gradient_accumulation_steps: 1
  gradient_clipping: 1.0
  offload_optimizer_device: none
  offload_param_device: none
  zero3_init_flag: true
  zero3_save_16bit_model: false
  zero_stage: 3
"""
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2"),
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    "accelerate, its file": ("accelerate.commands.launch", "--config_file", "fsdp.yaml"),
    "accelerate, DeepSpeed": ("accelerate.commands.launch", "--config_file", "deepspeed.yaml"),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launched_from_the_command_line_a_run_ends_as_that_of_one_process(
    launcher: str, tiny: Tiny, tmp_path: Path
) -> None:
    settings = ("evaluation.on_epoch_end=true", "logging.tensorboard=true", "training.num_train_epochs=2")
    if launcher == "accelerate, DeepSpeed":
        pytest.importorskip("deepspeed")
    (tmp_path / "fsdp.yaml").write_text(FSDP)
    (tmp_path / "deepspeed.yaml").write_text(DEEPSPEED)
    port = (
        ("--main_process_port", str(free_port())) if "accelerate" in launcher else ("--master-port", str(free_port()))
    )
    module, *options = LAUNCHERS[launcher]
    command = [sys.executable, "-m", module, *options, *port, "-m", "distillctl"]
    command += tiny.argv("train", tmp_path / "two", *settings, *HALVES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Scores") == 1  # one of them speaks
    run_config(tiny.config(tmp_path / "one", *settings, *WHOLE))
    same_losses(tmp_path / "one", tmp_path / "two")
    same_student(tmp_path / "one", tmp_path / "two")
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert (two["status"], two["processes"]) == ("finished", 2)
    assert one["training"] == two["training"]
    assert one["fingerprints"]["student_before"] == two["fingerprints"]["student_before"]
    for name in ("metrics.json", "predictions.jsonl"):
        assert (tmp_path / "two/evaluation/validation" / name).is_file()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}


IN_SHARDS = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
LAYOUTS = {
    "plain": ((), {}),
    "accumulating": (QUARTERS, {}),
    "kept": (("teacher.mode=cached", "teacher.top_k=32"), {"FSDP_RESHARD_AFTER_FORWARD": "false"}),
    "in one unit": (("training.gradient_checkpointing=true",), {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}),
    "untied": (("student.init=random", "student.decoder_layers=1"), {"FSDP_TRANSFORMER_CLS_TO_WRAP": "T5Block"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_processes_with_the_student_in_shards_train_the_student_of_one(name: str, tiny: Tiny, tmp_path: Path) -> None:
    more, environment = LAYOUTS[name]
    own = [f"teacher.cache_dir={tmp_path / 'cache'}", "evaluation.on_epoch_end=true", "training.num_train_epochs=2"]
    settings = tiny.settings(tmp_path / "two", *own, *HALVES, *more)
    assert run_jobs(tmp_path, [{"settings": settings}], environment=IN_SHARDS | environment) == [(0, "", "")] * 2
    run_config(tiny.config(tmp_path / "one", *own, *more, *WHOLE, "training.gradient_accumulation_steps=1"))
    same_losses(tmp_path / "one", tmp_path / "two")
    same_student(tmp_path / "one", tmp_path / "two")
    assert record(tmp_path / "one")["training"] == record(tmp_path / "two")["training"]


ZERO = {
    "1": (QUARTERS, {}),
    "2": (QUARTERS, {}),
    "2, saving": (("teacher.mode=cached", "teacher.top_k=32", "training.gradient_checkpointing=true"), {}),
    "3": (("student.init=random", "student.decoder_layers=1"), {}),
    "3, accumulating": (QUARTERS, {}),
    "2, offloaded": ((), {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}),
}


def with_zero(stage: str) -> dict[str, str]:
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO)
def test_processes_with_the_student_in_deepspeeds_parts_train_the_student_of_one(
    name: str, tiny: Tiny, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    more, environment = ZERO[name]
    own = [f"teacher.cache_dir={tmp_path / 'cache'}", "evaluation.on_epoch_end=true", "training.num_train_epochs=2"]
    settings = tiny.settings(tmp_path / "two", *own, *HALVES, *more)
    ends = run_jobs(tmp_path, [{"settings": settings}], environment=with_zero(name[0]) | environment)
    assert [code for code, _, _ in ends] == [0, 0], ends
    run_config(tiny.config(tmp_path / "one", *own, *more, *WHOLE, "training.gradient_accumulation_steps=1"))
    same_losses(tmp_path / "one", tmp_path / "two")
    same_student(tmp_path / "one", tmp_path / "two")
    assert record(tmp_path / "one")["training"] == record(tmp_path / "two")["training"]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "near"), [("2", 1e-9), ("3", 5e-3)])
def test_in_bf16_deepspeeds_parts_give_the_losses_of_whole_copies(
    stage: str, near: float, tiny: Tiny, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    for name, environment in (("copies", {}), ("parts", with_zero(stage))):
        job = {"settings": tiny.settings(tmp_path / name, *HALVES, "training.bf16=true", "training.num_train_epochs=2")}
        assert [code for code, _, _ in run_jobs(tmp_path, [job], environment=environment)] == [0, 0]
    copies, parts = ([float(row["loss_total"]) for row in rows_of(tmp_path / name)] for name in ("copies", "parts"))
    assert parts == pytest.approx(copies, rel=near)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "said", "status"),
    [
        ([1, 2, "bad data"], 3, "error: process 1: a shard of the cache is gone\n", "failed"),
        ([0, 2, "bad data"], 3, "error: a shard of the cache is gone\n", "failed"),
        ([1, 2, "interrupted"], 130, "error: interrupted\n", "interrupted"),
    ],
)
def test_what_ends_one_process_ends_all_with_one_message(
    tiny: Tiny, tmp_path: Path, fault: list[Any], code: int, said: str, status: str
) -> None:
    ends = run_jobs(tmp_path, [{"settings": tiny.settings(tmp_path / "run", *HALVES), "fault": fault}])
    assert [ended for ended, _, _ in ends] == [code, code]
    errors = "".join(error for _, _, error in ends)
    assert errors == said or (status == "interrupted" and errors == "error: process 1: interrupted\n")
    assert record(tmp_path / "run")["status"] == status
    assert len(rows_of(tmp_path / "run")) == (3 if status == "interrupted" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_missed(tiny: Tiny, tmp_path: Path, rank: int) -> None:
    job = {"settings": tiny.settings(tmp_path / "run", *HALVES), "fault": [rank, 2, "killed"]}
    ends = run_jobs(tmp_path, [job])
    assert ends[rank][0] == -9
    assert ends[1 - rank][0] == 5
    # Without its store torch complains too: of what the user reads, one line is ours.
    ours = [line for line in ends[1 - rank][2].splitlines() if line.startswith("error: ")]
    assert len(ours) == 1
    assert "is gone (killed" in ours[0]
    assert record(tmp_path / "run")["status"] == ("running" if rank == 0 else "failed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [{}, IN_SHARDS, with_zero("1"), with_zero("3")], ids=["copies", "shards", "ZeRO 1", "ZeRO 3"]
)
def test_resumed_processes_end_as_if_nothing_had_been(layout: dict[str, str], tiny: Tiny, tmp_path: Path) -> None:
    if "ACCELERATE_USE_DEEPSPEED" in layout:
        pytest.importorskip("deepspeed")

    def run(job: dict[str, Any], count: int = 2) -> list[int]:
        return [code for code, _, _ in run_jobs(tmp_path, [job], count, layout)]

    settings = (*HALVES, "training.num_train_epochs=2", "training.dropout_rate=0.1")
    whole = tiny.settings(tmp_path / "whole", *settings)
    stopped = tiny.settings(tmp_path / "stopped", *settings)
    assert run({"settings": whole}) == [0, 0]
    assert run({"settings": stopped, "fault": [1, 8, "interrupted"]}) == [130, 130]
    again = {"settings": stopped, "options": {"resume": True}}
    assert run(again, count=1) == [3]
    assert run(again) == [0, 0]
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    assert student_bytes(tmp_path / "stopped") == student_bytes(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["gradient", "loss"])
@pytest.mark.parametrize(
    "layout", [{}, IN_SHARDS, with_zero("1"), with_zero("2"), with_zero("3")], ids=["copies", "shards", "1", "2", "3"]
)
def test_a_step_that_is_passed_over_leaves_nothing_behind(
    fault: str, layout: dict[str, str], tiny: Tiny, tmp_path: Path
) -> None:
    if "ACCELERATE_USE_DEEPSPEED" in layout:
        pytest.importorskip("deepspeed")
    for name, split, count, environment in (("one", WHOLE, 1, {}), ("two", QUARTERS, 2, layout)):
        job = {"settings": tiny.settings(tmp_path / name, *split, "training.on_nan=skip"), "fault": [0, 3, fault]}
        assert [code for code, _, _ in run_jobs(tmp_path, [job], count, environment)] == [0] * count
        assert record(tmp_path / name)["training"]["skipped_steps"] == [4]
    same_losses(tmp_path / "one", tmp_path / "two")
    same_student(tmp_path / "one", tmp_path / "two")


def captured(folder: Path) -> dict[bytes, bytes]:
    """Rows of a cache by the digest of their example."""
    manifest = json.loads((folder / "cache.json").read_text())
    found = {}
    for shard in manifest["shards"]:
        rows = (folder / f"{shard['name']}.rows").read_bytes()
        size = len(rows) // shard["tokens"]
        for entry in np.frombuffer((folder / f"{shard['name']}.index").read_bytes(), INDEX_DTYPE):
            digest = entry["high"].tobytes() + entry["low"].tobytes()
            assert digest not in found
            found[digest] = rows[entry["row"] * size : (entry["row"] + entry["tokens"]) * size]
    return found


@pytest.mark.slow
def test_a_cache_captured_in_parts_is_the_cache_and_a_kill_costs_one_shard(tiny: Tiny, tmp_path: Path) -> None:
    def capture(name: str, count: int, *fault: Any) -> list[int]:
        settings = tiny.settings(tmp_path / "run", *CACHED, f"teacher.cache_dir={tmp_path / name}")
        job = {"settings": settings, "capture": True, **({"fault": fault} if fault else {})}
        return [code for code, _, _ in run_jobs(tmp_path, [job], count)]

    assert capture("one", 1) == [0]
    assert capture("three", 3) == [0, 0, 0]
    whole, parts = captured(tmp_path / "one"), captured(tmp_path / "three")
    assert whole.keys() == parts.keys()
    assert len(whole) == 48
    layout = Layout(32, len(tiny.tokenizer), 1.0).dtype
    for digest, rows in whole.items():
        one, other = np.frombuffer(rows, layout), np.frombuffer(parts[digest], layout)
        # Another batch has other padding: the last bit of a logit may differ, and with it a tie's order.
        assert np.allclose(one["log_sum_exp"], other["log_sum_exp"], rtol=1e-4)
        assert np.allclose(one["logits"].astype("f4"), other["logits"].astype("f4"), atol=2e-3)

    assert capture("killed", 2, 1, 2, "killed") == [5, -9]
    kept = captured(tmp_path / "killed")
    assert 12 <= len(kept) < 48
    assert capture("killed", 2) == [0, 0]
    again = captured(tmp_path / "killed")
    assert again.keys() == whole.keys()
    assert all(again[digest] == rows for digest, rows in kept.items())

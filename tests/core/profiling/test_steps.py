"""What is profiled is what is trained: the same steps, told apart, in arms that differ in their objective alone."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillctl.core import phases
from distillctl.core.analysis.overhead_record import BASELINE, CANDIDATE, CANDIDATE_LIVE, CROSS_ENTROPY, MEASURED
from distillctl.core.config import Config
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.profiling.arms import _facts, main_arms, make_arms, term_arms
from distillctl.core.profiling.bench import Bench, open_bench
from distillctl.core.profiling.memory import highest_sum, kept_bytes, step_bytes
from distillctl.core.profiling.overhead import measure_overhead, run_in_turn
from distillctl.core.profiling.request import Request, must_be_alike
from distillctl.core.profiling.timer import StepTimer
from distillctl.core.profiling.tracing import trace_steps
from distillctl.core.progress import SilentReporter
from tests.runs import Make
from tests.tiny import ALL_TERMS, Tiny, weights_of

REQUEST = Request(steps=2, batch_size=4)
PARTS = {
    phases.DATA,
    phases.STUDENT_FORWARD,
    phases.TEACHER,
    phases.OBJECTIVE,
    phases.ENCODER_FORWARD,
    phases.ENCODER_BACKWARD,
    phases.STUDENT_BACKWARD,
    phases.OPTIMIZER,
    phases.LOGGING,
    phases.OTHER,
}


def configured(tiny: Tiny, *more: str) -> Config:
    fixed = [f"{name}={str(value).lower()}" for name, value in REQUEST.settings(2).items()]
    return tiny.config("out", "teacher.top_k=16", "logging.gradient_steps=3", *fixed, *more)


@pytest.fixture(scope="module")
def bench(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return open_bench([configured(tiny)], "embedded", tmp_path_factory.mktemp("cache"), SilentReporter())


# --- the step ---------------------------------------------------------------------------------------------------


def test_listening_changes_no_bit_of_the_student(make: Make) -> None:
    students = []
    for name in ("silent", "timed"):
        trainer = make(name, "training.max_steps=3")
        if name == "timed":
            trainer.stepper.tell(StepTimer(torch.device("cpu")))
        with trainer.run.step_log(trainer.stepper.objective.names, tensorboard=False) as log:
            for number in range(3):
                trainer.stepper.step(number, log)
        students.append(weights_of(trainer.stepper.student))
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


@pytest.mark.parametrize("number", [0, 1])  # a gradient step and an ordinary one
def test_every_part_of_a_step_is_told(make: Make, number: int) -> None:
    trainer, timer = make("timed"), StepTimer(torch.device("cpu"))
    trainer.stepper.tell(timer)
    with trainer.run.step_log(trainer.stepper.objective.names, tensorboard=False) as log:
        timer.start()
        trainer.stepper.step(number, log)
        found = timer.stop()
    assert found.parts.keys() == PARTS | set(ALL_TERMS)
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    assert found.of(phases.ENCODER_BACKWARD) > 0


# --- arms -------------------------------------------------------------------------------------------------------


def test_arms_take_each_step_in_turn_and_back(bench: Bench, tiny: Tiny, tmp_path: Path) -> None:
    config = configured(tiny)
    order: list[tuple[str, int]] = []
    with ExitStack() as logs:
        arms = make_arms(bench, main_arms(config, config), tmp_path, logs)
        for arm in arms:
            step = arm.stepper.take
            arm.stepper.take = (  # type: ignore[method-assign]
                lambda number, step=step, name=arm.name: order.append((name, number)) or step(number)
            )
        times = run_in_turn(arms, [1, 2], "", SilentReporter())
    names = [CROSS_ENTROPY, BASELINE, CANDIDATE, CANDIDATE_LIVE]
    assert order == [(name, 1) for name in names] + [(name, 2) for name in reversed(names)]
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys(names, 2)
    assert all(phases.TEACHER not in time.parts for time in times[CROSS_ENTROPY])
    assert all(arm.stepper.student is arms[0].stepper.student for arm in arms)


def test_arms_made_later_take_over_the_optimizer(bench: Bench, tiny: Tiny, tmp_path: Path) -> None:
    config = configured(tiny)
    with ExitStack() as logs:
        first = make_arms(bench, {"a": config, "b": config}, tmp_path, logs)
        later = make_arms(bench, {"c": config}, tmp_path, logs, beside=first)
        assert len({id(arm.stepper.optimizers[0]) for arm in (*first, *later)}) == 1
        assert later[0].stepper.objective is not first[0].stepper.objective


@pytest.mark.parametrize(("bf16", "products"), [("false", "torch.float32"), ("true", "torch.bfloat16")])
def test_every_arm_computes_in_the_precision_that_was_asked_for(
    tiny: Tiny, tmp_path: Path, bf16: str, products: str
) -> None:
    config = configured(tiny, f"training.bf16={bf16}", "objective.jsd.weight=0")
    own = open_bench([config], "embedded", tmp_path / "cache", SilentReporter())
    (tmp_path / "runs").mkdir()
    with ExitStack() as logs:
        arms = make_arms(own, main_arms(config, config), tmp_path / "runs", logs)
        assert [_facts(arm.stepper)["dtype"] for arm in arms] == [f"weights torch.float32, products {products}"] * 3


def test_each_term_is_left_out_once_and_the_encoder_as_a_whole(tiny: Tiny) -> None:
    often, rarely = configured(tiny, "logging.gradient_steps=4"), configured(tiny, "logging.gradient_steps=5")
    found = {name: config.objective.active_terms for name, config in term_arms(rarely).items()}
    assert list(term_arms(often)) == [name for name in found if name != MEASURED]
    assert found == {
        CANDIDATE: ALL_TERMS,
        "candidate without focal": ("jsd", "semantic", "contrastive"),
        "candidate without jsd": ("focal", "semantic", "contrastive"),
        "candidate without semantic": ("focal", "jsd", "contrastive"),
        "candidate without contrastive": ("focal", "jsd", "semantic"),
        "candidate without semantic and contrastive": ("focal", "jsd"),
        MEASURED: ALL_TERMS,
    }


def test_an_arm_without_a_teacher_has_no_second_mode(tiny: Tiny) -> None:
    config = configured(tiny, "objective.jsd.weight=0")
    assert list(main_arms(config, config)) == [CROSS_ENTROPY, BASELINE, CANDIDATE]


def test_batches_that_differ_are_refused(bench: Bench, tiny: Tiny, tmp_path: Path) -> None:
    config = configured(tiny)
    with ExitStack() as logs, pytest.raises(DataError, match="cannot be compared: batches of 'a' is"):
        make_arms(bench, {"a": config, "b": config.model_copy(update={"seed": 14})}, tmp_path, logs)


@pytest.mark.parametrize("change", ["seed=14", "training.bf16=true", "data.max_source_length=32", "device=auto"])
def test_settings_that_change_what_is_computed_are_refused(tiny: Tiny, change: str) -> None:
    name = change.partition("=")[0]
    with pytest.raises(DataError, match=f"cannot be compared: {name} of 'baseline' is"):
        measure_overhead(configured(tiny, change), configured(tiny), REQUEST, SilentReporter())


def test_the_objective_and_the_log_may_differ(tiny: Tiny) -> None:
    other = configured(tiny, "objective.jsd.weight=0.1", "logging.steps=5", "output_dir=elsewhere")
    assert must_be_alike(other) == must_be_alike(configured(tiny))


# --- memory and trace ---------------------------------------------------------------------------------------------


def test_memory_is_what_an_arm_keeps_and_what_a_step_allocates(bench: Bench, tiny: Tiny, tmp_path: Path) -> None:
    config = configured(tiny)
    with ExitStack() as logs:
        arms = {arm.name: arm for arm in make_arms(bench, main_arms(config, config), tmp_path, logs)}
        steps = {name: step_bytes(arm, 1) for name, arm in arms.items()}
        kept = {name: kept_bytes(arm) for name, arm in arms.items()}
        trace_steps(arms[CANDIDATE], [2, 3], tmp_path / "trace.json")
        with pytest.raises(RunError, match="trace cannot be written"):
            trace_steps(arms[CANDIDATE], [2], tmp_path / "missing" / "trace.json")
    weights = sum(tensor.nbytes for tensor in bench.models.student.parameters())
    assert kept[CROSS_ENTROPY] == pytest.approx(3 * weights, rel=0.01)  # AdamW keeps two more of each
    assert steps[CROSS_ENTROPY] > weights  # the gradients alone
    assert steps[CANDIDATE] > steps[CROSS_ENTROPY]
    assert kept[CANDIDATE_LIVE] > kept[CANDIDATE] > kept[CROSS_ENTROPY]
    text = (tmp_path / "trace.json").read_text(encoding="utf-8")
    assert all(f'"name": "{name}"' in text for name in (phases.STUDENT_FORWARD, phases.ENCODER_FORWARD, "contrastive"))


def test_the_peak_is_the_highest_running_sum() -> None:
    sizes = [("b", 2.0, 50), ("a", 1.0, 100), ("c", 3.0, -100), ("d", 4.0, 70)]
    events: list[dict[str, object]] = [{"name": "[memory]", "ts": ts, "args": {"Bytes": size}} for _, ts, size in sizes]
    assert highest_sum([*events, {"name": "aten::add", "ts": 0.5}]) == 150


# --- what is asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": "bert"}, "--shape: should be embedded or codet5p. Found bert"),
        ({"teacher_mode": "dead"}, "--teacher-mode: should be cached or live. Found dead"),
        ({"steps": 5}, "--steps: should be even"),
        ({"steps": 0}, "--steps: should be even"),
        ({"limit": 0.0}, "--limit: should be a number above 0"),
        ({"limit": math.inf}, "--limit: should be a number above 0. Found inf"),
        ({"limit": math.nan}, "--limit: should be a number above 0. Found nan"),
        ({"source_tokens": 64}, "only with --shape codet5p"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(Request(), **changes).check()  # type: ignore[arg-type]


def test_settings_of_the_measurement_are_not_taken_from_set() -> None:
    Request().refuse_fixed(["objective.jsd.weight=1", "data.max_source_length=64"])
    with pytest.raises(UsageError, match=r"--set training\.max_steps: profile-overhead sets it itself, by --steps"):
        Request().refuse_fixed(["training.max_steps=3"])
    with pytest.raises(UsageError, match=r"--set data\.max_source_length: .* by --source-tokens"):
        Request(shape="codet5p").refuse_fixed(["data.max_source_length=64"])
    Request().refuse_fixed(["encoder.model=a", "data.path=b"])
    for setting in ("encoder.model=a", "student.decoder_layers=2", "data.path=b"):
        with pytest.raises(UsageError, match=r"by --shape codet5p, which has models of its own and random ids"):
            Request(shape="codet5p").refuse_fixed([setting])


def test_no_tokens_are_not_the_usual_number_of_them() -> None:
    fixed = Request(shape="codet5p", source_tokens=0).settings(2)
    assert (fixed["data.max_source_length"], fixed["data.max_target_length"]) == (0, 64)


def test_steps_follow_from_shape_and_device() -> None:
    assert [Request(shape=shape).steps_on("cpu") for shape in ("embedded", "codet5p")] == [30, 12]
    assert Request(shape="codet5p").steps_on("cuda") == 30
    assert Request(shape="codet5p", steps=4).steps_on("cpu") == 4

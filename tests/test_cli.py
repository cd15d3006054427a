"""The command line: argv gives exactly one library call; a mistake gives one line and its exit code."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import distillctl
from distillctl import cli
from distillctl.core.config import load_config
from distillctl.core.errors import CollectedUsageError, DataError, GateError, RunError, Terminated, UsageError
from distillctl.exit_codes import errors_as_exit_codes

COMMANDS = (
    "train",
    "teach",
    "prepare",
    "evaluate",
    "report",
    "archive",
    "analyse-scaling",
    "sweep",
    "profile-overhead",
)


@dataclass
class Recorder:
    """Stands in for distillctl.commands: notes every call, and raises ``error`` if there is one."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: BaseException | None = None

    def command(self, name: str) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            self.calls.append((name, *arguments, options))
            if self.error is not None:
                raise self.error

        return run


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    package = ModuleType("distillctl.commands")
    monkeypatch.setitem(sys.modules, "distillctl.commands", package)
    for name in (command.replace("-", "_") for command in COMMANDS):
        module = ModuleType(f"distillctl.commands.{name}")
        module.run = recorder.command(name)  # type: ignore[attr-defined]
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return recorder


PLAIN_EVALUATE = {
    "target": "x",
    "output": None,
    "teacher": None,
    "with_teacher": True,
    "run_tests": False,
    "allow_code_execution": False,
    "max_run_tests": None,
    "timeout": None,
    "unsafe_no_sandbox": False,
}
PLAIN_TRAIN = {"overwrite": False, "resume": False, "dry_run": False}
TEACH = [
    "student.init=random",
    "output_dir=results/teacher",
    "data.max_train_samples=null",
    "objective.contrastive.weight=0",
]

# argv, command, the settings that give the same configuration, the other arguments of the call
COMMIT = "abcdef0123" * 4
CALLS: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("train", "train", [], PLAIN_TRAIN),
    (
        "train --beta 7 --contrastive-weight 0.2",
        "train",
        ["objective.semantic_loss_scale=7.0", "objective.contrastive.weight=[0.2, 0.4]"],
        PLAIN_TRAIN,
    ),
    ("train --semantic-loss-scale 3", "train", ["objective.beta=3.0"], PLAIN_TRAIN),
    ("train --semantic_loss_scale=3", "train", ["objective.beta=3.0"], PLAIN_TRAIN),
    ("train --contrastive_weight 0", "train", ["objective.contrastive.weight=0"], PLAIN_TRAIN),
    ("train --output_dir out", "train", ["output_dir=out"], PLAIN_TRAIN),
    ("train --output-dir=out", "train", ["output_dir=out"], PLAIN_TRAIN),
    ("train --student a/b", "train", ["student.model=a/b", "student.init=pretrained"], PLAIN_TRAIN),
    ("train --teacher a/b --encoder c", "train", ["teacher.model=a/b", "encoder.model=c"], PLAIN_TRAIN),
    ("train --data x.jsonl", "train", ["data.path=x.jsonl"], PLAIN_TRAIN),
    ("train --set data.path=x --packages a --mask all", "train", ["data={packages: [a], mask: all}"], PLAIN_TRAIN),
    ("train --packages a,b --packages c", "train", ["data.packages=[a, b, c]"], PLAIN_TRAIN),
    ("train --set data.path=x --packages a", "train", ["data.packages=[a]"], PLAIN_TRAIN),
    ("train --set data.packages=[a] --data x", "train", ["data.path=x"], PLAIN_TRAIN),
    (
        "train --max_train_samples 9 --seed 4 --device cpu",
        "train",
        ["data.max_train_samples=9", "seed=4", "device=cpu"],
        PLAIN_TRAIN,
    ),
    ("train --set seed=4 --set seed=5", "train", ["seed=5"], PLAIN_TRAIN),
    ("train --set seed=4 --seed 6", "train", ["seed=6"], PLAIN_TRAIN),
    ("train --overwrite --dry_run", "train", [], {"overwrite": True, "resume": False, "dry_run": True}),
    ("train --on-nan skip", "train", ["training.on_nan=skip"], PLAIN_TRAIN),
    (
        f"train --trust-remote-code teacher={COMMIT} --trust-remote-code encoder={COMMIT}",
        "train",
        [f"teacher.trusted_revision={COMMIT}", f"encoder.trusted_revision={COMMIT}"],
        PLAIN_TRAIN,
    ),
    ("train --resume", "train", [], {"overwrite": False, "resume": True, "dry_run": False}),
    ("teach", "teach", TEACH, {"overwrite": False}),
    (
        "teach --student a/b --overwrite --output-dir out --seed 1",
        "teach",
        [*TEACH, "student.model=a/b", "output_dir=out", "seed=1"],
        {"overwrite": True},
    ),
    ("teach --set student.init=null", "teach", TEACH[1:], {"overwrite": False}),
    (
        "teach --mask all --max-train-samples 3 --device cpu",
        "teach",
        [*TEACH, "data.mask=all", "data.max_train_samples=3", "device=cpu"],
        {"overwrite": False},
    ),
    ("prepare", "prepare", [], {"output": None, "verify": False, "processes": 1}),
    ("evaluate x", "evaluate", ["evaluation.limit=0"], PLAIN_EVALUATE),
    ("evaluate x --set evaluation.limit=7", "evaluate", ["evaluation.limit=7"], PLAIN_EVALUATE),
    (
        "evaluate x --split dev --limit 5 --num-beams 2 --data a --device cpu",
        "evaluate",
        ["evaluation={split: dev, limit: 5, num_beams: 2}", "data.path=a", "device=cpu"],
        PLAIN_EVALUATE,
    ),
    (
        "evaluate x --no-teacher -o out",
        "evaluate",
        ["evaluation.limit=0"],
        PLAIN_EVALUATE | {"with_teacher": False, "output": "out"},
    ),
    ("evaluate x --teacher t", "evaluate", ["evaluation.limit=0"], PLAIN_EVALUATE | {"teacher": "t"}),
    (
        "evaluate x --run-tests --allow_code_execution --max-run-tests 9 --timeout 2.5 --unsafe-no-sandbox",
        "evaluate",
        ["evaluation.limit=0"],
        PLAIN_EVALUATE
        | {
            "run_tests": True,
            "allow_code_execution": True,
            "max_run_tests": 9,
            "timeout": 2.5,
            "unsafe_no_sandbox": True,
        },
    ),
    (
        "prepare --packages a -o x.jsonl",
        "prepare",
        ["data.packages=[a]"],
        {"output": "x.jsonl", "verify": False, "processes": 1},
    ),
    (
        "prepare --data a --output o",
        "prepare",
        ["data.path=a"],
        {"output": "o", "verify": False, "processes": 1},
    ),
    ("prepare --processes 4", "prepare", [], {"output": None, "verify": False, "processes": 4}),
    ("prepare --verify --teacher T", "prepare", ["teacher.model=T"], {"output": None, "verify": True, "processes": 1}),
]


@pytest.mark.parametrize(("line", "command", "settings", "options"), CALLS, ids=[call[0] for call in CALLS])
def test_a_command_line_makes_one_call(
    line: str, command: str, settings: list[str], options: dict[str, Any], recorder: Recorder
) -> None:
    assert cli.run(line.split()) == 0
    assert recorder.calls == [(command, load_config(settings=settings), options)]


PLAIN_REPORT = {
    "arms": [],
    "split": "validation",
    "output": "results/report",
    "allow_unfinished": False,
    "check": False,
}

# argv, baselines, candidates, the other arguments of the call
REPORTS: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
    ("report --baseline a --candidate b", ["a"], ["b"], PLAIN_REPORT),
    (
        "report --baseline a --candidate b --baseline c --candidate d --check",
        ["a", "c"],
        ["b", "d"],
        PLAIN_REPORT | {"check": True},
    ),
    (
        "report --baseline a --candidate b --arm c=d --arm c=e",
        ["a"],
        ["b"],
        PLAIN_REPORT | {"arms": ["c=d", "c=e"]},
    ),
    (
        "report --candidate=b --baseline=a -o out --split dev --allow_unfinished",
        ["a"],
        ["b"],
        PLAIN_REPORT | {"output": "out", "split": "dev", "allow_unfinished": True},
    ),
]


@pytest.mark.parametrize(("line", "baselines", "candidates", "options"), REPORTS, ids=[call[0] for call in REPORTS])
def test_a_report_is_one_call_without_a_configuration(
    line: str, baselines: list[str], candidates: list[str], options: dict[str, Any], recorder: Recorder
) -> None:
    assert cli.run(line.split()) == 0
    assert recorder.calls == [("report", baselines, candidates, options)]


PLAIN_SWEEP = {
    "grid": ["beta=3,5"],
    "seeds": 1,
    "data_fraction": None,
    "output": "results/sweep",
    "storage": None,
    "retry_failed": False,
}

# argv, the settings that give the same configuration, the other arguments of the call
SWEEPS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("sweep --grid beta=3,5", [], PLAIN_SWEEP),
    (
        "sweep --grid beta=3,5 --grid a.b=1 --data_fraction .05 --seeds 2 -o out --storage sqlite:///x --retry-failed",
        [],
        {
            "grid": ["beta=3,5", "a.b=1"],
            "seeds": 2,
            "data_fraction": 0.05,
            "output": "out",
            "storage": "sqlite:///x",
            "retry_failed": True,
        },
    ),
    (
        "sweep --grid a.b=1,2 --beta 7 --contrastive-weight 0 --set data.mask=all --seed 4 --device cpu --teacher t",
        ["objective={beta: 7.0, contrastive: {weight: 0}}", "data.mask=all", "seed=4", "device=cpu", "teacher.model=t"],
        PLAIN_SWEEP | {"grid": ["a.b=1,2"]},
    ),
    (
        "sweep --grid beta=3,5 --student s --encoder e --packages a --max-train-samples 9 --mask one",
        ["student.model=s", "encoder.model=e", "data={packages: [a], max_train_samples: 9}"],
        PLAIN_SWEEP,
    ),
]


@pytest.mark.parametrize(("line", "settings", "options"), SWEEPS, ids=[call[0] for call in SWEEPS])
def test_a_sweep_is_one_call_with_a_way_to_configure(
    line: str, settings: list[str], options: dict[str, Any], recorder: Recorder
) -> None:
    assert cli.run(line.split()) == 0
    ((command, configure, given),) = recorder.calls
    assert (command, given) == ("sweep", options)
    assert configure({}) == load_config(settings=settings)
    over = {"--grid x": {"objective.beta": 2, "seed": 99}}
    assert configure(over) == load_config(settings=[*settings, "objective.beta=2", "seed=99"])


PLAIN_SCALING = {"window": 100, "check": False, "as_json": False}

# argv, the other arguments of the call
SCALINGS: list[tuple[str, dict[str, Any]]] = [
    ("analyse-scaling r", PLAIN_SCALING),
    ("analyze-scaling r", PLAIN_SCALING),
    ("analyse_scaling r --check", PLAIN_SCALING | {"check": True}),
    ("analyze_scaling r", PLAIN_SCALING),
    ("analyse-scaling r --window 7 --json", PLAIN_SCALING | {"window": 7, "as_json": True}),
]


@pytest.mark.parametrize(("line", "options"), SCALINGS, ids=[call[0] for call in SCALINGS])
def test_an_analysis_of_scales_is_one_call_by_either_spelling(
    line: str, options: dict[str, Any], recorder: Recorder
) -> None:
    assert cli.run(line.split()) == 0
    assert recorder.calls == [("analyse_scaling", "r", options)]


PLAIN_PROFILE = {
    "baseline": "trident.yaml",
    "candidate": "loss-improvements-v1.yaml",
    "settings": (),
    "steps": None,
    "shape": "embedded",
    "teacher_mode": "cached",
    "limit": 1.10,
    "batch_size": 8,
    "source_tokens": None,
    "target_tokens": None,
    "terms": True,
    "trace": None,
    "output": "results/overhead",
    "check": False,
}

# argv, the settings that give the same configuration, the other arguments of the call
PROFILES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("profile-overhead", [], PLAIN_PROFILE),
    (
        "profile_overhead --baseline a --candidate b --shape codet5p --teacher-mode live --steps 4 --limit 1.2 --check "
        "--batch-size 2 --source-tokens 32 --target-tokens 16 --no-terms --trace t.json -o out",
        [],
        {
            "baseline": "a",
            "candidate": "b",
            "settings": (),
            "steps": 4,
            "shape": "codet5p",
            "teacher_mode": "live",
            "limit": 1.2,
            "batch_size": 2,
            "source_tokens": 32,
            "target_tokens": 16,
            "terms": False,
            "trace": "t.json",
            "output": "out",
            "check": True,
        },
    ),
    (
        "profile-overhead --set seed=4 --device cpu",
        ["seed=4", "device=cpu"],
        PLAIN_PROFILE | {"settings": ["seed=4"]},
    ),
]


@pytest.mark.parametrize(("line", "settings", "options"), PROFILES, ids=[call[0] for call in PROFILES])
def test_a_profile_is_one_call_with_a_way_to_configure(
    line: str, settings: list[str], options: dict[str, Any], recorder: Recorder
) -> None:
    assert cli.run(line.split()) == 0
    ((command, configure, given),) = recorder.calls
    assert (command, given) == ("profile_overhead", options)
    assert configure("trident", {}) == load_config(["trident"], settings)
    fixed = configure("trident", {"training.max_steps": 7, "seed": 99})
    assert fixed == load_config(["trident"], [*settings, "training.max_steps=7", "seed=99"])


def test_the_other_spelling_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "analyse-scaling" in shown
    assert "analyze" not in shown


def test_config_files_lie_below_settings(recorder: Recorder) -> None:
    assert cli.run(["train", "--config", "trident", "--set", "seed=5", "--beta", "2"]) == 0
    expected = load_config(["trident"], ["seed=5", "objective.beta=2.0"])
    assert recorder.calls == [("train", expected, PLAIN_TRAIN)]


def test_every_dedicated_option_sets_a_field_and_belongs_to_a_command() -> None:
    group: Any = typer.main.get_command(cli.app)
    spelled = {name for parameter in group.commands["train"].params for name in parameter.opts}
    spelled |= {name for parameter in group.commands["evaluate"].params for name in parameter.opts}
    assert set(cli.options.OPTION_FIELDS) <= spelled
    assert set(group.commands) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: distillctl {command}" in shown
    group: Any = typer.main.get_command(cli.app)
    for parameter in group.commands[command].params:
        assert parameter.help, f"{command} {parameter.opts} has no help"
        assert (parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]) in shown


def test_what_is_evaluated_does_not_hang_on_what_a_run_or_a_trial_scored(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("evaluation: {split: dev, limit: 7, num_beams: 3}\n", encoding="utf-8")
    for more, split, limit in (("", "validation", 0), (" --split dev --limit 5", "dev", 5)):
        assert cli.run(f"evaluate {tmp_path}{more}".split()) == 0
        scored = recorder.calls[-1][1].evaluation
        assert (scored.split, scored.limit, scored.num_beams) == (split, limit, 3)


def test_teach_has_no_negatives_and_takes_a_batch_of_one(recorder: Recorder) -> None:
    assert cli.run(["teach", "--config", "embedded-teacher", "--set", "training.per_device_train_batch_size=1"]) == 0
    assert not recorder.calls[-1][1].objective.contrastive.is_active


def test_the_contrastive_schedule_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["train", "--help"])
    assert "0.1 -> 0.2" in " ".join(capsys.readouterr().out.split())


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"distillctl {distillctl.__version__}\n"
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().out


BAD_COMMAND_LINES = [
    ("train --bta 5", "unknown option --bta: did you mean --beta?"),
    ("train --contrastive_wait 5", "did you mean --contrastive-weight?"),
    ("train --learning_rate 5", "did you mean --set training.learning_rate=VALUE?"),
    ("train --qqqq", "unknown option --qqqq (see distillctl train --help)"),
    ("trian", "did you mean 'train'?"),
    ("train extra", "unexpected extra argument"),
    ("train --seed", "requires an argument"),
    ("train --seed x", "--seed"),
    ("train --beta -1", "--beta: objective.semantic_loss_scale should be greater than 0. Found -1.0"),
    ("train --contrastive-weight -1", "objective.contrastive.weight.start should be at least 0"),
    ("train --mask some", "--mask: data.mask should be 'one' or 'all'"),
    ("train --on-nan ignore", "--on-nan: training.on_nan should be 'stop' or 'skip'"),
    ("train --trust-remote-code", "requires an argument"),
    ("train --trust-remote-code yes", "--trust-remote-code: should be ROLE=COMMIT, of teacher, encoder or student"),
    ("train --trust-remote-code corpus=abc", "should be ROLE=COMMIT"),
    ("train --trust-remote-code teacher=main", "should be a whole commit, 40 hex digits: a branch or tag can be moved"),
    ("train --device gpu", "--device: device should be auto, cpu"),
    ("train --data a --packages b", "choose one"),
    ("train --data a --mask all", "--mask is for records that are mined: those of a have their masks"),
    ("evaluate x --data a --mask one", "--mask is for records that are mined"),
    ("prepare --from-trident a --mask all", "--mask is for records that are mined"),
    ("prepare --source a --max-train-samples 3", "--max-train-samples is for a training"),
    ("train --packages ,", "packages is empty"),
    ("train --set objective.jsd.temprature=2", "did you mean objective.jsd.temperature?"),
    ("train --config nowhere.yaml", "config 'nowhere.yaml': there is no such file"),
    ("train --set training.per_device_train_batch_size=1", "a batch of one with in-batch negatives"),
    ("prepare --beta 5", "unknown option --beta"),
    ("evaluate", "missing argument"),
    ("evaluate x --split test", "--split: evaluation.split should be 'validation' or 'dev'"),
    ("evaluate x --num-beams 0", "--num-beams: evaluation.num_beams should be at least 1. Found 0"),
    ("sweep", "missing option '--grid'"),
    ("sweep --grid beta=3 --seeds x", "--seeds"),
    ("sweep --grid beta=3 --data-fraction 0.1 --max-train-samples 5", "both say how many records"),
    ("sweep --grid beta=3,5 --beta 4", "--beta: --grid varies objective.semantic_loss_scale"),
    ("sweep --grid objective.beta=3,5 --set beta=4", "--set beta: --grid varies objective.semantic_loss_scale"),
    ("sweep --grid objective.jsd.weight=1,2 --set objective.jsd.weight.start=3", "--grid varies objective.jsd.weight"),
    ("sweep --grid data.max_train_samples=5,9 --max-train-samples 7", "--max-train-samples: --grid varies"),
    ("sweep --grid beta=3 --data-fractio 0.1", "did you mean --data-fraction?"),
    ("evaluate x --output-dir b", "unknown option --output-dir: did you mean --output?"),
    ("evaluate x --set output_dir=b", "--set output_dir: does not say where an evaluation is written; use -o DIR"),
    ("profile-overhead --teacher x", "did you mean --teacher-mode?"),  # --set teacher=... sets nothing
    ("archive x -o y --device cpu", "unknown option --device (see"),
    ("report --baseline a", "missing option '--candidate'"),
    ("report --candidate b", "missing option '--baseline'"),
    ("analyse-scaling", "missing argument"),
    ("analyse-scaling r --window x", "--window"),
    ("analyse-scaling r --windw 3", "unknown option --windw: did you mean --window?"),
    ("analyse-scalling r", "did you mean 'analyse-scaling'?"),
    ("report --baseline a --candidate b --baselin c", "unknown option --baselin: did you mean --baseline?"),
]


@pytest.mark.parametrize(("line", "words"), BAD_COMMAND_LINES, ids=[line for line, _ in BAD_COMMAND_LINES])
def test_a_bad_command_line_is_one_clear_error(
    line: str, words: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(line.split()) == 2
    captured = capsys.readouterr()
    assert words.lower() in captured.err.lower()
    assert all(part.startswith("error: ") for part in captured.err.splitlines())
    assert captured.out == ""
    assert recorder.calls == []


def test_all_mistakes_are_told_at_once(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--beta", "-1", "--mask", "x", "--set", "nope=1", "--config", "nowhere"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 4
    assert recorder.calls == []


NO_MEMORY = (
    "error: out of memory: lower training.per_device_train_batch_size (and raise gradient_accumulation_steps by the "
    "same factor), or evaluation.batch_tokens\n"
)
FAILURES: list[tuple[BaseException, int, str]] = [
    (UsageError("no such file: a"), 2, "error: no such file: a\n"),
    (CollectedUsageError(["one", "two"]), 2, "error: one\nerror: two\n"),
    (DataError("a.jsonl:3: no mask"), 3, "error: a.jsonl:3: no mask\n"),
    (GateError("1.2 > 1.1"), 4, "error: 1.2 > 1.1\n"),
    (RunError("semantic sends no gradient"), 5, "error: semantic sends no gradient\n"),
    (KeyboardInterrupt(), 130, "error: interrupted\n"),
    (Terminated(), 143, "error: terminated\n"),
    (MemoryError(), 5, NO_MEMORY),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 5, NO_MEMORY),
    (OSError(errno.EFBIG, "File too large", "x/y"), 5, "error: disk full while writing x/y: free some space\n"),
    (OSError(errno.ENOSPC, "No space", "x/y"), 5, "error: disk full while writing x/y: free some space\n"),
    (DataError("key \x1b[2J"), 3, "error: key \\x1b[2J\n"),
    (
        ZeroDivisionError("by\nzero"),
        5,
        "error: internal error (ZeroDivisionError: by zero); run again with --debug for the traceback\n",
    ),
]


@pytest.mark.parametrize(("error", "code", "shown"), FAILURES, ids=[repr(error) for error, _, _ in FAILURES])
def test_a_failure_is_told_in_a_line_and_an_exit_code(
    error: BaseException, code: int, shown: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = error
    assert cli.run(["train"]) == code
    assert capsys.readouterr().err == shown


def test_sigterm_ends_a_command_like_ctrl_c_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as caught, errors_as_exit_codes(debug=False):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert capsys.readouterr().err == "error: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_avalanche_of_messages_is_cut(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    recorder.error = CollectedUsageError(str(number) for number in range(50))
    assert cli.run(["train"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "error: and 30 more like these"


@pytest.mark.parametrize("error", [DataError("odd"), ZeroDivisionError("by zero")])
def test_debug_shows_the_traceback(error: Exception, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    recorder.error = error
    code = cli.run(["train", "--debug"])
    assert code == (3 if isinstance(error, DataError) else 5)
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert type(error).__name__ in shown


def test_the_exit_code_reaches_the_shell() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "distillctl", "train", "--seed", "-5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: --seed: seed should be at least 0. Found -5\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["report", "--help"],
        ["analyse-scaling", "--help"],
        ["sweep", "--help"],
        ["profile-overhead", "--help"],
        ["--version"],
        ["train", "--bta"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom distillctl import cli\n"
        f"cli.run({arguments!r})\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'accelerate', 'matplotlib', 'optuna', 'sqlalchemy'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("loaded: []\n")


def test_help_does_not_even_load_the_schema() -> None:
    code = "import sys, distillctl.cli; print(sorted({'pydantic', 'yaml'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# --- launched several times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["sweep", "--grid", "seed=1,2"], ["evaluate", "x"], ["analyse-scaling", "x"]])
def test_what_works_alone_refuses_to_be_several(
    recorder: Recorder, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.run(argv) == 2
    assert "runs in one process, and 2 were launched" in capsys.readouterr().err
    assert recorder.calls == []


@pytest.mark.parametrize(
    "argv", [["train", "--seed", "x"], ["train", "--set", "seed=x"], ["sweep", "--grid", "seed=1"]]
)
def test_of_several_processes_one_a_machine_tells_of_an_error(
    recorder: Recorder, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert cli.run(argv) == 2
        assert len(capsys.readouterr().err.splitlines()) == lines

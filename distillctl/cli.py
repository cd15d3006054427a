"""The command line: options, one call, an exit code.

Nothing heavy is imported here (no torch, transformers, pandas, pydantic): ``distillctl --help`` is instant.
Each command resolves its configuration and calls the function of its name in :mod:`distillctl.commands`;
which option sets which field stands in one place, :data:`OPTION_FIELDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillctl import __version__
from distillctl.core.errors import UsageError
from distillctl.exit_codes import INTERRUPTED, errors_as_exit_codes, explain_bad_command_line

if TYPE_CHECKING:
    from distillctl.core.config import Config


def trusted_revisions(values: Sequence[str]) -> dict[str, Any]:
    """The fields that ``ROLE=COMMIT`` sets; whether it is a commit is for the configuration to say."""
    fields = {}
    for value in values:
        role, equals, commit = value.partition("=")
        if role not in ("teacher", "encoder", "student") or not equals:
            raise UsageError(
                f"--trust-remote-code: should be ROLE=COMMIT, of teacher, encoder or student. Found {value!r}"
            )
        fields[f"{role}.trusted_revision"] = commit
    return fields


OPTION_FIELDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "--output-dir": lambda value: {"output_dir": value},
    "--trust-remote-code": trusted_revisions,
    "--on-nan": lambda value: {"training.on_nan": value},
    "--beta": lambda value: {"objective.semantic_loss_scale": value},
    "--contrastive-weight": lambda value: {"objective.contrastive.weight": [value, 2 * value]},
    "--student": lambda value: {"student.model": value},
    "--teacher": lambda value: {"teacher.model": value},
    "--encoder": lambda value: {"encoder.model": value},
    "--data": lambda value: {"data.path": value},
    "--packages": lambda value: {"data.packages": [name for part in value for name in part.split(",") if name]},
    "--mask": lambda value: {"data.mask": value},
    "--max-train-samples": lambda value: {"data.max_train_samples": value},
    "--seed": lambda value: {"seed": value},
    "--device": lambda value: {"device": value},
    "--split": lambda value: {"evaluation.split": value},
    "--limit": lambda value: {"evaluation.limit": value},
    "--num-beams": lambda value: {"evaluation.num_beams": value},
}
"""What each dedicated option sets in the configuration, by dotted field name."""

TEACH_BASE: Mapping[str, Any] = {
    "output_dir": "results/teacher",
    "student.init": "random",
    "data.max_train_samples": None,
}
"""Where ``teach`` starts from otherwise than ``train``: a new model, on all records."""

ALIASES: Mapping[str, str] = {"analyze-scaling": "analyse-scaling"}
"""Other spellings of commands, accepted and not listed."""


class _Commands(typer.core.TyperGroup):
    """The commands by their names and by :data:`ALIASES`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))


app = typer.Typer(
    name="distillctl",
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # HF's spelling of options (--output_dir) is accepted beside the usual one.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="FILE", help="YAML file, or the name of a shipped one (trident); repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field, as in objective.jsd.temperature=2; repeatable."),
]
Beta = Annotated[
    float | None,
    typer.Option(
        "--beta",
        "--semantic-loss-scale",
        metavar="X",
        help="Scale of the semantic loss; under balance=band, where it starts.  [default: 5]",
    ),
]
ContrastiveWeight = Annotated[
    float | None,
    typer.Option(
        "--contrastive-weight",
        metavar="X",
        help="Weight of the contrastive loss at the start; it rises linearly to 2X (0.1 gives 0.1 -> "
        "0.2). 0 is "
        "off. For another schedule: --set objective.contrastive.weight=[X,Y].",
    ),
]
Student = Annotated[
    str | None, typer.Option("--student", metavar="MODEL", help="Path or hub name; embedded: shaped after the teacher.")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="MODEL", help="Path or hub name; embedded: the shipped one.")
]
Encoder = Annotated[
    str | None, typer.Option("--encoder", metavar="MODEL", help="Path or hub name; teacher: the teacher's own.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="FILE", help="JSONL records instead of the mined corpus.")]
Packages = Annotated[
    list[str] | None,
    typer.Option("--packages", metavar="NAMES", help="Packages to mine, separated by commas; repeatable."),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="one|all", help="One assertion masked per record, or all of the test's."),
]
MaxTrainSamples = Annotated[
    int | None, typer.Option("--max-train-samples", metavar="N", help="Train on this many records at most.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Empty the output directory first, if it holds a run (run.json).")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Distil encoder-decoder code models, with every loss term reaching the student and measured."""
    if version:
        typer.echo(f"distillctl {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def train(
    config: ConfigFiles = None,
    settings: Settings = None,
    output_dir: Annotated[
        str | None, typer.Option("--output-dir", metavar="DIR", help="Run directory.  [default: results/run]")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    on_nan: Annotated[
        str | None,
        typer.Option("--on-nan", metavar="stop|skip", help="At a NaN: stop, or leave the step out and count it."),
    ] = None,
    beta: Beta = None,
    contrastive_weight: ContrastiveWeight = None,
    student: Student = None,
    teacher: Teacher = None,
    encoder: Encoder = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    seed: Seed = None,
    device: Device = None,
    trust_remote_code: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-remote-code",
            metavar="ROLE=COMMIT",
            help="Run the code that comes with the hub model of that role, of exactly this commit; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and show the plan, without training."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Distil a student from a teacher.

    Later settings override earlier ones: defaults, --config, --set, then the options below.
    """
    options = {
        "--output-dir": output_dir,
        "--on-nan": on_nan,
        "--trust-remote-code": trust_remote_code,
        "--beta": beta,
        "--contrastive-weight": contrastive_weight,
        "--student": student,
        "--teacher": teacher,
        "--encoder": encoder,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--seed": seed,
        "--device": device,
    }
    with errors_as_exit_codes(debug, several=True):
        resolved = resolve(config, settings, options)
        from distillctl.commands import train as command

        command.run(resolved, overwrite=overwrite, resume=resume, dry_run=dry_run)


@app.command()
def teach(
    config: ConfigFiles = None,
    settings: Settings = None,
    output_dir: Annotated[
        str | None,
        typer.Option("--output-dir", metavar="DIR", help="Run directory.  [default: results/teacher]"),
    ] = None,
    overwrite: Overwrite = False,
    student: Annotated[
        str | None,
        typer.Option("--student", metavar="MODEL", help="Architecture: path or hub name; embedded: the default shape."),
    ] = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    seed: Seed = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train a teacher with plain cross-entropy on the same records.

    It starts from random weights; --set student.init=pretrained fine-tunes those of --student instead.
    """
    options = {
        "--output-dir": output_dir,
        "--student": student,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--seed": seed,
        "--device": device,
    }
    with errors_as_exit_codes(debug, several=True):
        resolved = resolve(config, settings, options, TEACH_BASE)
        from distillctl.commands import teach as command

        command.run(resolved, overwrite=overwrite)


@app.command()
def prepare(
    config: ConfigFiles = None,
    settings: Settings = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the records to this JSONL file too."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the teacher cache and the embedding bank, show what they hold, capture nothing."
        ),
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="DIR", help="Mine this source tree instead of packages; repeatable."),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="java|python", help="Language of the source trees, or of the file."),
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(
            "--project", metavar="NAME", help="What records call a source tree.  [default: its folder's name]"
        ),
    ] = None,
    from_trident: Annotated[
        str | None,
        typer.Option(
            "--from-trident", metavar="FILE", help="Convert a file of the earlier pipeline: records, dense logits."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=1, help="Capture in N processes of this machine.", show_default=True
        ),
    ] = 1,
    teacher: Teacher = None,
    encoder: Encoder = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Mine the corpus, capture teacher and golds ahead of time, and show what there is.

    The frozen encoder's states of the golds are captured where a term reads them, the teacher where the settings say
    teacher.mode=cached. Stopped and started again, it goes on where it was.
    """
    options = {
        "--teacher": teacher,
        "--encoder": encoder,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--device": device,
    }
    code = 0
    with errors_as_exit_codes(debug, several=not (source or from_trident)):
        resolved = resolve(config, settings, options)
        if sum(map(bool, (source, from_trident, data, packages))) > 1:
            raise UsageError(
                "--source, --from-trident, --data and --packages say where the records are: give one of them"
            )
        if (language and not (source or from_trident)) or (project and not source):
            raise UsageError("--language and --project say what a --source is: give its folder")
        if verify and (source or from_trident):
            raise UsageError("--verify checks the cache of a training: give it the records with --data")
        if processes > 1 and (source or from_trident):
            raise UsageError(
                "--processes captures what a training reads: leave it out, or give the records with --data"
            )
        from distillctl.commands import prepare as command

        if source:
            from distillctl.core.data.source_trees import source_trees

            command.mine_sources(resolved, source_trees(source, language, project or ()), output=output)
        elif from_trident:
            command.convert(resolved, from_trident, language, output=output)
        else:
            code = command.run(resolved, output=output, verify=verify, processes=processes)
    if code:  # of the processes it started: they have said why
        raise typer.Exit(code)


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or a model: path or hub name.")],
    config: ConfigFiles = None,
    settings: Settings = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="validation|dev", help="Split to score.  [default: validation]")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Records to score; 0 is all.")] = None,
    num_beams: Annotated[int | None, typer.Option("--num-beams", metavar="N", help="Beam width; 1 is greedy.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="MODEL", help="Model to score beside it.  [default: the run's teacher]"),
    ] = None,
    with_teacher: Annotated[
        bool, typer.Option("--with-teacher/--no-teacher", help="Score the teacher beside it, or leave it out.")
    ] = True,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Gets evaluation/<split>/.  [default: the run directory; of a model results/evaluation-NAME]",
        ),
    ] = None,
    run_tests: Annotated[
        bool,
        typer.Option(
            "--run-tests", help="Put predictions back into the tests they are from and run them, in a sandbox."
        ),
    ] = False,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Yes, run code that a model has written.")
    ] = False,
    max_run_tests: Annotated[
        int | None, typer.Option("--max-run-tests", metavar="N", help="Records to run.  [default: 300]")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest run of one test.  [default: 20]")
    ] = None,
    unsafe_no_sandbox: Annotated[
        bool,
        typer.Option("--unsafe-no-sandbox", help="Run them without a sandbox: they can read and delete your files."),
    ] = False,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Score a run's student, or any encoder-decoder model, on all of a split.

    A run brings its own settings; --config, --set and the options below override them. Stopped and started again, it
    goes on where it was.
    """
    options = {
        "--split": split,
        "--limit": limit,
        "--num-beams": num_beams,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--device": device,
    }
    with errors_as_exit_codes(debug):
        own = Path(target) / "config.yaml"
        files = [str(own)] if own.is_file() else []
        # A training scores a sample of the split to save time; whoever asks for an evaluation wants all of it.
        resolved = resolve([*files, *(config or ())], ["evaluation.limit=0", *(settings or ())], options)
        from distillctl.commands import evaluate as command

        command.run(
            resolved,
            target=target,
            output=output,
            teacher=teacher,
            with_teacher=with_teacher,
            run_tests=run_tests,
            allow_code_execution=allow_code_execution,
            max_run_tests=max_run_tests,
            timeout=timeout,
            unsafe_no_sandbox=unsafe_no_sandbox,
        )


@app.command()
def sweep(
    grid: Annotated[
        list[str],
        typer.Option("--grid", metavar="KEY=V1,V2", help="A field and its values; several make a product; repeatable."),
    ],
    data_fraction: Annotated[
        float | None,
        typer.Option(
            "--data-fraction",
            metavar="F",
            help="Share of the training records, 0 to 1, the same ones in every trial.  [default: "
            "data.max_train_samples]",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", help="Train each grid point with N seeds.", show_default=True)
    ] = 1,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the sweep and its runs.", show_default=True),
    ] = "results/sweep",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="URL", help="Optuna storage that workers share.  [default: an SQLite file in DIR]"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the trials again that failed before.")
    ] = False,
    config: ConfigFiles = None,
    settings: Settings = None,
    beta: Beta = None,
    contrastive_weight: ContrastiveWeight = None,
    student: Student = None,
    teacher: Teacher = None,
    encoder: Encoder = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    seed: Seed = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Try a grid of settings on part of the data and rank them on the dev split, never on validation.

    Each trial is a normal training below DIR. Killed and started again, it goes on with what is missing; the same
    command in several processes, or on several machines with one --storage, shares the trials. It ends with a ranking,
    a plot, and best.yaml for train --config.
    """
    options = {
        "--beta": beta,
        "--contrastive-weight": contrastive_weight,
        "--student": student,
        "--teacher": teacher,
        "--encoder": encoder,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--seed": seed,
        "--device": device,
    }
    with errors_as_exit_codes(debug):
        if data_fraction is not None and max_train_samples is not None:
            raise UsageError("--data-fraction and --max-train-samples both say how many records: give one of them")

        def configure(values: Mapping[str, Mapping[str, Any]]) -> Config:
            return resolve(config, settings, options, over=values)

        from distillctl.commands import sweep as command

        command.run(
            configure,
            grid=grid,
            seeds=seeds,
            data_fraction=data_fraction,
            output=output,
            storage=storage,
            retry_failed=retry_failed,
        )


@app.command()
def report(
    baseline: Annotated[
        list[str],
        typer.Option(
            "--baseline", metavar="RUN", help="Run directory of the baseline; repeatable, paired by position."
        ),
    ],
    candidate: Annotated[
        list[str], typer.Option("--candidate", metavar="RUN", help="Run directory of the candidate; repeatable.")
    ],
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            metavar="NAME=RUN",
            help="A run of another arm, compared with the baseline of its seed; repeatable, also with one NAME.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Which evaluation to compare.", show_default=True)
    ] = "validation",
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the report; a former one is replaced.", show_default=True
        ),
    ] = "results/report",
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Report runs that did not finish too, marked as such.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 4 unless every acceptance criterion is met.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Compare runs: a before/after with intervals, plots and verdicts, as Markdown and one HTML page.

    Several runs per arm (seeds) are paired by position: --baseline A --candidate B --baseline A2 --candidate B2.
    """
    with errors_as_exit_codes(debug):
        from distillctl.commands import report as command

        command.run(
            baseline,
            candidate,
            arms=arm or [],
            split=split,
            output=output,
            allow_unfinished=allow_unfinished,
            check=check,
        )


@app.command()
def archive(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories, finished and scored.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Gets a folder for each run, of the run's name.")
    ],
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Archive runs that did not finish too.")
    ] = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Keep what reports need of runs, small enough to commit: settings, record, log and scores, no weights.

    Nothing is changed or thinned, the large files are compressed (.xz). report, analyse-scaling and sweep read
    an archived run like any other.
    """
    with errors_as_exit_codes(debug):
        from distillctl.commands import archive as command

        command.run(runs, output=output, overwrite=overwrite, allow_unfinished=allow_unfinished)


@app.command(name="analyse-scaling")
def analyse_scaling(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, as train left it.")],
    window: Annotated[
        int,
        typer.Option(
            "--window",
            metavar="N",
            help="Optimizer steps of a running mean, a third of the log at most.",
            show_default=True,
        ),
    ] = 100,
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 4 unless requests 1.4 and 1.5 are met.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show whether a run's loss terms are balanced, in losses and in gradients, and what to change.

    Reads step_metrics.csv; writes loss_scaling.json and plots to the run's analysis/.
    """
    with errors_as_exit_codes(debug):
        from distillctl.commands import analyse_scaling as command

        command.run(path, window=window, check=check, as_json=as_json)


@app.command(name="profile-overhead")
def profile_overhead(
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="FILE", help="Configuration of the baseline.", show_default=True)
    ] = "trident.yaml",
    candidate: Annotated[
        str, typer.Option("--candidate", metavar="FILE", help="Configuration of the candidate.", show_default=True)
    ] = "loss-improvements-v1.yaml",
    settings: Settings = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", help="Timed steps of each arm, even.  [default: 30; codet5p on a CPU: 12]"
        ),
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            "--shape",
            metavar="embedded|codet5p",
            help="The embedded corpus and models, or CodeT5+ 770M, 220M and CodeBERT with random weights.",
            show_default=True,
        ),
    ] = "embedded",
    teacher_mode: Annotated[
        str,
        typer.Option(
            "--teacher-mode", metavar="cached|live", help="Teacher of baseline and candidate.", show_default=True
        ),
    ] = "cached",
    limit: Annotated[
        float,
        typer.Option("--limit", metavar="X", help="What candidate / baseline may be at most.", show_default=True),
    ] = 1.10,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Examples of a step.", show_default=True)
    ] = 8,
    source_tokens: Annotated[
        int | None, typer.Option("--source-tokens", metavar="N", help="Of every codet5p example.  [default: 512]")
    ] = None,
    target_tokens: Annotated[
        int | None, typer.Option("--target-tokens", metavar="N", help="Of every codet5p example.  [default: 64]")
    ] = None,
    terms: Annotated[
        bool, typer.Option("--terms/--no-terms", help="Measure what each term of the candidate adds, too.")
    ] = True,
    trace: Annotated[
        str | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace of two candidate steps.")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Gets overhead.json; of a run, its analysis/.", show_default=True
        ),
    ] = "results/overhead",
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 4 if candidate / baseline is above the limit.")
    ] = False,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Measure what an objective costs: candidate, baseline and plain cross-entropy on the same batches.

    The trainer's own steps, the arms in turn, as ratios with intervals; where the time goes, what each term adds, what
    a teacher cache saves. Keep the machine quiet meanwhile.
    """
    with errors_as_exit_codes(debug):

        def configure(file: str, values: Mapping[str, Any]) -> Config:
            return resolve([file], settings, {"--device": device}, over={"profile-overhead": values})

        from distillctl.commands import profile_overhead as command

        command.run(
            configure,
            baseline=baseline,
            candidate=candidate,
            settings=settings or (),
            steps=steps,
            shape=shape,
            teacher_mode=teacher_mode,
            limit=limit,
            batch_size=batch_size,
            source_tokens=source_tokens,
            target_tokens=target_tokens,
            terms=terms,
            trace=trace,
            output=output,
            check=check,
        )


def resolve(
    files: Sequence[str] | None,
    settings: Sequence[str] | None,
    options: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    over: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The configuration of a command line; options that are None were not given.

    ``base`` lies below the files, ``over`` (dotted values by the name that messages give them) above everything.
    """
    from distillctl.core.config import load_config

    given = {option: OPTION_FIELDS[option](value) for option, value in options.items() if value is not None}
    # --data and --packages are alternatives: either alone replaces what a config file chose of the other.
    for option, other in (("--data", "data.packages"), ("--packages", "data.path")):
        if option in given and not {"--data", "--packages"} <= given.keys():
            given[option][other] = None
    return load_config(files or (), settings or (), {**given, **(over or {})}, base)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    # Typer's own base class of usage errors; newer versions keep it under a private name.
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="distillctl", standalone_mode=False)
    except usage_error as error:
        return explain_bad_command_line(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the ``distillctl`` script."""
    sys.exit(run())

"""``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillctl.cli.options import ConfigFiles, Data, Debug, Device, Mask, Packages, Settings, given_fields, resolve
from distillctl.core.errors import UsageError
from distillctl.exit_codes import errors_as_exit_codes


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

    A run brings its own settings; --config, --set and the options below override them. What is scored is all of
    validation whatever files say: --split and --limit (or --set) choose otherwise. Stopped and started again, it goes
    on where it was.
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
        if teacher is not None and not with_teacher:
            raise UsageError("--teacher and --no-teacher: give one of them")
        if ["output_dir"] in given_fields(settings, {}).values():
            raise UsageError("--set output_dir: does not say where an evaluation is written; use -o DIR")
        own = Path(target) / "config.yaml"
        files = [str(own)] if own.is_file() else []
        # A training scores a sample of the split to save time, a sweep's trial another split; whoever asks for an
        # evaluation wants what the help says.
        whole = ["evaluation.limit=0", "evaluation.split=validation"]
        resolved = resolve([*files, *(config or ())], [*whole, *(settings or ())], options)
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

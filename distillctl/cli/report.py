"""``report``, and ``archive``, which keeps what it reads."""

from __future__ import annotations

from typing import Annotated

import typer

from distillctl.cli.options import Debug, Overwrite
from distillctl.exit_codes import errors_as_exit_codes


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

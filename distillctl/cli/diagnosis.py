"""What a loss does and costs: ``analyse-scaling`` and ``profile-overhead``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillctl.cli.options import Debug, Device, Settings, resolve
from distillctl.exit_codes import errors_as_exit_codes

if TYPE_CHECKING:
    from distillctl.core.config import Config


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

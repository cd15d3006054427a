"""The commands in the order of the help, other spellings of their names, the version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from distillctl import __version__
from distillctl.cli.diagnosis import analyse_scaling, profile_overhead
from distillctl.cli.evaluate import evaluate
from distillctl.cli.prepare import prepare
from distillctl.cli.report import archive, report
from distillctl.cli.sweep import sweep
from distillctl.cli.train import teach, train

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


for _command in (train, teach, prepare, evaluate, sweep, report, archive, analyse_scaling, profile_overhead):
    app.command()(_command)

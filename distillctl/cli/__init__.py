"""The command line: options, one call, an exit code.

Nothing heavy is imported here (no torch, transformers, pandas, pydantic): ``distillctl --help`` is instant.
Each command resolves its configuration and calls the function of its name in :mod:`distillctl.commands`;
which option sets which field stands in one place, :data:`~distillctl.cli.options.OPTION_FIELDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from distillctl.cli.app import app
from distillctl.exit_codes import INTERRUPTED, explain_bad_command_line


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

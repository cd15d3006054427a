"""How a command ends when something is wrong: one or two lines on stderr and the exit code of the error."""

from __future__ import annotations

import difflib
import errno
import re
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

import typer

from distillctl.core.errors import CollectedUsageError, DistillError, Terminated
from distillctl.core.processes import current, refuse_several

BAD_COMMAND_LINE = 2
INTERNAL_ERROR = 5
INTERRUPTED = 130
TERMINATED = 143
MOST_MESSAGES = 20


@contextmanager
def errors_as_exit_codes(debug: bool, *, several: bool = False) -> Iterator[None]:
    """End the command with the exit code of what went wrong, and one or two lines on stderr about it.

    Args:
        debug: show the traceback too.
        several: the command may be launched as several processes, which then end together; others refuse that.
    """
    with _Told(debug), _sigterm_raises():
        if not several:
            refuse_several()
        yield
        current().leave()


class _Told(AbstractContextManager[None]):
    """The outermost frame of a command: whatever ends what is inside is told, and becomes an exit code."""

    def __init__(self, debug: bool) -> None:
        self._debug = debug

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception | KeyboardInterrupt) and not isinstance(error, typer.Exit):
            raise _end(*_verdict(error), self._debug) from error


def _verdict(error: Exception | KeyboardInterrupt) -> tuple[Sequence[str], int]:
    """What to say of an error, and the exit code. One that is not ours is a defect, told in one line."""
    if isinstance(error, CollectedUsageError):
        return error.messages, error.exit_code
    if isinstance(error, DistillError):
        return [str(error)], error.exit_code
    if isinstance(error, Terminated):
        return ["terminated"], TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], INTERRUPTED
    return [_unexpected(error)], INTERNAL_ERROR


def _end(messages: Sequence[str], code: int, debug: bool) -> typer.Exit:
    """Of several processes the first to fail tells why, and all end with its exit code."""
    processes = current()
    told = messages if processes.is_main else [f"process {processes.rank}: {message}" for message in messages]
    return typer.Exit(processes.fail(code, messages[0], lambda: _explain(told, debug)))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM puts things away like Ctrl-C, instead of ending the process where it stands."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


_NO_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory|MPS backend out of memory")


def _unexpected(error: Exception) -> str:
    # torch says it with a RuntimeError on a CPU, and this must not be what loads torch.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return (
            "out of memory: lower training.per_device_train_batch_size (and raise gradient_accumulation_steps by the "
            "same factor), or evaluation.batch_tokens"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"disk full while writing {error.filename or 'results'}: free some space"
    summary = " ".join(str(error).split())[:200]
    return f"internal error ({type(error).__name__}: {summary}); run again with --debug for the traceback"


def _explain(messages: Sequence[str], debug: bool) -> None:
    if debug:
        traceback.print_exc()
    for message in messages[:MOST_MESSAGES]:
        typer.echo(f"error: {_printable(message)}", err=True)
    if len(messages) > MOST_MESSAGES:
        typer.echo(f"error: and {len(messages) - MOST_MESSAGES} more like these", err=True)


def _printable(message: str) -> str:
    """Control characters (of file names, keys) escaped, so that a message cannot rewrite the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)


def explain_bad_command_line(error: Any) -> int:
    """Print one line for what Typer refused, and return the exit code."""
    command = error.ctx.command_path if error.ctx is not None else "distillctl"
    if hasattr(error, "possibilities"):
        options = [name for parameter in error.ctx.command.params for name in parameter.opts] if error.ctx else []
        message = _unknown_option(error.option_name, error.possibilities or (), options)
    else:
        message = " ".join(error.format_message().split())
    told = f"{message} (see {command} --help)"
    return current().fail(BAD_COMMAND_LINE, told, lambda: _explain([told], debug=False))


def _unknown_option(option: str, possibilities: Sequence[str], options: Sequence[str]) -> str:
    """Names the nearest of the command's options, or how to set the configuration field of that name."""
    from distillctl.core.config import field_to_set

    name = option.lstrip("-").replace("-", "_")
    field = field_to_set(name) if "--set" in options else None
    if field == "output_dir" and "--output" in options:  # where such a command writes to is no setting
        field, possibilities = None, ["--output"]
    near = difflib.get_close_matches(option, [one for one in possibilities if one != "--set"], n=1)
    if field is not None and (not near or field.rpartition(".")[2] == name):
        near = [f"--set {field}=VALUE"]
    return f"unknown option {option}" + (f": did you mean {near[0]}?" if near else "")

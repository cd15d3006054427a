"""The errors a user can meet, each with the exit code of the command that ends with it.

Messages say what happened, where (file:line or field) and what to do, in one or two lines. The command line
prints them without a traceback; library users catch :class:`DistillError`.
"""

from __future__ import annotations

from collections.abc import Iterable


class DistillError(Exception):
    """Base class. ``exit_code`` is the status of a command that this error ends."""

    exit_code: int = 5


class UsageError(DistillError):
    """Wrong usage or a missing input: nothing was started."""

    exit_code = 2


class InUseError(UsageError):
    """Another process writes there; what was asked for can be had when that ends."""


class DataError(DistillError):
    """Bad or incompatible data: records, tokenizers, caches, checkpoints."""

    exit_code = 3


class GateError(DistillError):
    """A gate asked for with ``--check`` was not met."""

    exit_code = 4


class RunError(DistillError):
    """Failed while running: NaN, a term without gradient, disk full, out of memory."""

    exit_code = 5


class NotFiniteError(RunError):
    """A loss or a gradient of a step is NaN or infinite; the step changed nothing."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the process to end: put away like Ctrl-C, with an exit code of its own."""


class CollectedUsageError(UsageError):
    """Several usage mistakes found together, so that a user fixes them in one go.

    ``messages`` keeps them apart; ``str()`` gives one line each.
    """

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages: tuple[str, ...] = tuple(messages)
        if not self.messages:
            raise ValueError("CollectedUsageError should hold at least one message. Found none.")
        super().__init__("\n".join(self.messages))

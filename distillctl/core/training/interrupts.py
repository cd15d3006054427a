"""Ctrl-C and SIGTERM between steps: the step under way is finished, then the run is put away in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from distillctl.core.errors import Terminated


class InterruptFlag:
    """While active, the first SIGINT or SIGTERM only sets ``raised``; the second interrupts at once, as usual.

    ``terminated`` tells them apart: it was SIGTERM.
    """

    def __init__(self) -> None:
        self.raised = self.terminated = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.terminated = number == signal.SIGTERM
        if self.raised:
            raise Terminated if self.terminated else KeyboardInterrupt
        self.raised = True

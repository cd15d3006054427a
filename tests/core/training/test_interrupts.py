"""Ctrl-C: the first waits for the step under way, the second does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from distillctl.core.errors import Terminated
from distillctl.core.training.interrupts import InterruptFlag


@pytest.fixture(autouse=True)
def python_hears_of_ctrl_c() -> Iterator[None]:
    """As at a terminal: a process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_remembered_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptFlag() as flag:
        assert not flag.raised
        signal.raise_signal(signal.SIGINT)
        assert flag.raised
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigterm_is_remembered_too_and_told_apart() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with InterruptFlag() as flag:
        signal.raise_signal(signal.SIGTERM)
        assert (flag.raised, flag.terminated) == (True, True)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_old_handler_comes_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), InterruptFlag():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work() -> None:
        with InterruptFlag() as flag:
            found.append((flag.raised, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]

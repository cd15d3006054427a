"""Inside the sandbox: collects test files once and runs changed tests, each in a fork of its own.

``python -m distillctl.core.execution.runner SPEC``; standard library and pytest only. Jobs come in on one pipe, results
go out on another, one JSON object a line. Only this process has those pipes. A fork that runs a test has one way to
speak: a pipe of its own, once, with a secret that it was given; silence, a wrong word or any exit but its own last line
is a death, never a success. When it has spoken, or its time is up, everything it started is killed.
"""

from __future__ import annotations
import __future__

import ctypes
import functools
import gc
import json
import operator
import os
import secrets
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Never

import pytest

from distillctl.core.execution.collected import Collected, Job, pytest_arguments, take_for_imported
from distillctl.core.execution.instrument import add_witnesses, code_of, parse
from distillctl.core.execution.processes import anonymous_bytes, descendants, empty, kill, others
from distillctl.core.execution.witness import Witness

_REPORT_BYTES = 1 << 20
_FUTURE_FLAGS = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_GLANCE = 0.05  # seconds between two looks at the memory in use


class Runner:
    """A pytest plugin: takes the place of pytest's own loop over the collected tests."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._alone = os.getpid() == 1
        self._jobs = os.fdopen(spec["jobs"], "r", encoding="utf-8")
        self._results = spec["results"]
        self._kept = {entry for folder in spec["scratch"] for entry in Path(folder).iterdir()}
        self._libc = ctypes.CDLL(None)
        self._errors: dict[str, str] = {}
        self._reports: list[Any] = []
        for descriptor in (spec["jobs"], spec["results"]):
            os.set_inheritable(descriptor, False)

    # --- pytest's hooks -------------------------------------------------------------------------------------

    def pytest_collectreport(self, report: Any) -> None:
        """Remembers which files cannot be collected, and why."""
        if report.failed or report.skipped:
            self._errors[report.nodeid] = _last_line(report.longrepr)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remembers how each phase of the running test ended."""
        self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        """Runs what is asked for until nothing more is."""
        collected = Collected(session.items, self._spec["most_items"])
        gc.collect()
        gc.freeze()  # pages that forks share stay shared
        self.send({"collected": len(session.items), "errors": self._errors})
        self.serve(collected)
        return True

    # --- jobs -----------------------------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        """One line to the supervisor."""
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self._results, data) :]

    def serve(self, collected: Collected | None) -> None:
        """Runs jobs until their pipe is closed. ``collected`` is None where each fork collects for itself."""
        for line in self._jobs:
            job = json.loads(line)
            if collected is not None and not collected.items(job):
                reason = self._errors.get(job["file"], "") or next(iter(self._errors.values()), "no such test")
                self.send({"status": "not collected", "detail": reason})
                continue
            self.send(self._run(job, collected))

    def _run(self, job: Job, collected: Collected | None) -> dict[str, Any]:
        secret = secrets.token_hex(16)
        reading, writing = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._in_fork(job, collected, writing, secret)
        os.close(writing)
        try:
            status, data = self._wait(child, reading, started + job["timeout"])
        finally:
            os.close(reading)
            self._kill_all(child)
        found = {"status": status, "seconds": time.monotonic() - started}
        if status == "ended":
            found |= _opened(data, secret)
        self._clean()
        return found

    def _wait(self, child: int, reading: int, deadline: float) -> tuple[str, bytes]:
        """How a fork ended (``ended``, ``died``, ``timeout``, ``memory``), and what it said."""
        data = b""
        open_ = True
        at_start = anonymous_bytes(os.getpid())
        while time.monotonic() < deadline:
            if open_:
                ready, _, _ = select.select([reading], [], [], min(_GLANCE, max(0, deadline - time.monotonic())))
                chunk = os.read(reading, 65536) if ready else None
                open_ = chunk != b""
                data += chunk or b""
            else:
                time.sleep(0.002)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                while chunk := _read_now(reading):
                    data += chunk
                return ("ended" if status == 0 else "died"), data
            if len(data) > _REPORT_BYTES:
                return "died", b""
            if self._grown(at_start) > self._spec["total_bytes"]:
                return "memory", b""
        return "timeout", b""

    def _grown(self, at_start: int) -> int:
        """Bytes that processes below this one have come to own beyond what a fork of it starts with."""
        return sum(max(0, anonymous_bytes(process) - at_start) for process in self._others())

    def _others(self) -> Iterator[int]:
        return others() if self._alone else descendants(os.getpid())

    def _kill_all(self, child: int) -> None:
        """Ends every process that the fork has started, and the fork; returns when all are gone."""
        for _ in range(1000):
            if self._alone:
                try:
                    os.kill(-1, signal.SIGKILL)  # process 1: everything else in its namespace, and nothing outside
                except ProcessLookupError:
                    return
            else:
                for process in list(descendants(os.getpid())):
                    kill(process)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.002)
        sys.exit("processes of a test cannot be killed")

    def _clean(self) -> None:
        """Takes away what the last test left; where that cannot be, this process ends rather than go on with it."""
        for folder in self._spec["scratch"]:
            empty(Path(folder), self._kept)

    # --- in the fork ----------------------------------------------------------------------------------------

    def _in_fork(self, job: Job, collected: Collected | None, writing: int, secret: str) -> Never:
        report: dict[str, Any] = {}
        try:
            os.setsid()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # without a namespace nothing else ends it
            os.close(self._results)
            os.close(self._jobs.fileno())
            self._libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            _limit_cpu(job["timeout"])
            _own_folder(self._spec["scratch"][0])
            report = self._collect_and_run(job) if collected is None else self.run_items(job, collected)
        finally:  # whatever the tested code raises ends here: it must not reach pytest's main
            _say_and_end(writing, secret, report, sys.exc_info()[1])

    def _collect_and_run(self, job: Job) -> dict[str, Any]:
        once = _Once(self, job, self._spec["most_items"])
        pytest.main(pytest_arguments([job["file"]], self._spec), plugins=[once, self._listening()])
        return once.report or {"not_collected": next(iter(self._errors.values()), "no such test")}

    def _listening(self) -> Any:
        return _Listening(self.pytest_collectreport, self.pytest_runtest_logreport)

    def run_items(self, job: Job, collected: Collected) -> dict[str, Any]:
        """Changes the test's code and runs it with pytest, parameter set by parameter set, until one does not pass."""
        witness = Witness(_is_failure)
        try:
            asserting = _change(job, collected.functions(job), witness)
        except (SyntaxError, ValueError, RecursionError, MemoryError, LookupError) as error:
            return {"invalid": f"{type(error).__name__}: {error}"[:200]}
        outcomes: list[dict[str, Any]] = []
        for item in collected.items(job):
            self._reports.clear()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            outcomes.append({"id": item.nodeid, **_phases(self._reports)})
            if outcomes[-1]["outcome"] == "failed" or witness.failures:
                break
        return {
            "items": outcomes,
            "asserting": asserting,
            "started": witness.started,
            "ended": witness.ended,
            "failures": witness.failures[:3],
            "errors": witness.errors[:3],
            "ran": sorted(witness.ran),
            "can_fail": sorted(witness.can_fail),
        }


class _Once:
    """Runs one job in pytest's place and keeps its report."""

    def __init__(self, runner: Runner, job: Job, most: int) -> None:
        self._runner = runner
        self._most = most
        self._job = job
        self.report: dict[str, Any] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        """The one job."""
        collected = Collected(session.items, self._most)
        if collected.items(self._job):
            self.report = self._runner.run_items(self._job, collected)
        return True


class _Listening:
    """Two of the runner's hooks without its loop."""

    def __init__(self, on_collect: Any, on_report: Any) -> None:
        self._on_collect = on_collect
        self._on_report = on_report

    def pytest_collectreport(self, report: Any) -> None:
        self._on_collect(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._on_report(report)


def _change(job: Job, functions: Sequence[FunctionType], witness: Witness) -> int:
    """Gives the test's function the job's code; how many of the placed assertions inspect a value.

    Raises SyntaxError or ValueError for source that does not compile, LookupError where the function is not there.
    """
    if not functions:
        raise LookupError(f"no function {job['name']} at line {job['line']}")
    tree = parse(job["source"])
    spans = [(tuple(start), tuple(end)) for start, end in job["spans"]]
    global_name = f"__witness_{secrets.token_hex(8)}__"
    asserting = add_witnesses(tree, job["name"], spans, global_name, mutated=job["mutated"])
    flags = functions[0].__code__.co_flags & _FUTURE_FLAGS
    code = code_of(tree, job["name"], job["line"], functions[0].__code__.co_filename, flags)
    for function in functions:
        function.__code__ = code
        function.__globals__[global_name] = witness
    return asserting


def _is_failure(error: BaseException) -> bool:
    return isinstance(error, AssertionError | pytest.fail.Exception)


def _phases(reports: Sequence[Any]) -> dict[str, Any]:
    """``passed``, ``failed`` or ``skipped`` (expected failures too), with the phase and the reason."""
    for report in reports:
        if report.failed:
            return {"outcome": "failed", "detail": f"{report.when}: {_last_line(report.longrepr)}"}
        if report.skipped or hasattr(report, "wasxfail"):
            return {"outcome": "skipped", "detail": _last_line(report.longrepr)}
    passed = {report.when for report in reports} == {"setup", "call", "teardown"}  # a subtest is one more call
    return {"outcome": "passed" if passed else "failed", "detail": ""}


def _last_line(longrepr: Any) -> str:
    if isinstance(longrepr, tuple):  # a skip: file, line, reason
        return str(longrepr[2])[:200]
    lines = [line for line in str(longrepr).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def _opened(data: bytes, secret: str) -> dict[str, Any]:
    """The report in what a fork said, or that it said none that can be believed."""
    try:
        report = json.loads(data)
        honest = secrets.compare_digest(str(report.pop("secret")).encode(), secret.encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        honest, report = False, {}
    return {"report": report} if honest else {"status": "died"}


def _read_now(descriptor: int) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], 0)
    return os.read(descriptor, 65536) if ready else b""


def _say_and_end(writing: int, secret: str, report: dict[str, Any], raised: BaseException | None) -> Never:
    """A fork's last words: its report, or what it raised. With none it counts as dead."""
    try:
        if raised is not None:
            report = {"error": f"{type(raised).__name__}: {raised}"[:200]}
        data = json.dumps({"secret": secret, **report}).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _limit_cpu(timeout: float) -> None:
    import resource

    seconds = int(timeout) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _own_folder(scratch: str) -> None:
    folder = tempfile.mkdtemp(dir=scratch)
    os.chdir(folder)
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = folder
    tempfile.tempdir = folder


def main(spec: dict[str, Any]) -> int:
    """Collects and serves; exit status."""
    libc = ctypes.CDLL(None)
    # No process of the same user may look into this one or write into its memory.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    take_for_imported(spec["package_root"])
    runner = Runner(spec)
    if not spec["collect"]:
        runner.send({"collected": 0, "errors": {}})
        runner.serve(None)
        return 0
    return int(pytest.main(pytest_arguments(spec["files"], spec), plugins=[runner]))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""Predictions that attack: none gets out, none counts as passing, and the next test runs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillctl.core.data.records import Record
from distillctl.core.execution.outcomes import ASSERTS_NOTHING, ERROR, FAILED, TIMEOUT, Verdict
from distillctl.core.execution.placing import find_place
from distillctl.core.execution.session import Session
from tests.core.execution.shelf import install_shelf, open_session

SECRET = "distillctl-test-secret"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_SECRET", SECRET)
        yield install_shelf(tmp_path_factory.mktemp("installed") / "site", patch)["test_fixture@0"]


@pytest.fixture(scope="module")
def session(record: Record) -> Iterator[Session]:
    with open_session(record) as session:
        yield session


@pytest.fixture(scope="module")
def hasty(record: Record) -> Iterator[Session]:
    """A session with less patience."""
    with open_session(record, timeout=4) as session:
        yield session


def run(session: Session, record: Record, text: str) -> Verdict:
    place = find_place(record)
    assert place is not None
    return session.run(place, text)


def check(session: Session, record: Record, text: str, *allowed: str) -> None:
    """The prediction ends as allowed, never as a pass."""
    found = run(session, record, text)
    assert found.outcome in allowed, (text, found)
    assert not found.passed


def check_that_it_goes_on(session: Session, record: Record) -> None:
    """An honest assertion passes."""
    found = run(session, record, record.target)
    assert found.passed_and_can_fail, found


REPORTS = """\
import _pytest.runner, _pytest.reports, pytest
_pytest.reports.TestReport.failed = False
_pytest.reports.TestReport.passed = True
_pytest.reports.TestReport.outcome = 'passed'
_pytest.runner.check_interactive_exception = lambda *a: False
assert size == 4"""
FORGERY = """\
import os, json
forged = json.dumps({'secret': '0' * 32, 'items': [], 'asserting': 1, 'started': 1, 'ended': 1, 'failures': []})
for fd in range(3, 64): exec('try: os.write(fd, forged.encode())\\nexcept OSError: pass')
os._exit(0)"""
QUICK = {
    "ends the process as if all were well": ("import os; os._exit(0)", (ERROR,)),
    "leaves by an exception": ("raise SystemExit(0)", (ERROR,)),
    "leaves pytest": ("import pytest; pytest.exit('all passed', 0)", (ERROR,)),
    "prints a fake summary": ("print('=== 1 passed in 0.01s ==='); assert size == 4", (FAILED,)),
    "patches pytest to report success": (REPORTS, (FAILED,)),
    "writes a report into every open file": (FORGERY, (ERROR,)),
    "kills its parent": ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", (ASSERTS_NOTHING, ERROR)),
    "kills all it can": ("import os, signal; os.kill(-1, signal.SIGKILL)", (ASSERTS_NOTHING, ERROR)),
    "asserts by doing": ("assert not __import__('shutil').rmtree('/etc', ignore_errors=True)", (ASSERTS_NOTHING,)),
    "catches all": ("try: assert size == 4\nexcept BaseException: pass", (ASSERTS_NOTHING,)),
}


def test_quick_attacks_do_not_pass(session: Session, record: Record) -> None:
    for text, allowed in QUICK.values():
        check(session, record, text, *allowed)
    check_that_it_goes_on(session, record)


def test_files_cannot_be_deleted_or_written(session: Session, record: Record, tmp_path: Path) -> None:
    place = find_place(record)
    assert place is not None
    victim = tmp_path / "victim"
    victim.write_text("here")
    for path in (victim, place.file, Path(os.__file__)):
        check(session, record, f"import os; os.remove({str(path)!r})", ERROR)
        check(session, record, f"open({str(path)!r}, 'a')", ERROR)
        assert path.is_file()
    assert victim.read_text() == "here"
    assert not run(session, record, f"import os; assert os.path.exists({str(victim)!r}) and size").passed


def test_the_users_environment_cannot_be_read(session: Session, record: Record) -> None:
    assert os.environ["DISTILLCTL_SECRET"] == SECRET
    check(session, record, "import os; assert os.environ['DISTILLCTL_SECRET'] and size", ERROR)
    seen = "''.join(open(f'/proc/{p}/environ').read() for p in ('self', 1))"
    check(session, record, f"import os; assert {SECRET!r} in {seen} and size", ERROR, FAILED)


def test_there_is_no_network(session: Session, record: Record) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        called: list[object] = []

        def accept() -> None:
            with contextlib.suppress(TimeoutError):
                called.append(server.accept())

        listener = threading.Thread(target=accept)
        listener.start()
        port = server.getsockname()[1]
        check(session, record, f"import socket; socket.create_connection(('127.0.0.1', {port}), 0.1)", ERROR)
        listener.join()
    assert called == []


def processes_with(word: str) -> list[str]:
    """Command lines of all processes of this machine that hold a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


SLOW = {
    "sleeps for ever": ("import time; time.sleep(1e6)", (TIMEOUT,)),
    "computes for ever": ("while True: pass", (TIMEOUT,)),
    "ignores signals": (
        "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 14, 15)]; time.sleep(1e6)",
        (TIMEOUT,),
    ),
    "forks without end": ("import os\nwhile True: os.fork()", (ERROR, TIMEOUT)),
    "starts threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        (ERROR, TIMEOUT),
    ),
    "allocates without end": ("heap = []\nwhile True: heap.append(bytearray(1 << 26))", (ERROR, TIMEOUT)),
    "allocates in many processes": (
        "import os, time; [os.fork() for _ in range(4)]; x = bytearray(1 << 29); time.sleep(99)",
        (ERROR, TIMEOUT),
    ),
    "writes a huge file": ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 24))", (ERROR,)),
    "fills the scratch space": (
        "for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(1 << 25))",
        (ERROR, TIMEOUT),
    ),
    "leaves a daemon": (
        "import subprocess; subprocess.Popen(['sleep', '98765'], start_new_session=True); assert size == 4",
        (FAILED,),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", SLOW)
def test_slow_attacks_do_not_pass(attack: str, hasty: Session, record: Record) -> None:
    text, allowed = SLOW[attack]
    started = time.monotonic()
    check(hasty, record, text, *allowed)
    check_that_it_goes_on(hasty, record)
    assert time.monotonic() - started < 15
    assert processes_with("98765") == []


@pytest.mark.slow
@pytest.mark.parametrize("sandboxed", [True, False])
def test_nothing_outlives_a_session(sandboxed: bool, record: Record) -> None:
    with open_session(record, timeout=60, sandboxed=sandboxed) as session:
        place = find_place(record)
        assert place is not None
        running = threading.Thread(
            target=session.run, args=(place, "import os; os.execvp('sleep', ['sleep', '87654'])")
        )
        running.start()
        deadline = time.monotonic() + 20
        while not processes_with("sleep 87654") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_with("sleep 87654")
        session.kill()
        running.join(20)
    deadline = time.monotonic() + 5
    while processes_with("sleep 87654") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with("sleep 87654") == []


@pytest.mark.slow
def test_without_a_sandbox_time_and_memory_are_limited_all_the_same(record: Record) -> None:
    with open_session(record, timeout=3, sandboxed=False) as session:
        for text in (
            "import time; time.sleep(1e6)",
            "import os; os._exit(0)",
            "heap = []\nwhile True: heap.append(bytearray(1 << 26))",
            "import subprocess; subprocess.Popen(['sleep', '98765'], start_new_session=True); assert size == 4",
        ):
            check(session, record, text, ERROR, TIMEOUT, FAILED)
            check_that_it_goes_on(session, record)
        assert processes_with("sleep 98765") == []

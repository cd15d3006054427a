"""The sandbox that predictions run in: what it gives, whether this system allows it, and starting one."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distillctl.core.errors import UsageError

GIB = 1024**3
MEMORY_BYTES = 4 * GIB
"""Address space of one process."""
TOTAL_BYTES = 2 * GIB
"""What a test and all that it starts may come to own beyond the libraries' own memory."""
FILE_BYTES = 64 * 1024**2
TMP_BYTES = 256 * 1024**2
PROCESSES = 48
"""Processes and threads at once."""

_LAUNCHER = Path(__file__).with_name("launcher.py")  # not imported: its modules are not everywhere
_FOLDER = "distillctl-run-"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/fonts")
_PROBE = """
import os, socket
folder = {folder!r}
seen = os.listdir(folder) if os.path.isdir(folder) else []
assert not any(name.startswith({prefix!r}) for name in seen), "other files can be seen"
try:
    open(os.path.join({python!r}, ".distillctl-probe"), "w")
except OSError:
    pass
else:
    raise AssertionError("installed packages can be written")
assert {{name for _, name in socket.if_nameindex()}} <= {{"lo"}}, "there is a network"
assert os.getpid() == 1, "there are other processes"
"""


@dataclass(frozen=True, slots=True)
class Isolation:
    """Whether programs run in a sandbox, or, by the user's own word, without one."""

    sandboxed: bool

    @property
    def words(self) -> str:
        """How reports name it."""
        if self.sandboxed:
            return "sandbox: no network, own processes, read-only packages, nothing else of the file system"
        return "NO SANDBOX (--unsafe-no-sandbox): time, memory and environment limited, files and network open"


def choose_isolation(unsafe_no_sandbox: bool) -> Isolation:
    """The sandbox, or none where that was asked for. Raises UsageError, with the reason, where there can be none."""
    if sys.platform != "linux":
        raise UsageError(f"--run-tests: needs Linux, for its namespaces and limits. This is {sys.platform}")
    if unsafe_no_sandbox:
        return Isolation(sandboxed=False)
    reason = refusal()
    if reason is not None:
        raise UsageError(
            f"--run-tests: this system allows no sandbox ({reason}). Allow user namespaces, or run the predictions "
            "unprotected in a machine that may break with --unsafe-no-sandbox"
        )
    return Isolation(sandboxed=True)


@cache
def refusal() -> str | None:
    """Why there can be no sandbox here, tried with a small program; None where it works."""
    code = _PROBE.format(folder=tempfile.gettempdir(), prefix=_FOLDER, python=sys.prefix)
    with Started([sys.executable, "-I", "-S", "-c", code], Isolation(sandboxed=True), readable=()) as program:
        status = program.process.wait(30)
        words = program.error_words()
    if status == 0:
        return None
    return words or f"the trial program ended with status {status}"


def readable_paths(roots: Sequence[Path]) -> list[str]:
    """What a program may read: the system's libraries, this Python, distillctl's code, and ``roots``.

    Paths with ``..`` or through links are shown at both of their names.
    """
    paths = [*_SYSTEM, sys.prefix, sys.exec_prefix, sys.base_prefix, *sysconfig.get_paths().values()]
    paths += [str(Path(__file__).parents[2]), *map(str, roots), sys.executable, os.path.realpath(sys.executable)]
    both = [path for given in paths for path in (os.path.normpath(given), os.path.realpath(given))]
    chosen = sorted({path for path in both if Path(path).exists()}, key=lambda path: (path.count("/"), path))
    kept: list[str] = []
    for path in chosen:
        if path != "/" and not any(path.startswith(f"{shown}/") for shown in kept if not Path(shown).is_symlink()):
            kept.append(path)
    return kept


def environment(scratch: str, roots: Sequence[Path]) -> dict[str, str]:
    """All that a program is told: nothing of the user's own environment."""
    code = [str(Path(__file__).parents[3]), *(str(root) for root in roots)]
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "MPLCONFIGDIR": scratch,
        "MPLBACKEND": "Agg",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(code)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }


class Started:
    """A program in a sandbox with a pipe in each direction; everything it started dies when the block ends."""

    def __init__(
        self, argv: Sequence[str], isolation: Isolation, readable: Sequence[Path], spec: dict[str, Any] | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        scratch = "/tmp" if isolation.sandboxed else str(self._folder)
        jobs_read, self._jobs = os.pipe()
        self._results, results_write = os.pipe()
        given = [*argv]
        if spec is not None:
            folders = ["/tmp", "/dev/shm"] if isolation.sandboxed else [scratch]
            given.append(json.dumps(spec | {"jobs": jobs_read, "results": results_write, "scratch": folders}))
        orders = {
            "namespaces": isolation.sandboxed,
            "root": str(self._folder),
            "readable": readable_paths(readable),
            "argv": given,
            "environment": environment(scratch, readable),
            "descriptors": [jobs_read, results_write],
            "memory_bytes": MEMORY_BYTES,
            "file_bytes": FILE_BYTES,
            "tmp_bytes": TMP_BYTES,
            "processes": PROCESSES,
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(orders)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(jobs_read, results_write),
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
            )
        finally:
            os.close(jobs_read)
            os.close(results_write)
        self._rest = b""

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills what still runs, and takes away its folder."""
        for descriptor in (self._jobs, self._results):
            if descriptor >= 0:
                os.close(descriptor)
        self._jobs = self._results = -1
        # The launcher's death takes process 1 of its namespace with it, and that everything else.
        self.process.kill()
        self.process.wait()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, message: dict[str, Any]) -> None:
        """Sends a line. Raises BrokenPipeError where nobody listens any more."""
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self._jobs, data) :]

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line that came back; None where none came in time, or the program has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._results], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._results, 1 << 16) if ready else b""
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def error_words(self) -> str:
        """The last line on the program's standard error."""
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

"""Goes into a sandbox and becomes another program: ``python -m distillctl.core.execution.launcher SPEC``.

A process of its own, because namespaces must be entered before threads exist, and because what it leaves behind (open
files, locks, a large parent) is nothing then. Linux system calls by ctypes; standard library only.

With ``namespaces`` the program is process 1 of a new PID namespace, so that all it ever starts dies with it; it has no
network but an unconnected loopback; its root is a new, small tree: the listed paths, read-only, empty ``/tmp`` and
``/dev/shm`` in memory, a ``/proc`` of its own processes. The rest of the file system, home directories included, is not
there. A root user's program runs as a user who owns nothing; anybody else's needs user namespaces, and keeps its user.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

NOT_AVAILABLE = 70
"""Exit status where the sandbox cannot be made; the reason is on standard error."""

NOBODY = 65534
# Those that systemd lends to services for as long as they run (its "dynamic users"): nobody owns files by them.
_FIRST_USER, _USERS = 61184, 4096
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIGKILL = 9
_OPEN = ("tmp", "dev/shm")
"""What may be written to, in memory."""
_DEVICES = ("null", "zero", "full", "random", "urandom")


class _Refused(Exception):
    """The system does not allow a step."""


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def main(spec: dict[str, Any]) -> Never:
    """Becomes ``spec["argv"]``. Ends with :data:`NOT_AVAILABLE` where a step is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        os.setsid()
        _die_with_parent(libc)
        # Where memory runs out in spite of all limits, this goes first.
        Path("/proc/self/oom_score_adj").write_text("1000")
        if not spec["namespaces"]:
            _limit(spec, extra_processes=_tasks_of_user())
            _become(libc, spec)
        ids = _ids_inside()
        _enter_namespaces(libc)
        child = os.fork()
        if child == 0:
            _build_root(libc, Path(spec["root"]), [Path(path) for path in spec["readable"]], spec["tmp_bytes"], ids)
            _drop_user(*ids)
            _limit(spec, extra_processes=0)
            _become(libc, spec)
    except (_Refused, OSError) as error:
        print(f"{error}", file=sys.stderr, flush=True)
        os._exit(NOT_AVAILABLE)
    for descriptor in spec["descriptors"]:
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _die_with_parent(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def _become(libc: ctypes.CDLL, spec: dict[str, Any]) -> Never:
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up privileges")
    _die_with_parent(libc)  # again: a change of user forgets it
    os.chdir(spec["environment"]["TMPDIR"])
    for descriptor in spec["descriptors"]:
        os.set_inheritable(descriptor, True)
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])


def _check(result: int, step: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise _Refused(f"{step}: {os.strerror(number)}")


def _enter_namespaces(libc: ctypes.CDLL) -> None:
    flags = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _check(libc.unshare(flags), "namespaces")
        return
    _check(libc.unshare(flags | _CLONE_NEWUSER), "user namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(libc: ctypes.CDLL, source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    result = libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(result, f"mounting {source} on {target}")


def _build_root(libc: ctypes.CDLL, root: Path, readable: Sequence[Path], tmp_bytes: int, ids: tuple[int, int]) -> None:
    """Makes ``root`` the file system: ``readable`` at their own places and nothing else of the old one."""
    os.umask(0o022)  # the program may be another user, who has to get through the folders that are made here
    _mount(libc, "none", Path("/"), "none", _MS_REC | _MS_PRIVATE)
    _mount(libc, "tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4m,mode=755")
    for name in ("proc", "etc", *_OPEN):
        (root / name).mkdir(parents=True)
    for name in _OPEN:  # before what is to be shown: a Python or a package may lie below /tmp
        _mount(libc, "tmpfs", root / name, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={tmp_bytes},mode=1777")
    for path in readable:
        _show(libc, root, path)
    for name in _DEVICES:
        _show(libc, root, Path("/dev") / name)
    user, group = ids
    (root / "etc/passwd").write_text(f"nobody:x:{user}:{group}::/tmp:/bin/false\n")
    (root / "etc/group").write_text(f"nogroup:x:{group}:\n")
    _set_attributes(libc, root, _MountAttr(attr_set=_ATTR_RDONLY | _ATTR_NOSUID), _AT_RECURSIVE)
    for name in _OPEN:
        _set_attributes(libc, root / name, _MountAttr(attr_clr=_ATTR_RDONLY), 0)
    _mount(libc, "proc", root / "proc", "proc", _MS_NOSUID | _MS_NODEV)
    machine = os.uname().machine
    if machine not in _SYS_PIVOT_ROOT:
        raise _Refused(f"pivot_root: not known for {machine}")
    os.chdir(root)
    _check(libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT[machine]), b".", b"."), "pivot_root")
    _check(libc.umount2(b".", _MNT_DETACH), "leaving the old file system")
    os.chdir("/")


def _set_attributes(libc: ctypes.CDLL, path: Path, attributes: _MountAttr, flags: int) -> None:
    result = libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, f"making {path} read-only or not (it needs Linux 5.12)")


def _show(libc: ctypes.CDLL, root: Path, path: Path) -> None:
    """Makes ``path`` visible below ``root``; a symbolic link as one. What does not exist is left out."""
    place = root / path.relative_to("/")
    if place.exists() or place.is_symlink():
        return
    if path.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.readlink())
        return
    if not path.exists():
        return
    if stat.S_ISDIR(path.stat().st_mode):
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(libc, os.fspath(path), place, "none", _MS_BIND | _MS_REC)


def _ids_inside() -> tuple[int, int]:
    """User and group of the program. Under root each sandbox has a user of its own, for as long as it lives: the system
    counts a user's processes over all namespaces, and one sandbox's would be taken from another's.
    """
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    return _FIRST_USER + os.getpid() % _USERS, NOBODY


def _drop_user(user: int, group: int) -> None:
    """A root user's program becomes another's; capabilities go with the user, or, in a user namespace, with exec."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)


def _limit(spec: dict[str, Any], extra_processes: int) -> None:
    """What each process may use; :mod:`~distillctl.core.execution.runner` watches them together."""
    limits = {
        resource.RLIMIT_AS: spec["memory_bytes"],
        resource.RLIMIT_FSIZE: spec["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 512,
        resource.RLIMIT_NPROC: spec["processes"] + extra_processes,
    }
    for what, value in limits.items():
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _tasks_of_user() -> int:
    """Processes and threads that the user has: outside of a namespace the limit counts them all."""
    count, user = 0, os.geteuid()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += sum(1 for _ in (entry / "task").iterdir())
        except OSError:  # ended meanwhile
            continue
    return count


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

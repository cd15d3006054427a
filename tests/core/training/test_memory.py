"""Memory between steps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from distillctl.core.training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def step():
    for _ in range(4):
        torch.ones(16, 2**20).mul(2)  # 64 MiB twice

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is asked")
def test_the_memory_of_a_step_serves_the_next() -> None:
    faults = {}
    for how in ("kept", "as it is"):
        made = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(made.stdout)
    assert faults["kept"] < 100
    assert faults["as it is"] > 10_000

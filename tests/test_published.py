"""What is published can be rebuilt from what is committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).resolve().parents[1] / "results/published/objective-comparison"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(path.parent.relative_to(EXPERIMENT).as_posix() for path in EXPERIMENT.rglob("report.md"))
)
def test_the_published_tables_are_those_of_the_committed_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, EXPERIMENT / "report_all.py", "--only", name, "-o", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / name / "report.md").read_bytes() == (EXPERIMENT / name / "report.md").read_bytes()

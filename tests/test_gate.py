"""The gate besides behaviour: style, types, import layers, and documentation that names what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from distillctl.cli import app

ROOT = Path(__file__).parents[1]
CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "layers": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_static_check(check: str) -> None:
    program, *arguments = CHECKS[check]
    command = [str(Path(sys.executable).parent / program), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def commands() -> list[str]:
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_and_stands_in_the_readme(command: str) -> None:
    assert typer.main.get_command(app).commands[command].help  # type: ignore[attr-defined]
    assert f"`distillctl {command}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_in_the_readme_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## The house", 1)[1].split("```")[1]
    package = [line.split()[0] for line in tree.splitlines() if re.match(r"    \S", line) or re.match(r"  \S", line)]
    core = {path.name + "/" * path.is_dir() for path in (ROOT / "distillctl/core").iterdir()}
    top = {path.name + "/" * path.is_dir() for path in (ROOT / "distillctl").iterdir()}
    named = set(package)
    there = {name for name in core | top if not name.startswith("__")}
    assert there - named - {"core/", "assets/"} == set()
    assert named - there <= {"core/", "assets/teacher/"}


@pytest.mark.parametrize("file", ["README.md", "prd.md", "distillctl/assets/teacher/README.md"])
def test_no_place_is_left_to_be_filled_in(file: str) -> None:
    assert re.findall(r"@@\w*|TODO|TBD", (ROOT / file).read_text(encoding="utf-8")) == []


def test_files_named_in_the_prd_exist() -> None:
    text = (ROOT / "prd.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:distillctl|configs|tests|\.ci)/[\w./*-]+)`", text)
    assert paths
    missing = [path for path in paths if not list(ROOT.glob(path))]
    assert missing == []

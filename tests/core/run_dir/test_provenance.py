"""Provenance: the commit of the right repository, versions, hardware."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from distillctl.core.run_dir import git_state, hardware, library_versions, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    result = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "checkout" / "distillctl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    return package


def test_a_checkout_has_a_commit_and_may_be_dirty(package: Path) -> None:
    commit = git(package.parent, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "new.py").write_text("")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_a_repository_around_the_environment_is_not_the_source(package: Path) -> None:
    installed = package.parent / "venv" / "site-packages" / "distillctl"
    installed.mkdir(parents=True)
    assert git_state(installed) == {"commit": None, "dirty": None}


def test_without_git_the_commit_is_unknown(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(package) == {"commit": None, "dirty": None}


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", ("pydantic", "no-such-library"))
    versions = library_versions()
    assert versions["pydantic"] == metadata.version("pydantic")
    assert versions["no-such-library"] is None
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_hardware_does_not_load_torch() -> None:
    code = "import sys; from distillctl.core.run_dir import hardware; hardware(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
    facts = hardware()
    assert facts["cores"] >= 1
    assert facts["processor"]

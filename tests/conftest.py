"""Fixtures of more than one test file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import short_run, stub_checkout


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a trained short run. Never written to: tests that restart it copy it."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    finished = short_run.run("train", run_dir)
    assert finished.returncode == 0, finished.stdout
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained short run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The noxfile and two cases, first and second, whose steps exit as they are told."""
    return stub_checkout.make(tmp_path)

"""Which build of torch a session installs, from indexes of tiny wheels."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import stub_checkout
from tests.package_index import served, write_wheel

pytestmark = pytest.mark.sessions

ENVIRONMENT = "lts" if sys.version_info < (3, 12) else "dev"
UV = """#!/bin/sh
[ "$1" = pip ] || exit 1
echo "$@" >> uv_calls.txt
[ -z "$UV_FAILS" ] || exit 1
python="$5"
shift 5
exec "$python" -m pip install "$@"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that pins torch, a package of its CUDA build and another one."""
    (tmp_path / "checkout").mkdir()
    folder = stub_checkout.make(tmp_path / "checkout")
    (folder / "requirements.txt").write_text("torch==9.9\nother==1.0\n")
    (folder / "requirements-cuda.txt").write_text("nvidia-one==1.0\n")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of two indexes: ``plain`` has everything but the CPU build, ``cpu`` that alone."""
    for name, version in (("torch", "9.9"), ("other", "1.0"), ("nvidia-one", "1.0")):
        write_wheel(tmp_path / "index/plain", name, version)
    write_wheel(tmp_path / "index/cpu", "torch", "9.9+cpu")
    with served(tmp_path / "index") as address_and_requests:
        yield address_and_requests


def install(checkout: Path, address: str, cpu_index: str, **variables: str) -> str:
    """The output of a first session, which installs the pins."""
    pip = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"{address}/plain"}
    outcome = stub_checkout.nox(
        checkout, "-s", "doctor", no_venv=False, **{**pip, "CRASH_TEST_TORCH_INDEX": cpu_index, **variables}
    )
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


def installed(checkout: Path) -> set[str]:
    """Name and version of each installed package, without those of an empty environment."""
    places = (checkout / ".nox" / ENVIRONMENT).glob("lib/python*/site-packages/*.dist-info")
    return {place.stem for place in places if not place.stem.startswith(("pip-", "setuptools-"))}


def test_the_cpu_build_that_pip_sees_is_taken_without_asking_anybody(
    checkout: Path, index: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, asked = index
    output = install(checkout, address, f"{address}/cpu", PIP_FIND_LINKS=str(tmp_path / "index/cpu/torch"))
    assert installed(checkout) == {"torch-9.9+cpu", "other-1.0"}
    assert not [path for path in asked if path.startswith("/cpu/")]
    assert "asking" not in output
    assert "uv binary not found" not in output


def test_pytorchs_index_is_asked_for_torch_alone(checkout: Path, index: tuple[str, list[str]]) -> None:
    address, asked = index
    output = install(checkout, address, f"{address}/cpu")
    assert installed(checkout) == {"torch-9.9+cpu", "other-1.0"}
    assert {path.split("/")[2] for path in asked if path.startswith("/cpu/")} == {"torch"}
    assert f"torch==9.9+cpu is not in pip's own index, asking {address}/cpu" in output


def test_the_cuda_build_is_installed_where_no_cpu_build_can_be_had(
    checkout: Path, index: tuple[str, list[str]]
) -> None:
    """A line says why and what it costs; the second session installs nothing."""
    address, asked = index
    with socket.socket() as taken:  # not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        output = install(checkout, address, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert installed(checkout) == {"torch-9.9", "other-1.0", "nvidia_one-1.0"}
    assert "Installing the CUDA build, which gives the same results on a CPU: 3 GB to download" in output
    assert "No matching distribution found for torch==9.9+cpu" in output
    asked.clear()
    again = install(checkout, address, f"{address}/cpu")
    assert not asked
    assert "pip install" not in again


@pytest.mark.parametrize("fails", [False, True])
def test_uv_installs_the_rest_where_it_is_on_path_and_pip_after_it_failed(
    checkout: Path, index: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(UV)
    (tmp_path / "bin/uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    address, _ = index
    output = install(checkout, address, f"{address}/cpu", UV_FAILS="yes" if fails else "")
    assert installed(checkout) == {"torch-9.9+cpu", "other-1.0"}
    (call,) = (checkout / "uv_calls.txt").read_text().splitlines()
    assert call.startswith("pip install --quiet --python ")
    assert call.endswith(f"--no-deps -r {checkout}/requirements.txt")
    assert ("uv could not install the pins" in output) is fails

"""tasks/environment.py and the pins: exact, complete for each Python, naming no machine."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tasks.machine import packages
from tasks.machine.packages import differences, read_pins
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import CUDA_PINS, GPU_PINS, PINS

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}


def pins_of(python: str, path: Path = PINS) -> dict[str, str]:
    marker = {**LINUX, "python_version": python, "python_full_version": f"{python}.5"}
    return {name: str(pin.specifier)[2:] for name, pin in read_pins(path, marker).items()}


@pytest.mark.parametrize(
    ("python", "torch", "core"),
    [
        ("3.10", "2.13.0", "0.16.1"),
        ("3.11", "2.13.0", "0.16.1"),
        ("3.12", "2.11.0", "0.19.2"),
        ("3.13", "2.11.0", "0.19.2"),
    ],
)
def test_each_python_gets_its_set(python: str, torch: str, core: str) -> None:
    pins = pins_of(python)
    assert (pins["torch"], pins["megatron-core"]) == (torch, core)
    assert ("tomli" in pins) == (python == "3.10")
    cuda = pins_of(python, CUDA_PINS)
    assert cuda["nvidia-nccl-cu13"] == {"2.13.0": "2.29.7", "2.11.0": "2.28.9"}[torch]
    assert not set(cuda) & set(pins)


def test_the_pins_are_closed_under_what_the_packages_need() -> None:
    """All dependencies of the pins, on this interpreter, are pinned."""
    pins = read_pins(PINS) | (read_pins(CUDA_PINS) if packages.torch_cuda_version() else {})
    for name in pins:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            needed = pins.get(requirement.name.lower().replace("_", "-").replace(".", "-"))
            assert needed, f"{name} needs {text}"
            version = str(needed.specifier)[2:]
            assert requirement.specifier.contains(version, prereleases=True), f"{name} needs {text}"


@pytest.mark.parametrize("path", [PINS, CUDA_PINS, GPU_PINS])
def test_pins_name_no_host_and_no_place(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?:|file:|--find-links|--index|--extra|@ ", text)


def test_gpu_pins_do_not_contradict_the_others() -> None:
    dev, gpu = pins_of("3.12") | pins_of("3.12", CUDA_PINS), pins_of("3.12", GPU_PINS)
    both = set(dev) & set(gpu) - {packages.BESIDE_TORCH}
    assert not both
    assert gpu["transformer-engine"] == gpu["transformer-engine-torch"] == "2.20.2"
    assert gpu[packages.BESIDE_TORCH] == "2.31.2"


@pytest.mark.parametrize(
    "line", ["torch", "torch>=2", "torch==2.*", "torch==2.1,!=2.2", "torch @ file:///x", "==1"]
)
def test_a_line_that_pins_nothing_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "pins.txt").write_text(f"# comment\nnumpy==1.0\n{line}\n")
    with pytest.raises(UsageError, match="line 3"):
        read_pins(tmp_path / "pins.txt")


def test_a_package_pinned_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text('Ruff==1.0\nruff==2.0 ; python_version < "3"\nruff==1.1\n')
    with pytest.raises(UsageError, match="line 3: ruff is pinned twice"):
        read_pins(tmp_path / "pins.txt")


def test_differences_are_all_named() -> None:
    pins = {name: Requirement(f"{name}==1.0") for name in ("same", "local", "other", "missing")}
    installed = {"same": "1.0", "local": "1.0+cpu", "other": "1.0.1", "extra": "3", "pip": "23"}
    assert differences(pins, installed) == [
        "missing: not installed, pinned is ==1.0",
        "other: 1.0.1 is installed, pinned is ==1.0",
        "extra: 3 is installed, but not pinned",
    ]


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = None\n", None),
        ("cuda: Optional[str] = '13.0'\nhip = None\n", "13.0"),
        ("cuda = '12.8'", "12.8"),
    ],
)
def test_the_build_of_torch_is_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cuda: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text(f"__version__ = '2.13.0'\n{text}")
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    (tmp_path / "torch-2.13.0.dist-info/METADATA").write_text("Name: torch\nVersion: 2.13.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.torch_cuda_version() == cuda


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Makes the installed packages those of these pins, with torch's build for CUDA or for the CPU."""

    def install(*files: Path, cuda: str | None = None, **others: str) -> None:
        pins = {name: str(pin.specifier)[2:] for file in files for name, pin in read_pins(file).items()}
        monkeypatch.setattr(packages, "installed_versions", lambda: pins | others)
        monkeypatch.setattr(packages, "torch_cuda_version", lambda: cuda)
        monkeypatch.setattr(packages, "newer_nccl", lambda: Path("libnccl.so.2"))

    return install


def test_both_builds_of_torch_are_the_pinned_environment(installed) -> None:
    """The packages for CUDA belong to one of them."""
    installed(PINS)
    packages.verify(gpu=False, dependencies=False)
    installed(PINS, CUDA_PINS, cuda="13.0")
    packages.verify(gpu=False, dependencies=False)
    installed(PINS, cuda="13.0")
    with pytest.raises(CannotRun, match="nvidia-cublas: not installed"):
        packages.verify(gpu=False, dependencies=False)
    installed(PINS, CUDA_PINS)
    with pytest.raises(CannotRun, match=r"nvidia-cublas: \S+ is installed, but not pinned"):
        packages.verify(gpu=False, dependencies=False)


def test_a_gpu_needs_torchs_cuda_build(installed) -> None:
    installed(PINS)
    with pytest.raises(CannotRun, match="this is the CPU build, a GPU needs the CUDA build"):
        packages.verify(gpu=True, dependencies=False)


def test_verify_reports_all_problems_together(installed) -> None:
    installed(PINS, numpy="1.0", unknown="3")
    with pytest.raises(CannotRun) as caught:
        packages.verify(gpu=False, dependencies=False)
    for problem in ("numpy: 1.0 is installed, pinned", "unknown: 3 is installed, but not pinned"):
        assert problem in str(caught.value)

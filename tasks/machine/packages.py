"""The pinned environment: compare installed versions with the pins."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tasks.machine import platforms
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import CUDA_PINS, GPU_PINS, PINS

BESIDE_TORCH = "nvidia-nccl-cu13"  # requirements-gpu.txt has a newer one, in a folder of its own
# Compilers of nvidia-cudnn-frontend: gigabytes that this harness never imports (requirements-gpu.txt).
NOT_INSTALLED = frozenset({"nvidia-cutlass-dsl"})
UNPINNED = frozenset({"pip"})  # each tool that creates environments brings its own


def read_pins(path: Path, marker_environment: Mapping[str, str] | None = None) -> dict[str, Requirement]:
    """Pins that hold for this interpreter, or for the one that ``marker_environment`` describes, by package.

    Raises:
        UsageError: a line that is no pin of one exact version, or a package pinned twice.
    """
    pins: dict[str, Requirement] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise UsageError(f"{path}, line {number}: {text!r} is no requirement: {error}") from error
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise UsageError(f"{path}, line {number}: {text!r} does not pin one exact version with ==")
        if requirement.marker and not requirement.marker.evaluate(dict(marker_environment or {})):
            continue
        name = canonicalize_name(requirement.name)
        if name in pins:
            raise UsageError(f"{path}, line {number}: {name} is pinned twice for this interpreter")
        pins[name] = requirement
    return pins


def installed_versions() -> dict[str, str]:
    """Version of every installed package, by its canonical name."""
    return {
        canonicalize_name(distribution.name): distribution.version
        for distribution in importlib.metadata.distributions()
    }


def differences(pins: Mapping[str, Requirement], installed: Mapping[str, str]) -> list[str]:
    """Packages that are missing, of another version, or not pinned, a line each."""
    lines = []
    for name, requirement in sorted(pins.items()):
        version = installed.get(name)
        if version is None:
            lines.append(f"{name}: not installed, pinned is {requirement.specifier}")
        elif not requirement.specifier.contains(version, prereleases=True):
            lines.append(f"{name}: {version} is installed, pinned is {requirement.specifier}")
    unpinned = sorted(set(installed) - set(pins) - UNPINNED)
    return lines + [f"{name}: {installed[name]} is installed, but not pinned" for name in unpinned]


def installed_file(package: str, path: str) -> Path | None:
    """The location of a file or folder of an installed package; None without the package."""
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda_version() -> str | None:
    """The CUDA that the installed torch was built for, or None; importing torch would take seconds."""
    file = installed_file("torch", "torch/version.py")
    text = file.read_text() if file and file.is_file() else ""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match.group(1) if match else None


def newer_nccl() -> Path | None:
    """The NCCL that the launcher preloads, where ``requirements-gpu.txt`` is installed."""
    library = Path(sys.prefix) / "nccl" / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    return library if library.is_file() else None


def verify(*, gpu: bool, dependencies: bool) -> str:
    """Check this interpreter's environment, and describe it in a line.

    Raises:
        CannotRun: it is not the pinned one; the message has all differences.
    """
    pins = read_pins(PINS)
    problems = []
    if torch_cuda_version():
        pins |= read_pins(CUDA_PINS)
    if gpu:
        pins |= {name: pin for name, pin in read_pins(GPU_PINS).items() if name != BESIDE_TORCH}
        if not torch_cuda_version():
            problems.append("torch: this is the CPU build, a GPU needs the CUDA build")
        if newer_nccl() is None:
            problems.append(f"{BESIDE_TORCH}: the newer one is missing under {sys.prefix}/nccl")
    problems += differences(pins, installed_versions())
    if not problems and dependencies:
        problems += _pip_check()
    if problems:
        raise CannotRun("\n  ".join(["the environment is not the pinned one:", *problems]))
    torch_version = platforms.installed_version("torch")
    return f"{platforms.environment()} environment: {len(pins)} packages as pinned, torch {torch_version}"


def _pip_check() -> list[str]:
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    return broken_dependencies(outcome.stdout + outcome.stderr) if outcome.returncode else []


def broken_dependencies(pip_check: str) -> list[str]:
    """Errors of ``pip check``, a line each, without packages that are not installed on purpose."""
    lines = []
    for line in filter(str.strip, pip_check.splitlines()):
        missing = re.search(r" requires (\S+), which is not installed", line)
        if missing is None or canonicalize_name(missing.group(1)) not in NOT_INSTALLED:
            lines.append(f"pip check: {line}")
    return lines

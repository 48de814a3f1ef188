"""Install the pinned packages into the shared environment.

torch comes first. Without a GPU it is the CPU build, where pip finds one or PyTorch's own index of CPU builds
can be reached: 0.2 GB to download instead of 3 GB. The CUDA build gives the same bits on a CPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

from tasks.machine import platforms
from tasks.util.files import CUDA_PINS, GPU_PINS, PINS

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_INDEX_VARIABLE = "CRASH_TEST_TORCH_INDEX"  # another address of it
_INDEX_TIMEOUT_S = 10


def install_pins(session: nox.Session, *, python_version: str) -> None:
    """Install all pins for the environment's Python.

    Raises:
        CommandFailed: a package cannot be installed; the reason is printed.
    """
    from tasks.machine.packages import read_pins  # not while nox only lists sessions: it needs packaging

    gpus = platforms.on_gpus()
    torch = read_pins(PINS, {"python_version": python_version}).get("torch")
    cpu_build = bool(torch and not gpus and _install_cpu_build(session, str(torch.specifier)))
    _install(session, [PINS] if cpu_build else [PINS, CUDA_PINS])
    if gpus:
        _install_gpu_packages(session)


def _install_cpu_build(session: nox.Session, version: str) -> bool:
    """Install torch's CPU build of ``==version``; False if none can be had."""
    wanted = f"torch{version}+cpu"
    if _pip_installs(session, wanted) is None:
        return True
    index = os.environ.get(CPU_INDEX_VARIABLE) or CPU_INDEX
    session.log(f"{wanted} is not in pip's own index, asking {index}")
    once = ("--retries", "0", "--timeout", str(_INDEX_TIMEOUT_S))
    problem = _pip_installs(session, "--index-url", index, *once, wanted)
    if problem:
        session.log(
            f"{wanted} cannot be had ({problem}). Installing the CUDA build, which gives the same results on"
            f" a CPU: 3 GB to download, not 0.2 GB. {CPU_INDEX_VARIABLE}=URL names another index to ask"
        )
    return problem is None


def _pip_installs(session: nox.Session, *arguments: str) -> str | None:
    """Run pip; None if it succeeds, otherwise its first error."""
    command = [_python(session), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    outcome = subprocess.run(
        [*command, "--no-deps", "--no-compile", *arguments],
        env={name: value for name, value in {**os.environ, **session.env}.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if outcome.returncode == 0:
        return None
    lines = [line.strip() for line in outcome.stdout.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines[-1:] or [f"pip ended with exit code {outcome.returncode}"])[-1]


def _python(session: nox.Session) -> str:
    return str(Path(session.bin, "python"))


def _install(session: nox.Session, pins: list[Path]) -> None:
    """Install what these files pin, by uv if it is on PATH."""
    files = [word for path in pins for word in ("-r", str(path))]
    uv = shutil.which("uv")
    if uv:
        try:
            command = [uv, "pip", "install", "--quiet", "--python", _python(session), "--no-deps"]
            session.run(*command, *files, external=True)
            return
        except nox.command.CommandFailed:
            session.log("uv could not install the pins, see above; pip tries")
    session.install("--no-deps", "--no-compile", *files)


def _install_gpu_packages(session: nox.Session) -> None:
    """Transformer Engine, its torch extension built here, and NCCL beside torch's own."""
    pins = [line.split("#")[0].strip() for line in GPU_PINS.read_text().splitlines()]
    nccl = [pin for pin in pins if pin.startswith("nvidia-nccl")]
    others = [pin for pin in pins if pin and pin not in nccl]
    target = Path(session.virtualenv.location, "nccl")
    session.install("--no-deps", "--no-compile", "--target", str(target), *nccl)
    try:
        session.install("--no-deps", "--no-build-isolation", *others)
    except nox.command.CommandFailed:
        session.log(
            "transformer-engine's torch extension could not be built: install the CUDA 13 toolkit (nvcc on"
            " PATH, CUDA_HOME set) and cuDNN's headers, or use a container that has it with nox --no-venv"
        )
        raise
    session.run("python", "-m", "tasks.ranks.gpu_libraries")

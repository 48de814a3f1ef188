"""The platform: its name, number and placement of ranks, and the environment variables they need.

Facts come from files and from ``nvidia-smi``; CUDA is never initialised here, since ranks are forked later.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import platform as python_platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.machine import host_memory
from tasks.util.exits import CannotRun, TaskError, UsageError

Device = Literal["cpu", "cuda"]

DEVICE_VARIABLE = "CRASH_TEST_DEVICE"  # cpu or cuda: what to use where both could be
# Ranks by the number of GPUs used. Four GPUs are one pipeline, without data parallelism.
WORLD_SIZES = {8: 8, 4: 4, 2: 8, 1: 8}
OLDEST_COMPUTE_CAPABILITY = 8.0  # bf16
MIB_PER_RANK = 3900  # at full size (tasks/machine/gpu_memory.py); on an H100 3.4 GiB a rank were in use

# The same bits on every x86-64 processor with AVX2: no kernel is chosen by what one can do beyond it
# (and tasks/ranks/portable_math.py for what these settings do not reach).
CPU_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
GPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "NCCL_NVLS_ENABLE": "0",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA's presence must not initialise it before a fork
}
# Several ranks on a GPU: with more channels, eight ranks under MPS wait for each other's blocks forever.
SHARED_GPU_ENVIRONMENT = {
    "NCCL_MULTI_RANK_GPU_ENABLE": "1",
    "NCCL_MAX_NCHANNELS": "2",
    "NCCL_MIN_NCHANNELS": "1",
}

# Whole DGX boards, by their number of GPUs.
_BOARDS = {8: ("a100", "h100", "h200", "b200", "b300"), 4: ("gb200", "gb300")}
_QUERY = ("index", "uuid", "name", "memory.total", "compute_cap", "driver_version", "mig.mode.current")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as nvidia-smi describes it."""

    index: int
    uuid: str
    name: str
    memory_mib: int
    compute_capability: float
    driver: str
    partitioned: bool = False  # MIG


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A machine as a run uses it. ``notes`` give reasons why some of its hardware is not used."""

    name: str
    device: Device
    gpus: tuple[Gpu, ...]
    world_size: int
    ranks_per_gpu: int
    env_vars: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def variables(self, of_case: dict[str, str]) -> dict[str, str]:
        """Environment variables to set before a rank imports anything; those of the case take precedence."""
        return {**self.env_vars, **of_case}


def environment(python_version: tuple[int, ...] | None = None) -> Literal["lts", "dev"]:
    """The pinned software set of a Python (major, minor), by default of this one."""
    return "lts" if (python_version or sys.version_info) < (3, 12) else "dev"


def detect() -> Platform:
    """The platform of this machine, as ``CRASH_TEST_DEVICE`` and ``CUDA_VISIBLE_DEVICES`` allow.

    Raises:
        CannotRun: the processor cannot give portable results, or the device asked for is not there.
        UsageError: ``CRASH_TEST_DEVICE`` is neither cpu nor cuda.
    """
    wanted = os.environ.get(DEVICE_VARIABLE) or "auto"
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{DEVICE_VARIABLE}={wanted}: must be cpu, cuda or not set")
    there, problem = ((), None) if wanted == "cpu" else (query_gpus(), _ask_driver()[1])
    platform = choose(
        visible(there, os.environ.get("CUDA_VISIBLE_DEVICES")),
        wanted=wanted,
        environment_name=environment(),
        processor=read_processor(),
        problem=problem,
    )
    if platform.gpus in ((), there):
        return platform
    # Ranks see the chosen GPUs only, by UUID: an MPS daemon renumbers the ones it sees.
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in platform.gpus)}
    return dataclasses.replace(platform, env_vars=platform.env_vars | shown)


@functools.cache
def on_gpus() -> bool:
    """True when sessions train on GPUs here; False where nothing can train: lint and doctor still run."""
    try:
        return detect().device == "cuda"
    except TaskError:
        return False


def choose(
    gpus: tuple[Gpu, ...],
    *,
    wanted: str,
    environment_name: str,
    processor: Processor,
    problem: str | None = None,
) -> Platform:
    """The GPUs when they can run the full-size case, else the CPU with a note that gives the reason."""
    reason = gpu_obstacle(gpus, environment_name) if gpus else problem or "there is no NVIDIA GPU"
    if reason is None:
        return gpu_platform(gpus)
    if wanted == "cuda":
        raise CannotRun(f"{DEVICE_VARIABLE}=cuda: {reason}")
    return cpu_platform(processor, notes=(f"{reason}; the CPU is used",) if gpus or problem else ())


def gpu_obstacle(gpus: tuple[Gpu, ...], environment_name: str) -> str | None:
    """The reason why these GPUs cannot run the full-size case, or None."""
    used = usable(gpus)
    gpu = used[0]
    if any(each.partitioned for each in used):
        return f"{gpu.name} is partitioned (MIG), where ranks cannot reach each other through NCCL"
    if gpu.compute_capability < OLDEST_COMPUTE_CAPABILITY:
        return f"{gpu.name} has compute capability {gpu.compute_capability}, bf16 needs 8.0"
    needed = MIB_PER_RANK * (WORLD_SIZES[len(used)] // len(used))
    if gpu.memory_mib < needed:
        return f"{gpu.name} has {gpu.memory_mib} MiB, its ranks need {needed} MiB at full size"
    if environment_name != "dev":
        here = python_version()
        return f"{gpu.name}: GPUs need Python 3.12 or later (the dev environment), this is Python {here}"
    return None


def gpu_platform(gpus: tuple[Gpu, ...]) -> Platform:
    """Ranks on GPUs of one model: 8 on 8, 4 on 4, and 8 together on two or on one."""
    used = usable(gpus)
    world_size = WORLD_SIZES[len(used)]
    ranks_per_gpu = world_size // len(used)
    notes = ()
    if len(used) < len(gpus):
        notes = (f"{len(used)} of {len(gpus)} GPUs are used: 8, 4, 2 or 1 of one model",)
    return Platform(
        name=gpu_platform_name(used),
        device="cuda",
        gpus=used,
        world_size=world_size,
        ranks_per_gpu=ranks_per_gpu,
        env_vars=GPU_ENVIRONMENT | (SHARED_GPU_ENVIRONMENT if ranks_per_gpu > 1 else {}),
        notes=notes,
    )


def gpu_platform_name(gpus: tuple[Gpu, ...]) -> str:
    """Megatron-LM's names for whole DGX boards (``dgx_a100``, ``dgx_gb200``), else ``gpu<count>_<model>``."""
    model = gpu_model(gpus[0].name)
    board = _BOARDS.get(len(gpus), ())
    return f"dgx_{model}" if model in board else f"gpu{len(gpus)}_{model}"


def named(name: str) -> Platform:
    """The platform of this name, such as ``dgx_a100_x2``, wherever this runs: its device and ranks, no GPUs.

    Raises:
        UsageError: no platform has such a name.
    """
    match = re.fullmatch(r"(cpu|gpu([1248])|dgx)_(\w+?)(?:_x([1-9]\d*))?", name)
    if match is None:
        raise UsageError(
            f"{name}: is no platform; names look like cpu_x86_64, gpu1_h100, dgx_a100, dgx_a100_x2"
        )
    kind, count, model, nodes = match.groups()
    if kind == "cpu":
        return Platform(name=name, device="cpu", gpus=(), world_size=8, ranks_per_gpu=0)
    gpus = int(count or (4 if model in _BOARDS[4] else 8))
    ranks = WORLD_SIZES[gpus] * int(nodes or 1)
    return Platform(name=name, device="cuda", gpus=(), world_size=ranks, ranks_per_gpu=0)


def gpu_model(name: str) -> str:
    """``NVIDIA H100 80GB HBM3`` is ``h100``, ``NVIDIA H100 PCIe`` is ``h100_pcie``; memory is skipped."""
    model = re.sub(r"^NVIDIA |GeForce |Quadro |Tesla | GPU$", "", name)
    model = re.sub(r"[- ](?:SXM\d*|HBM\d*e?|\d+ ?GB)\b", "", model)
    return re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")


def usable(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The first 8, 4, 2 or 1 GPUs of the model that most of them are."""
    by_model: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        by_model.setdefault(gpu.name, []).append(gpu)
    most = max(by_model.values(), key=len)
    return tuple(most[: max(count for count in WORLD_SIZES if count <= len(most))])


def visible(gpus: tuple[Gpu, ...], cuda_visible_devices: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows: listed indices or UUID prefixes, up to the first unknown or repeated one."""
    if cuda_visible_devices is None:
        return gpus
    shown = []
    for entry in cuda_visible_devices.split(","):
        entry = entry.strip()
        match = [gpu for gpu in gpus if entry and (entry == str(gpu.index) or gpu.uuid.startswith(entry))]
        if not match or match[0] in shown:
            break
        shown.append(match[0])
    return tuple(shown)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's CSV, a line each, fields as in ``_QUERY``. Lines of a broken GPU are skipped."""
    gpus = []
    for line in text.splitlines():
        fields = [entry.strip() for entry in line.split(",")]
        if len(fields) != len(_QUERY) or not fields[0].isdigit():
            continue
        index, uuid, name, memory, capability, driver, mig = fields
        gpus.append(
            Gpu(
                index=int(index),
                uuid=uuid,
                name=name,
                # a GPU without memory of its own shares the machine's
                memory_mib=int(memory) if memory.isdigit() else host_memory.machine_bytes() // 2**20,
                compute_capability=float(capability) if re.fullmatch(r"\d+\.\d+", capability) else 0.0,
                driver=driver,
                partitioned=mig == "Enabled",
            )
        )
    return tuple(gpus)


def query_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where there is no driver, or where it does not answer."""
    return parse_gpus(_ask_driver()[0])


@functools.cache
def _ask_driver() -> tuple[str, str | None]:
    """Output of nvidia-smi, and the error if it failed. A machine without nvidia-smi simply has no GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return "", None
    except subprocess.TimeoutExpired:
        return "", "nvidia-smi did not answer within 60 s"
    if outcome.returncode:
        lines = (outcome.stdout + outcome.stderr).strip().splitlines() or ["no message"]
        return "", f"nvidia-smi failed: {lines[0]}"
    return outcome.stdout, None


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The CPU: ``machine`` as uname names it, and the features that Linux lists for x86."""

    system: str
    machine: str
    model: str
    features: frozenset[str]


@functools.cache
def read_processor() -> Processor:
    """The processor of this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    return parse_processor(text, system=python_platform.system(), machine=python_platform.machine())


def parse_processor(cpuinfo: str, *, system: str, machine: str) -> Processor:
    """The first processor of ``/proc/cpuinfo``, which on Arm has features but no model name."""
    entries: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return Processor(
        system=system,
        machine=machine,
        model=entries.get("model name") or entries.get("CPU part") or machine,
        features=frozenset((entries.get("flags") or entries.get("Features") or "").split()),
    )


def cpu_platform(processor: Processor, *, notes: tuple[str, ...] = ()) -> Platform:
    """Eight ranks on the CPU.

    Raises:
        CannotRun: not Linux, an unknown processor, or an x86-64 one without AVX2.
    """
    if processor.system != "Linux":
        raise CannotRun(
            f"this is {processor.system}; ranks need Linux: use a Linux machine, WSL 2 or a container"
        )
    name = {"x86_64": "cpu_x86_64", "aarch64": "cpu_aarch64", "arm64": "cpu_aarch64"}.get(processor.machine)
    if name is None:
        raise CannotRun(f"no platform for the processor {processor.machine}: x86_64 and aarch64 are known")
    missing = {"avx2", "fma"} - processor.features
    if name == "cpu_x86_64" and missing:
        raise CannotRun(
            f"{processor.model} lacks {' and '.join(sorted(missing))}: without AVX2 its results"
            " cannot be compared with golden cards; use another machine, or give the virtual one avx2"
        )
    return Platform(
        name=name,
        device="cpu",
        gpus=(),
        world_size=8,
        ranks_per_gpu=0,
        env_vars=dict(CPU_ENVIRONMENT),
        notes=notes,
    )


def installed_version(package: str) -> str | None:
    """The installed version, without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the checkout, with ``-dirty`` behind it when tracked files differ, or ``unknown``."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return "unknown"
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return outcome.stdout.strip() if outcome.returncode == 0 else None


def python_version() -> str:
    """The version of this interpreter: ``3.11.7``."""
    return ".".join(str(part) for part in sys.version_info[:3])

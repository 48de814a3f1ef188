"""Hardware and software of this machine, the cases that can run here, and what the others lack."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import corpus
from tasks.cases.case import Case
from tasks.cases.loader import golden_case, load_case
from tasks.cases.names import case_names
from tasks.launch import setup
from tasks.machine import cudnn, host_memory, mps, nccl, nodes, platforms
from tasks.machine.packages import torch_cuda_version
from tasks.machine.platforms import Gpu, Platform, Processor
from tasks.util.exits import CANNOT_RUN, PASSED, TaskError, exit_with
from tasks.util.files import REPOSITORY

GIB = 2**30
CPU_MEMORY_BYTES = 3 * GIB  # the most that the main job's process tree may take on a CPU
FREE_DISK_BYTES = 2 * GIB  # dataset, checkpoints and logs of a run at full size
OPEN_FILES = 1024
SHARED_MEMORY_BYTES = GIB // 2  # NCCL's buffers between ranks; containers often start with 64 MiB
NEEDED_PACKAGES = ("torch", "megatron-core", "numpy", "tensorboard")
ENGINE = "transformer-engine"
# Shown but not required: containers bring their content under other names.
GPU_PACKAGES = (ENGINE, "transformer-engine-torch", "nvidia-cudnn-cu13", "nvidia-nccl-cu13")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """This machine, as far as a run depends on it. ``packages`` has None for what is not installed."""

    environment: str
    processor: Processor
    cores: int
    memory_bytes: int
    shared_memory_bytes: int
    open_files: int
    free_disk_bytes: int
    gpus: tuple[Gpu, ...]
    packages: Mapping[str, str | None]
    torch_cuda: str | None
    nccl: tuple[int, int, int] | None
    cudnn: str | None
    mps: bool
    unreachable: str = ""  # why processes cannot reach each other


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """A case on a platform; ``lacks`` is empty when it can run here."""

    case: str
    platform: str
    lacks: tuple[str, ...]
    golden: str


def read_facts() -> Facts:
    """Ask the machine. CUDA is not touched and torch not imported."""
    return Facts(
        environment=platforms.environment(),
        processor=platforms.read_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=host_memory.total_bytes(),
        shared_memory_bytes=_total_bytes(Path("/dev/shm")),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        free_disk_bytes=shutil.disk_usage(REPOSITORY).free,
        gpus=platforms.visible(platforms.query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        packages={name: platforms.installed_version(name) for name in (*NEEDED_PACKAGES, *GPU_PACKAGES)},
        torch_cuda=torch_cuda_version(),
        nccl=nccl.version(nccl.library()),
        cudnn=cudnn.version(),
        mps=shutil.which(mps.CONTROL) is not None,
        unreachable=_unreachable(),
    )


def prospects(facts: Facts, cases: list[str], *, root: Path = REPOSITORY) -> list[Prospect]:
    """Every case on every platform that this machine is, or would be with what it lacks."""
    return [
        Prospect(
            case=case,
            platform=name,
            lacks=(*lacks, *case_lacks(case, platform, root)),
            golden=_golden(case, name, facts.environment, root),
        )
        for case in cases
        for name, platform, lacks in candidates(facts)
    ]


def candidates(facts: Facts) -> list[tuple[str, Platform | None, tuple[str, ...]]]:
    """Platforms by name, with what is lacking here."""
    found = [_cpu_candidate(facts)]
    models = {"cpu_x86_64": "aarch64", "cpu_aarch64": "x86-64"}
    other = "cpu_aarch64" if found[0][0] == "cpu_x86_64" else "cpu_x86_64"
    found.append((other, None, (f"a processor of type {models.get(found[0][0], 'x86-64')}",)))
    if facts.gpus:
        platform = platforms.gpu_platform(facts.gpus)
        found.append((platform.name, platform, gpu_lacks(facts, platform)))
    used = len(found[-1][1].gpus) if facts.gpus else 0
    there = len(facts.gpus)
    for count, name in {1: "gpu1_*", 2: "gpu2_*", 4: "gpu4_*", 8: "dgx_*"}.items():
        if count != used:
            more = f"{count} NVIDIA GPU{'s' if count > 1 else ''} (there are {there})"
            fewer = f"CUDA_VISIBLE_DEVICES with {count} of the {there} GPUs"
            found.append((name, None, (fewer if count < there else more,)))
    return found


def _cpu_candidate(facts: Facts) -> tuple[str, Platform | None, tuple[str, ...]]:
    try:
        platform = platforms.cpu_platform(facts.processor)
    except TaskError as error:
        return f"cpu_{facts.processor.machine}", None, (str(error),)
    lacks = []
    if facts.memory_bytes < CPU_MEMORY_BYTES:
        lacks.append(f"memory: {_gib(facts.memory_bytes)} of {_gib(CPU_MEMORY_BYTES)}")
    if facts.shared_memory_bytes < setup.NEEDED_SHARED_BYTES:
        sizes = [size / 2**20 for size in (facts.shared_memory_bytes, setup.NEEDED_SHARED_BYTES)]
        lacks.append("/dev/shm: {:.1f} of {:.0f} MiB".format(*sizes))
    return platform.name, platform, (*lacks, *common_lacks(facts))


def gpu_lacks(facts: Facts, platform: Platform) -> tuple[str, ...]:
    """Reasons why the GPUs of this machine cannot run a case."""
    lacks = [obstacle] if (obstacle := platforms.gpu_obstacle(facts.gpus, facts.environment)) else []
    if not facts.packages.get(ENGINE):
        lacks.append(f"{ENGINE} (not installed)")
    libraries = {"NCCL": facts.nccl, "cuDNN": facts.cudnn}
    lacks += [f"{name} (no library found)" for name, found in libraries.items() if found is None]
    if facts.packages.get("torch") and facts.torch_cuda is None:
        lacks.append("a CUDA build of torch")
    if platform.ranks_per_gpu > 1 and facts.nccl and not nccl.can_share(facts.nccl):
        lacks.append("NCCL 2.31 or later, for several ranks on a GPU")
    if facts.shared_memory_bytes < SHARED_MEMORY_BYTES:
        lacks.append(
            f"/dev/shm: {_gib(facts.shared_memory_bytes)} of {_gib(SHARED_MEMORY_BYTES)} (docker --shm-size)"
        )
    return (*lacks, *common_lacks(facts))


def common_lacks(facts: Facts) -> tuple[str, ...]:
    """Requirements of every platform that this machine does not meet."""
    lacks = [f"{name} (not installed)" for name in NEEDED_PACKAGES if not facts.packages.get(name)]
    if facts.free_disk_bytes < FREE_DISK_BYTES:
        lacks.append(f"free disk: {_gib(facts.free_disk_bytes)} of {_gib(FREE_DISK_BYTES)}")
    if facts.open_files < OPEN_FILES:
        lacks.append(f"open files: {facts.open_files} of {OPEN_FILES} (ulimit -n)")
    if facts.unreachable:
        lacks.append(facts.unreachable)
    return tuple(lacks)


def case_lacks(case: str, platform: Platform | None, root: Path) -> tuple[str, ...]:
    """Requirements of the case itself that are not met: a file without errors, and its data set."""
    if platform is None:
        return ()
    try:
        loaded: Case = load_case(case, platform_name=platform.name, world_size=platform.world_size, root=root)
    except TaskError as error:
        return (str(error),)
    if "DATA_PATH" in loaded.names_needed() and not os.environ.get("DATA_PATH"):
        return ("a data set: DATA_PATH is not set",)
    try:
        if loaded.corpus is None and not loaded.model_args.get("--mock-data"):
            corpus.existing(setup.named_data(loaded))
        if loaded.checkpoint:
            from tasks.records import kept_checkpoint

            kept_checkpoint.check(loaded, platform.name, root)
    except TaskError as error:
        return (str(error),)
    return ()


def facts_table(facts: Facts) -> list[tuple[str, str]]:
    """Facts as rows of name and value."""
    features = facts.processor.features
    avx2 = "" if facts.processor.machine != "x86_64" else ", AVX2" if "avx2" in features else ", no AVX2"
    rows = [
        ("environment", facts.environment),
        ("processor", f"{facts.processor.model} ({facts.processor.machine}{avx2})"),
        ("cores", str(facts.cores)),
        ("memory", _gib(facts.memory_bytes)),
        ("shared memory", _gib(facts.shared_memory_bytes)),
        ("open files", str(facts.open_files)),
        ("free disk", _gib(facts.free_disk_bytes)),
        ("GPUs", "; ".join(f"{gpu.name}, {gpu.memory_mib} MiB" for gpu in facts.gpus) or "none"),
        ("driver", facts.gpus[0].driver if facts.gpus else "none"),
        ("CUDA of torch", facts.torch_cuda or "none (CPU build)"),
    ]
    rows += [(name, version or "not installed") for name, version in facts.packages.items()]
    return [
        *rows,
        ("NCCL of the ranks", nccl.text(facts.nccl)),
        ("cuDNN of the ranks", facts.cudnn or "none"),
        ("CUDA MPS", "there" if facts.mps else "not there"),
    ]


def render(facts: Facts, found: list[Prospect]) -> str:
    """Both tables, as text."""
    from tabulate import tabulate  # not needed for --help and --json

    rows = [
        (row.case, row.platform, "no" if row.lacks else "yes", "; ".join(row.lacks) or f"card: {row.golden}")
        for row in found
    ]
    machine = tabulate(facts_table(facts), headers=("this machine", ""), disable_numparse=True)
    cases = tabulate(
        rows,
        headers=("case", "platform", "runs here", "golden card, or what is lacking"),
        maxcolwidths=[None, None, None, 60],
    )
    return f"{machine}\n\n{cases}"


def as_json(facts: Facts, found: list[Prospect]) -> str:
    """Both tables, for programs."""
    machine = dataclasses.asdict(facts)
    machine["processor"]["features"] = sorted(facts.processor.features)
    content = {"machine": machine, "cases": [dataclasses.asdict(row) for row in found]}
    return json.dumps(content, indent=2)


def _golden(case: str, platform_name: str, environment_name: str, root: Path) -> str:
    from tasks.records import card_store  # NumPy: not needed for --help

    try:
        case = golden_case(case, root)
        return card_store.find_card(root, case, environment_name, platform_name).path.name
    except card_store.NoGoldenCard:
        return f"none yet (nox -s record -- {case})"
    except TaskError:  # errors of the file are reported where the case would run
        return "unknown"


def _unreachable() -> str:
    try:
        nodes.check_loopback()
    except TaskError as error:
        return str(error)
    return ""


def _total_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return 0


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def _refused() -> str:
    """The reason why nothing can run on the device that CRASH_TEST_DEVICE demands; empty: something can."""
    try:
        platforms.detect()
    except TaskError as error:
        return str(error) if os.environ.get(platforms.DEVICE_VARIABLE) else ""
    return ""


def main() -> int:
    """``python -m tasks.doctor``: exit 5 when no case can run here."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.doctor",
        description="List the cases that can run on this machine. Exits 5 when none can.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    facts = read_facts()
    found = prospects(facts, case_names())
    if refused := _refused():
        found = [dataclasses.replace(row, lacks=(refused, *row.lacks)) for row in found]
    print(as_json(facts, found) if arguments.json else render(facts, found))
    return PASSED if any(not row.lacks for row in found) else CANNOT_RUN


if __name__ == "__main__":
    exit_with(main)

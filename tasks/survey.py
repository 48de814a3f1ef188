"""List which of Megatron-LM's functional tests can run on this machine: ``python -m tasks.survey PATH``.

Reads every case file of a checkout and classifies it: runs here, needs more GPUs, needs a checkout
(``--megatron-lm``), needs data, or is not a training case. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.cases import megatron_lm_case
from tasks.cases.flags import unknown_flags
from tasks.cases.loader import load_upstream_case
from tasks.cases.names import CASE_FILE
from tasks.launch.trainer import PROGRAM
from tasks.machine import host_memory, platforms
from tasks.util.exits import PASSED, UsageError, exit_with

CLASSES = ("runs here", "needs GPUs", "needs a checkout", "needs data", "not a training case")
RUNS, GPUS, CHECKOUT, DATA, NO_TRAINING = CLASSES
# Cases that another program of Megatron-LM trains, by their folder.
OTHER_PROGRAMS = {
    "bert": "pretrain_bert.py",
    "t5": "pretrain_t5.py",
    "hybrid": "pretrain_hybrid.py",
    "mimo": "a program below examples/mimo",
    "multimodal-llava": "a program below examples/multimodal",
}
BYTES_PER_PARAMETER = 18  # bf16 weight and gradient in fp32, fp32 master weight, two moments of Adam
GPU_BYTES = 80 * 2**30
GPU_FEATURES = (
    "--fp8",
    "--fp4",
    "--tp-comm-overlap",
    "--cuda-graph",
    "--enable-cuda-graph",
    "--external-cuda",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One case file: its class, and every reason found, the deciding one first."""

    case: str
    kind: str
    gpus: int  # at least so many; 0: none
    reasons: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"needs {self.gpus} GPUs" if self.kind == GPUS else self.kind


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that cases are classified for. ``memory_bytes``: sum over all devices that ranks share."""

    platform: str
    device: str
    world_size: int
    memory_bytes: int


def this_machine() -> Machine:
    """The platform that a run would get here."""
    platform = platforms.detect()
    memory = host_memory.total_bytes()
    if platform.gpus:
        memory = sum(gpu.memory_mib for gpu in platform.gpus) * 2**20
    return Machine(
        platform=platform.name,
        device=platform.device,
        world_size=platform.world_size,
        memory_bytes=memory,
    )


def case_files(path: Path) -> list[Path]:
    """Every case file below ``path``: of a checkout those of its functional tests.

    Raises:
        UsageError: there is none.
    """
    below = path / "tests" / "functional_tests" / "test_cases"
    files = sorted((below if below.is_dir() else path).rglob(CASE_FILE))
    if not files:
        raise UsageError(
            f"{path}: no {CASE_FILE} below it; give a checkout of Megatron-LM or a folder of cases"
        )
    return files


def classify(path: Path, machine: Machine) -> Finding:
    """Classify one case file. One that cannot be read is no training case."""
    suite, case = path.parent.parent.name, f"{path.parent.parent.name}/{path.parent.name}"
    try:
        upstream = megatron_lm_case.read(path)
    except UsageError as error:
        return Finding(case=case, kind=NO_TRAINING, gpus=0, reasons=(str(error),))
    args: Mapping[str, object] = upstream.content["MODEL_ARGS"]
    reasons = {
        NO_TRAINING: _no_training(upstream, suite, args),
        GPUS: _missing_gpus(args, machine),
        CHECKOUT: _unknown_to_us(path, suite, machine),
        DATA: _missing_data(upstream, args),
    }
    kind = next((kind for kind, found in reasons.items() if found), RUNS)
    others = [line for other, lines in reasons.items() if other != kind for line in lines]
    found = reasons.get(kind, []) + (others if kind != NO_TRAINING else [])
    gpus = gpus_needed(args) if kind == GPUS else 0
    return Finding(case=case, kind=kind, gpus=gpus, reasons=(*found, *upstream.remarks))


def _no_training(
    upstream: megatron_lm_case.UpstreamCase, suite: str, args: Mapping[str, object]
) -> list[str]:
    if upstream.mode != "pretraining":
        return [f"MODE {upstream.mode}"]
    if suite == "gpt-nemo":
        return ["trained by NeMo, not by Megatron-LM's flags"]
    if not args.get("--train-iters") and not args.get("--train-samples"):
        return ["no --train-iters and no --train-samples: it trains nothing"]
    return []


def gpus_needed(args: Mapping[str, object]) -> int:
    """The fewest GPUs: ranks that the parallel sizes multiply to, and memory of 80 GiB each for the model."""
    ranks = math.prod(
        _count(args, f"--{size}-parallel-size") for size in ("tensor-model", "pipeline-model", "context")
    )
    experts = _count(args, "--expert-model-parallel-size") * _count(args, "--pipeline-model-parallel-size")
    ranks = max(ranks, experts * _count(args, "--expert-tensor-parallel-size"))
    return max(ranks, math.ceil(model_bytes(args) / GPU_BYTES))


def model_bytes(args: Mapping[str, object]) -> int:
    """Bytes of weights, gradients and optimizer state, estimated from layers, sizes and vocabulary."""
    layers, hidden = _count(args, "--num-layers"), _count(args, "--hidden-size")
    inner = _count(args, "--ffn-hidden-size", 4 * hidden)
    experts = _count(args, "--num-experts")
    if experts > 1:
        inner = _count(args, "--moe-ffn-hidden-size", inner)
    matrices = 3 if args.get("--swiglu") else 2
    parameters = layers * (4 * hidden**2 + matrices * hidden * inner * experts)
    parameters += hidden * max(_count(args, "--vocab-size"), 50304)
    return BYTES_PER_PARAMETER * parameters


def _missing_gpus(args: Mapping[str, object], machine: Machine) -> list[str]:
    found = []
    needed = gpus_needed(args)
    if needed > machine.world_size:
        found.append(
            f"{needed} ranks or GPUs for its parallel sizes or its memory, here are {machine.world_size}"
        )
    elif model_bytes(args) > machine.memory_bytes:
        found.append(
            f"about {model_bytes(args) / 2**30:.0f} GiB of model and optimizer, here are"
            f" {machine.memory_bytes / 2**30:.0f}"
        )
    if machine.device == "cpu":
        only = [flag for flag, value in args.items() if value and flag.startswith(GPU_FEATURES)]
        found += [f"{', '.join(only)}: only on GPUs"] if only else []
    return found


def _unknown_to_us(path: Path, suite: str, machine: Machine) -> list[str]:
    if suite in OTHER_PROGRAMS:
        return [f"trained by {OTHER_PROGRAMS[suite]}; --megatron-lm runs {PROGRAM} alone"]
    try:
        case = load_upstream_case(path, platform_name=machine.platform, world_size=machine.world_size)
        if unknown := unknown_flags(case.model_args):
            return [f"our trainer does not know {', '.join(unknown)}"]
        case.parsed.accepted()
    except UsageError as error:
        return [str(error).removeprefix(f"{path}: ").replace("\n  ", "; ")]
    return []


def _missing_data(upstream: megatron_lm_case.UpstreamCase, args: Mapping[str, object]) -> list[str]:
    found = []
    if upstream.test_type in megatron_lm_case.FROZEN:
        found.append(f"TEST_TYPE {upstream.test_type} begins with a checkpoint of NVIDIA's")
    folder = os.environ.get("DATA_PATH")
    if folder:
        prefix = str(args.get("--data-path", "")).replace("${DATA_PATH}", folder)
        files = [f"{prefix}{suffix}" for suffix in (".bin", ".idx")] if prefix else []
        return found + [f"{file} is missing" for file in files if not Path(file).is_file()]
    named = [flag for flag, value in args.items() if "${DATA_PATH}" in str(value)]
    return found + ([f"DATA_PATH is not set ({', '.join(named)})"] if named else [])


def _count(args: Mapping[str, object], flag: str, default: int = 1) -> int:
    value = args.get(flag)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def main(argv: list[str] | None = None) -> int:
    """Print one line a case file, or JSON, and how many are of each class."""
    parser = argparse.ArgumentParser(prog="python -m tasks.survey", description=__doc__.split("\n")[0])
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="a checkout of Megatron-LM, or a folder of cases"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(argv)
    machine = this_machine()
    findings = [classify(path, machine) for path in case_files(options.path)]
    counts = Counter(finding.kind for finding in findings)
    if options.json:
        content = [asdict(finding) | {"label": finding.label} for finding in findings]
        print(json.dumps({"machine": asdict(machine), "counts": counts, "cases": content}, indent=1))
        return PASSED
    width = max(len(finding.label) for finding in findings)
    for finding in findings:
        reason = f"  {finding.reasons[0]}" if finding.reasons else ""
        print(f"{finding.label:<{width}}  {finding.case}{reason}")
    print()
    for kind in CLASSES:
        print(f"{counts[kind]:4}  {kind}")
    print(f"{len(findings):4}  case files on {machine.platform}, {machine.world_size} ranks")
    return PASSED


if __name__ == "__main__":
    exit_with(main)

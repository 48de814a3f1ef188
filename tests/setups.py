"""Setups of phases, as prepared from the command line."""

from __future__ import annotations

from pathlib import Path

from tasks.cases import corpus
from tasks.cases.loader import load_case
from tasks.launch.setup import Setup
from tasks.machine import nodes
from tasks.machine.platforms import Gpu, Platform

RESHARD = "gpt3_pp4_resume_reshard_pp4_dp1"


def setup_of(case: str, gpus: int = 0, **options: object) -> Setup:
    """A case on eight ranks of the CPU, or of so many GPUs."""
    platform = Platform(
        name=f"gpu{gpus}_h100" if gpus else "cpu_x86_64",
        device="cuda" if gpus else "cpu",
        gpus=tuple(
            Gpu(
                index=index,
                uuid=f"GPU-{index}",
                name="NVIDIA H100",
                memory_mib=81559,
                compute_capability=9.0,
                driver="580.1",
            )
            for index in range(gpus)
        ),
        world_size=8,
        ranks_per_gpu=8 // gpus if gpus else 0,
        env_vars={},
        notes=(),
    )
    return Setup(
        case=load_case(case, platform_name=platform.name),
        platform=platform,
        data=corpus.Built(prefix=Path("/corpus/text"), sha256="a" * 64, documents=1, sequences=1, tokens=1),
        run_dir=Path("/run"),
        rank_plugins=(),
        hang_timeout_s=None,
        max_restarts=0,
        nodes=nodes.ALONE,
        **options,
    )

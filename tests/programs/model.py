"""The model of a case as one rank builds it; a group that communicates nothing stands in for the others."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.optimizer import OptimizerConfig
from torch.testing._internal.distributed.fake_pg import FakeStore

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.ranks import model

OVERLAPS = ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather")


def build(case: str, rank: int) -> dict[str, Any]:
    """What a rank of eight builds; once a process: megatron-core keeps its groups in global variables."""
    arguments = parse_arguments(load_case(case, platform_name="cpu_x86_64").argv(), world_size=8)
    arguments.rank = rank
    torch.distributed.init_process_group("fake", rank=rank, world_size=8, store=FakeStore())
    parallel_state.initialize_model_parallel(
        pipeline_model_parallel_size=arguments.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=arguments.virtual_pipeline_model_parallel_size,
        create_gloo_process_groups=False,
    )
    model.seed_everything(arguments)
    chunks = model.build_model(arguments)
    return _parts(chunks) | _settings(arguments, chunks) | {"reduced": _reduced(arguments, chunks)}


def _parts(chunks: list[Any]) -> dict[str, Any]:
    parameters = [pair for chunk in chunks for pair in chunk.module.module.named_parameters()]
    kinds = {type(module).__name__ for chunk in chunks for module in chunk.modules()}
    return {
        "layers": [[layer.layer_number for layer in chunk.module.module.decoder.layers] for chunk in chunks],
        "names": [name for name, _ in parameters],
        "shared": [name for name, parameter in parameters if getattr(parameter, "shared", False)],
        "norms": sorted({kind for kind in kinds if "Norm" in kind}),
        "wide": sorted({tuple(p.shape) for name, p in parameters if "linear_fc1.weight" in name}),
    }


def _settings(arguments: argparse.Namespace, chunks: list[Any]) -> dict[str, Any]:
    optimizer = OptimizerConfig(lr=arguments.lr, min_lr=arguments.min_lr)
    config = chunks[0].config
    return {
        "overrides": list(model._parameter_overrides(arguments, optimizer).values()),
        "group": config.microbatch_group_size_per_vp_stage,
        "per token": config.calculate_per_token_loss,
        "warm-up": config.overlap_p2p_comm_warmup_flush,
        "frees": config.deallocate_pipeline_outputs,
        "ddp": {key: getattr(chunks[0].ddp_config, key) for key in OVERLAPS},
    }


def _reduced(arguments: argparse.Namespace, chunks: list[Any]) -> list[Any]:
    """Calls, in their order, when the chunks are reduced from the last one to the first."""
    called: list[Any] = []
    for index, chunk in enumerate(chunks):
        chunk.start_grad_sync = lambda parameters, index=index: called.append(index)
    optimizer = SimpleNamespace(scale_loss=None)
    config = model.connect_schedule(arguments, chunks, optimizer, lambda: called.append("before"))
    starts = config.grad_sync_func or []
    for start in reversed(starts if isinstance(starts, list) else [starts]):
        start([])
    return called

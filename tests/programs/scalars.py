"""Sums over ranks, the norm of all parameters, and the scalars that the last rank writes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from tasks.ranks import scalars
from tasks.util.processes import end_with_parent


def sums_of_two_ranks(folder: str) -> list[dict[str, Any]]:
    """The answers of two ranks of a Gloo group, each in a process forked from this one."""
    ranks = {}
    for rank in (0, 1):
        if child := os.fork():
            ranks[child] = rank
            continue
        end_with_parent()
        code = 1
        try:
            Path(folder, f"{rank}.json").write_text(json.dumps(_sums(rank, f"file://{folder}/store")))
            code = 0
        finally:
            os._exit(code)
    assert all(os.waitpid(child, 0)[1] == 0 for child in ranks)
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in ranks.values()]


def _sums(rank: int, address: str) -> dict[str, Any]:
    """Sums before anything was added, after two iterations, and after that; sizes of collectives."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    collectives, all_reduce = [], torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda total: (collectives.append(total.numel()), all_reduce(total))
    sums = scalars.SumsOverRanks()
    nothing = sums.take()
    for iteration in (7, 8):
        part = torch.tensor(0.1 * iteration, dtype=torch.float64)
        places = [0, 0] if rank else [5, 0]
        sums.add(iteration, {"count": rank + iteration, "places": places, "part": part})
    taken, after = sums.take(), sums.take()
    torch.distributed.destroy_process_group()
    return {"nothing": nothing, "taken": taken, "after": after, "collectives": collectives}


def _parameter(
    main: list[float] | None, *, sharded: bool | None = None, shared: bool = False
) -> torch.nn.Parameter:
    new = torch.nn.Parameter(torch.zeros(4))
    new.main_param, new.shared = None if main is None else torch.tensor(main), shared
    if sharded is not None:
        new.main_param_sharded = sharded
    return new


def _chunk(*parameters: torch.nn.Parameter) -> torch.nn.Module:
    module = torch.nn.Module()
    for index, parameter in enumerate(parameters):
        module.register_parameter(f"p{index}", parameter)
    return module


def parameters_square(rank: int) -> dict[str, float]:
    """This rank's share of the squared norm, with the distributed optimizer and with a plain one."""
    torch.distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    own = [[3.0], [4.0]][rank]  # the distributed optimizer: each replica has a shard, or none
    only_first = [[2.0], None][rank]
    chunks = {
        "distributed": [
            _chunk(_parameter(own, sharded=True)),
            _chunk(_parameter(only_first, sharded=True)),
        ],
        "plain": [
            _chunk(_parameter([3.0, 4.0])),
            _chunk(_parameter([2.0]), _parameter([9.0], shared=True)),
        ],
    }
    return {name: float(scalars.parameters_square(held)) for name, held in chunks.items()}


def memory(earlier_peak_bytes: int) -> dict[str, float]:
    """Memory scalars of a device that holds 40 bytes and held 70 in this step."""
    torch.cuda.memory_stats_as_nested_dict = lambda: {"allocated_bytes": {"all": {"current": 40, "peak": 70}}}
    return scalars.memory_scalars(earlier_peak_bytes)


def mean_loss_of_two_replicas() -> float:
    """The mean of this replica's two micro-batches and of the sum of another replica."""
    scalars.parallel_state = SimpleNamespace(
        get_data_parallel_group=lambda *, with_context_parallel: "replicas"
    )
    other_replica = torch.tensor([20.0, 5.0])
    torch.distributed.all_reduce = lambda total, *, group: (
        total.add_(other_replica) if group == "replicas" else 0
    )
    return float(scalars.mean_loss([torch.tensor([6.0, 2.0]), torch.tensor([4.0, 3.0])]))


def written_by_eight_ranks() -> list[Any]:
    """Calls of TensorBoard's writer by the ranks."""
    asked: list[Any] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int, filename_suffix: str) -> None:
            asked.append([arguments.rank, folder, purge_step, filename_suffix])

        def add_scalar(self, name: str, value: float, iteration: int) -> None:
            asked.append([name, value, iteration])

        def flush(self) -> None:
            asked.append("flushed")

    sys.modules["torch.utils.tensorboard"] = SimpleNamespace(SummaryWriter=Writer)
    for rank in range(8):
        arguments = argparse.Namespace(tensorboard_dir="events", rank=rank, world_size=8)
        scalars.Scalars(arguments, 50, attempt=2).write(51, {"lm loss": torch.tensor(2.5)})
    return asked


def refused_losses() -> list[str | None]:
    """The error of each loss, or None."""

    def refused(loss: float) -> str | None:
        try:
            scalars.refuse_bad_loss(loss, 3)
        except FloatingPointError as error:
            return str(error)
        return None

    return [refused(loss) for loss in (2.5, float("nan"), float("inf"), -float("inf"))]

"""Digests of all state that a restart must restore: the proof that it resumed and did not train again."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import torch
from megatron.core import tensor_parallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from tasks.ranks import mcore_compat
from tasks.ranks.batches import Batches
from tasks.ranks.model import Chunks
from tasks.records.state import StateDigests
from tasks.util.files import replace_file


def _digest_tensors(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().contiguous().cpu().view(-1)
        digest.update(f"{flat.dtype}{tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def inner_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """The torch optimizers inside megatron-core's optimizer, which may chain several."""
    parts = mcore_compat.optimizer_parts(optimizer)
    return [part.optimizer for part in parts if part.optimizer is not None]


def _parameters_of(optimizer: MegatronOptimizer) -> list[tuple[torch.optim.Optimizer, torch.Tensor]]:
    return [
        (inner, parameter)
        for inner in inner_optimizers(optimizer)
        for group in inner.param_groups
        for parameter in group["params"]
    ]


def _optimizer_steps(optimizer: MegatronOptimizer) -> list[float]:
    """Adam's step count wherever it is kept: with each parameter (torch) or with the group (fused Adam)."""
    steps = {
        float(group["step"])
        for inner in inner_optimizers(optimizer)
        for group in inner.param_groups
        if group["params"] and "step" in group
    }
    if not any("step" in inner.state[parameter] for inner, parameter in _parameters_of(optimizer)):
        return sorted(steps)
    return sorted({float(inner.state[parameter]["step"]) for inner, parameter in _parameters_of(optimizer)})


def random_states() -> dict[str, Any]:
    """The state of every random generator of this rank: Python, NumPy, torch, device, megatron's tracker."""
    return {
        "random_rng_state": random.getstate(),
        "np_rng_state": numpy.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state": torch.cuda.get_rng_state(),
        "rng_tracker_states": dict(tensor_parallel.get_cuda_rng_tracker().get_states()),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put back what ``random_states`` returned."""
    random.setstate(states["random_rng_state"])
    numpy.random.set_state(states["np_rng_state"])
    torch.set_rng_state(states["torch_rng_state"])
    torch.cuda.set_rng_state(states["cuda_rng_state"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["rng_tracker_states"])


def _digest_random_states() -> str:
    states = random_states()
    tracker = states.pop("rng_tracker_states")
    tensors = [states.pop("torch_rng_state"), states.pop("cuda_rng_state")]
    tensors += [torch.as_tensor(tracker[name]) for name in sorted(tracker)]
    plain = [states["random_rng_state"], [repr(part) for part in states["np_rng_state"]], sorted(tracker)]
    return _digest_json([_digest_tensors(tensors), plain])


def _next_digest(iterator: Batches) -> str:
    """Digest of the next batch, if there is one: data may hold no more samples than a run takes."""
    try:
        return iterator.next_digest()
    except StopIteration:
        return "the data have come to their end"


def state_digests(
    chunks: Chunks,
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    iterators: list[Batches | None],
    consumed_samples: int,
) -> dict[str, str]:
    """SHA-256 digests of this rank's training state, a name a part.

    Parameters must have been gathered before: while their gather is overlapped with the next forward pass,
    other replicas' shards are one step old.
    """
    own = _parameters_of(optimizer)
    adam = [inner.state[parameter] for inner, parameter in own]
    steps = _optimizer_steps(optimizer)
    batches = [_next_digest(iterator) for iterator in iterators if iterator is not None]
    digests = StateDigests(
        parameters=_digest_tensors(parameter for chunk in chunks for parameter in chunk.parameters()),
        master_weights=_digest_tensors(parameter for _, parameter in own),
        exp_avg=_digest_tensors(state["exp_avg"] for state in adam),
        exp_avg_sq=_digest_tensors(state["exp_avg_sq"] for state in adam),
        optimizer_steps=_digest_json(steps) if steps else "",  # no step count anywhere: no proof
        scheduler=_digest_json(scheduler.state_dict()),
        rng=_digest_random_states(),
        consumed_samples=str(consumed_samples),
        next_batch=_digest_json(batches),
    )
    return dict(vars(digests))


def write_evidence(folder: Path, kind: str, iteration: int, args: argparse.Namespace, digests: dict) -> None:
    """Write ``<kind>_<iteration>_rank<N>.json`` (atomically, at once: a later kill cannot lose it)."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{kind}_{iteration:07d}_rank{args.rank}.json", json.dumps(digests, indent=1))

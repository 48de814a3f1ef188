"""Digests of the whole job's training state that are the same on every layout of ranks.

A checkpoint that is loaded on another layout than saved it (other pipeline stages, other replicas) cannot be
compared rank by rank. Here every element of every parameter is mixed with its place in the whole model into
64 bits, and these are summed, modulo 2^64, over all ranks: who holds an element does not matter, any element
that changed, moved or was lost does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import torch
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import param_is_not_shared

from tasks.ranks import mcore_compat
from tasks.ranks.model import Chunks
from tasks.records.state import WHOLE_STATE

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd constants whose bits look random, as int64: 2^64 divided by the golden ratio, and splitmix64's two.
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def whole_state_digests(chunks: Chunks, optimizer: MegatronOptimizer) -> dict[str, str]:
    """16 hexadecimal digits a part, equal on all ranks; a collective. Parameters must be gathered."""
    sums = torch.zeros(len(WHOLE_STATE), dtype=torch.int64, device=torch.cuda.current_device())
    first_replica = parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
    for name, parameter in named_parameters(chunks):
        if not param_is_not_shared(parameter):
            continue  # the last stage's copy of the tied embedding
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        if first_replica:
            sums[0] += element_sum(parameter, seed, 0)
        main, sharded = mcore_compat.main_parameter(parameter)
        if main is None or not (sharded or first_replica):
            continue
        inner, start = _holder(optimizer, parameter, main)
        adam = inner.state[main]
        for place, values in enumerate((main, adam["exp_avg"], adam["exp_avg_sq"]), 1):
            sums[place] += element_sum(values, seed, start)
    torch.distributed.all_reduce(sums)
    return {part: f"{int(value) % 2**64:016x}" for part, value in zip(WHOLE_STATE, sums, strict=True)}


def named_parameters(chunks: Chunks) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """This rank's parameters under names that count layers from the first of the whole model."""
    for chunk in chunks:
        model = chunk.module.module
        numbers = [layer.layer_number - 1 for layer in model.decoder.layers]
        for name, parameter in model.named_parameters():
            head, layer, tail = re.fullmatch(r"(decoder\.layers\.)?(?(1)(\d+))(.*)", name).groups()
            yield (f"{head}{numbers[int(layer)]}{tail}" if head else name), parameter


def element_sum(values: torch.Tensor, seed: int, start: int) -> torch.Tensor:
    """The sum, modulo 2^64, of 64 mixed bits an element: int64, a scalar.

    ``seed``: of the parameter, below 2^56. ``start``: the first element's place in the whole parameter.
    """
    flat = values.detach().contiguous().view(-1)
    bits = flat.view(_BITS[flat.element_size()]).to(torch.int64)
    places = torch.arange(start, start + flat.numel(), dtype=torch.int64, device=flat.device)
    return _mixed(_mixed(places * _STEP + seed) ^ bits).sum()


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """splitmix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros from the left; int64 has a sign, which >> would repeat."""
    return (words >> by) & (2 ** (64 - by) - 1)


def _holder(
    optimizer: MegatronOptimizer, parameter: torch.nn.Parameter, main: torch.Tensor
) -> tuple[torch.optim.Optimizer, int]:
    """The torch optimizer that keeps the state of ``main``, and where in the parameter ``main`` begins."""
    for part in mcore_compat.optimizer_parts(optimizer):
        if part.optimizer is not None and main in part.optimizer.state:
            return part.optimizer, mcore_compat.shard_start(part, parameter)
    raise RuntimeError("no optimizer keeps the state of a parameter of this rank")

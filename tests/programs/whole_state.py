"""Digests of the state of the whole job, and the sums that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from tasks.ranks import whole_state
from tasks.ranks.whole_state import element_sum, named_parameters

BITS = {2: torch.int16, 4: torch.int32}  # by the bytes of an element


def _values(dtype: str) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(185).to(getattr(torch, dtype))


def _flipped(values: torch.Tensor, index: int) -> torch.Tensor:
    """A copy whose element ``index`` has another last bit."""
    other = values.clone()
    other.view(BITS[other.element_size()])[index] ^= 1
    return other


def sum_of_parts(dtype: str) -> dict[str, int]:
    """The sum of 185 elements, as a table and in four parts of which one is empty."""
    flat = _values(dtype)
    places = ((0, 1), (1, 90), (90, 185), (185, 185))
    parts = [int(element_sum(flat[begin:end], 7, begin)) for begin, end in places]
    return {"whole": int(element_sum(flat.view(37, 5), 7, 0)), "parts": sum(parts)}


def sums_of_others(dtype: str) -> dict[str, int]:
    """Sums of elements that differ in one way each; ``itself`` is the sum of those that do not."""
    flat = _values(dtype)
    swapped, zeros = flat.clone(), torch.zeros_like(flat)
    swapped[[3, 4]] = flat[[4, 3]]
    changed = {"itself": flat, "a last bit": _flipped(flat, 100), "two swapped": swapped}
    changed |= {"zeros": zeros, "minus": -zeros}
    sums = {name: int(element_sum(value, 7, 0)) for name, value in changed.items()}
    moved = {"parameter": int(element_sum(flat, 8, 0)), "place": int(element_sum(flat, 7, 1))}
    return {"nothing": 0} | sums | moved


def sums_of_single_changes(dtype: str) -> dict[str, float]:
    """Of the sums after a change of the last bit of each element: how many differ, and in how many bits."""
    flat = _values(dtype)
    whole = int(element_sum(flat, 7, 0)) % 2**64
    sums = [int(element_sum(_flipped(flat, index), 7, 0)) % 2**64 for index in range(flat.numel())]
    bits = sum(bin(value ^ whole).count("1") for value in sums) / len(sums)
    return {"elements": flat.numel(), "sums": len(set(sums)), "bits": bits}


class _Layer(torch.nn.Linear):
    def __init__(self, number: int) -> None:
        super().__init__(2, 2, bias=False)
        self.layer_number = number


def _chunk(*numbers: int) -> SimpleNamespace:
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([_Layer(number) for number in numbers])
    model.output_layer = torch.nn.Linear(2, 2, bias=False)
    return SimpleNamespace(module=SimpleNamespace(module=model))


def names_of_parameters() -> list[str]:
    """Names of the parameters of two chunks, of layers 2 and 12, and of layer 6."""
    return [name for name, _ in named_parameters([_chunk(2, 12), _chunk(6)])]


def digests_of_nothing() -> list[str]:
    """Digests of a job without parameters."""
    whole_state.parallel_state.get_data_parallel_rank = lambda **_: 0
    torch.distributed.all_reduce = lambda sums: None
    return list(whole_state.whole_state_digests([], None).values())


VALUES = torch.arange(8, dtype=torch.float32)
Rank = tuple[int, list[SimpleNamespace], SimpleNamespace]  # replica, chunks, optimizer


def _rank(
    replica: int,
    begin: int,
    end: int,
    *,
    sharded: bool,
    second: float = 3.0,
    weight: float = 1.0,
    tied: bool = False,
) -> Rank:
    """A rank of the one stage: the weight, and elements begin to end of the optimizer's state."""
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([])
    model.weight = torch.nn.Parameter((weight * VALUES).view(4, 2).bfloat16())
    model.weight.main_param = main = VALUES[begin:end].clone()
    model.weight.main_param_sharded = sharded
    if tied:
        model.copy = torch.nn.Parameter(torch.ones(2))
        model.copy.shared, model.copy.main_param = True, torch.ones(2)
    model.buffered = torch.nn.Parameter(torch.ones(2), requires_grad=False)  # no optimizer has it
    adam = SimpleNamespace(state={main: {"exp_avg": 2 * main, "exp_avg_sq": second * main}})
    place = {"param": SimpleNamespace(start=begin)}
    distributed = SimpleNamespace(optimizer=adam, _get_model_param_range_map=lambda parameter: place)
    optimizer = SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=None), distributed])
    return replica, [SimpleNamespace(module=SimpleNamespace(module=model))], optimizer


def _digests(*ranks: Rank) -> dict[str, str]:
    """Digests of the job of these ranks."""
    sums = []

    def collected(reduce: Callable[[torch.Tensor], object]) -> dict[str, str]:
        torch.distributed.all_reduce = reduce
        for replica, chunks, optimizer in ranks:
            whole_state.parallel_state.get_data_parallel_rank = (
                lambda *, with_context_parallel, replica=replica: replica
            )
            found = whole_state.whole_state_digests(chunks, optimizer)
        return found

    collected(lambda own: sums.append(own.clone()))
    return collected(lambda own: own.copy_(sum(sums)))


def digests_that_differ() -> dict[str, list[str]]:
    """Names of the digests that differ from those of one rank that holds all, by layout or change."""
    whole = _digests(_rank(0, 0, 8, sharded=False))
    first, second = _rank(0, 0, 3, sharded=True), _rank(1, 3, 8, sharded=True)
    layouts = {
        "two replicas": [first, second],
        "tied": [_rank(0, 0, 8, sharded=False, tied=True)],
        "a copy": [_rank(0, 0, 8, sharded=False), _rank(1, 0, 8, sharded=False, weight=2.0)],
        "a moment": [first, _rank(1, 3, 8, sharded=True, second=3.5)],
        "a hole": [first, _rank(1, 4, 8, sharded=True)],
        "a weight": [_rank(0, 0, 8, sharded=False, weight=2.0)],
    }
    return {
        name: [part for part, digest in _digests(*ranks).items() if digest != whole[part]]
        for name, ranks in layouts.items()
    }


def state_that_no_optimizer_keeps() -> str:
    """The error of a rank whose optimizer has lost the state of a parameter."""
    lost = _rank(0, 0, 8, sharded=False)
    lost[2].chained_optimizers[1].optimizer.state.clear()
    try:
        _digests(lost)
    except RuntimeError as error:
        return str(error)
    return ""

"""Digests that do not depend on the layout of ranks, and depend on everything else."""

from __future__ import annotations

import subprocess
import sys

from tasks.util.files import REPOSITORY
from tests.program import answer_of

PROGRAM = """
from types import SimpleNamespace
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import whole_state
from tasks.ranks.whole_state import element_sum, named_parameters
from tasks.judge.restart_evidence import OF_NOTHING

torch.manual_seed(1)
for dtype in (torch.bfloat16, torch.float32):
    values = torch.randn(37, 5).to(dtype)
    whole = int(element_sum(values, 7, 0))
    flat = values.view(-1)
    parts = [int(element_sum(flat[a:b], 7, a)) for a, b in ((0, 1), (1, 90), (90, 185), (185, 185))]
    assert (sum(parts) - whole) % 2**64 == 0, dtype
    changed = {"a last bit": flat.clone(), "two swapped": flat.clone()}
    bits = changed["a last bit"].view({2: torch.int16, 4: torch.int32}[flat.element_size()])
    bits[100] ^= 1
    changed["two swapped"][[3, 4]] = flat[[4, 3]]
    zeros = torch.zeros_like(flat)
    others = {name: int(element_sum(value, 7, 0)) for name, value in changed.items()}
    others |= {"parameter": int(element_sum(flat, 8, 0)), "place": int(element_sum(flat, 7, 1))}
    others |= {"nothing": 0, "zeros": int(element_sum(zeros, 7, 0)), "minus": int(element_sum(-zeros, 7, 0))}
    assert len({whole, *others.values()}) == len(others) + 1, (dtype, others)
    # 64 bits that look random: of 185 single changes no two sums agree, and half of the bits change
    sums = []
    for index in range(flat.numel()):
        one = flat.clone()
        one.view({2: torch.int16, 4: torch.int32}[flat.element_size()])[index] ^= 1
        sums.append(int(element_sum(one, 7, 0)) % 2**64)
    assert len(set(sums)) == flat.numel()
    mean = sum(bin(value ^ (whole % 2**64)).count("1") for value in sums) / len(sums)
    assert 28 < mean < 36, mean


class Layer(torch.nn.Linear):
    def __init__(self, number):
        super().__init__(2, 2, bias=False)
        self.layer_number = number


def chunk(*numbers):
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([Layer(number) for number in numbers])
    model.output_layer = torch.nn.Linear(2, 2, bias=False)
    return SimpleNamespace(module=SimpleNamespace(module=model))


names = [name for name, _ in named_parameters([chunk(2, 12), chunk(6)])]
assert names == [
    "decoder.layers.1.weight", "decoder.layers.11.weight", "output_layer.weight",
    "decoder.layers.5.weight", "output_layer.weight",
], names
whole_state.parallel_state.get_data_parallel_rank = lambda **_: 0
torch.distributed.all_reduce = lambda sums: None
assert set(whole_state.whole_state_digests([], None).values()) <= {*OF_NOTHING}
"""


def test_sums_do_not_depend_on_who_holds_an_element_and_on_all_else() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout


LAYOUTS = """
import json
from types import SimpleNamespace
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import whole_state

values = torch.arange(8, dtype=torch.float32)


def rank(replica, begin, end, *, sharded, second=3.0, weight=1.0, tied=False):
    # what a rank of the one stage holds: the weight, and elements begin to end of what the optimizer keeps
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([])
    model.weight = torch.nn.Parameter((weight * values).view(4, 2).bfloat16())
    model.weight.main_param = main = values[begin:end].clone()
    model.weight.main_param_sharded = sharded
    if tied:
        model.copy = torch.nn.Parameter(torch.ones(2))
        model.copy.shared, model.copy.main_param = True, torch.ones(2)
    model.buffered = torch.nn.Parameter(torch.ones(2), requires_grad=False)  # no optimizer has it
    adam = SimpleNamespace(state={main: {"exp_avg": 2 * main, "exp_avg_sq": second * main}})
    place = {"param": SimpleNamespace(start=begin)}
    optimizer = SimpleNamespace(chained_optimizers=[
        SimpleNamespace(optimizer=None),
        SimpleNamespace(optimizer=adam, _get_model_param_range_map=lambda parameter: place),
    ])
    return replica, [SimpleNamespace(module=SimpleNamespace(module=model))], optimizer


def digests(*ranks):
    sums = []

    def collected(reduce):
        torch.distributed.all_reduce = reduce
        for replica, chunks, optimizer in ranks:
            whole_state.parallel_state.get_data_parallel_rank = lambda *, with_context_parallel: replica
            found = whole_state.whole_state_digests(chunks, optimizer)
        return found

    collected(lambda own: sums.append(own.clone()))
    return collected(lambda own: own.copy_(sum(sums)))


def parted(*ranks):
    return [part for part, digest in digests(*ranks).items() if digest != whole[part]]


whole = digests(rank(0, 0, 8, sharded=False))
first, second = rank(0, 0, 3, sharded=True), rank(1, 3, 8, sharded=True)
found = [
    parted(first, second),
    parted(rank(0, 0, 8, sharded=False, tied=True)),
    parted(rank(0, 0, 8, sharded=False), rank(1, 0, 8, sharded=False, weight=2.0)),
    parted(first, rank(1, 3, 8, sharded=True, second=3.5)),
    parted(first, rank(1, 4, 8, sharded=True)),
    parted(rank(0, 0, 8, sharded=False, weight=2.0)),
]
lost = rank(0, 0, 8, sharded=False)
lost[2].chained_optimizers[1].optimizer.state.clear()
try:
    digests(lost)
except RuntimeError as error:
    found.append(str(error))
print(json.dumps(found))
"""


def test_a_digest_is_of_the_whole_job_whoever_holds_what() -> None:
    two_replicas, tied, copy, changed, hole, weight, lost = answer_of(LAYOUTS)
    assert (two_replicas, tied, copy) == ([], [], []), (
        "who holds an element does not matter, nor who else does"
    )
    assert changed == ["whole_exp_avg_sq"]
    assert hole == ["whole_master_weights", "whole_exp_avg", "whole_exp_avg_sq"]
    assert weight == ["whole_parameters"]
    assert lost == "no optimizer keeps the state of a parameter of this rank"

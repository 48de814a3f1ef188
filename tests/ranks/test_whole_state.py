"""Digests that do not depend on the layout of ranks, and depend on everything else."""

from __future__ import annotations

import subprocess
import sys

from tasks.case import REPOSITORY

PROGRAM = """
from types import SimpleNamespace
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import whole_state
from tasks.ranks.whole_state import element_sum, named_parameters
from tasks.restart import OF_NOTHING

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

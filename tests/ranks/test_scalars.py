"""Sums over ranks, on two real ranks of a Gloo group."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.case import REPOSITORY

PROGRAM = """
import json, os, sys
import torch
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks.scalars import SumsOverRanks
rank, path = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
collectives, all_reduce = [], torch.distributed.all_reduce
torch.distributed.all_reduce = lambda total: (collectives.append(total.numel()), all_reduce(total))
sums = SumsOverRanks()
nothing = sums.take()
for iteration in (7, 8):
    part = torch.tensor(0.1 * iteration, dtype=torch.float64)
    sums.add(iteration, {"count": rank + iteration, "places": [0, 0] if rank else [5, 0], "part": part})
first, second = sums.take(), sums.take()
print(json.dumps([nothing, first, second, collectives]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[list]:
    meeting = tmp_path_factory.mktemp("sums") / "meeting"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(meeting)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_every_rank_gets_the_sum_of_each_iteration_in_the_shape_that_it_gave(answers) -> None:
    for answer in answers:
        assert answer[1] == [
            [7, {"count": 15.0, "places": [5.0, 0.0], "part": 2 * (0.1 * 7)}],
            [8, {"count": 17.0, "places": [5.0, 0.0], "part": 2 * (0.1 * 8)}],
        ]


def test_iterations_share_one_collective_and_nothing_needs_none(answers) -> None:
    for nothing, _, after, collectives in answers:
        assert nothing == after == []
        assert collectives == [8]

"""The norm of all parameters, from each rank's share, with and without the distributed optimizer."""

from __future__ import annotations

import json
import subprocess
import sys

from tasks.case import REPOSITORY

PROGRAM = """
import json, os
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore
from tasks.ranks import scalars

cuda_on_cpu.finish_install()


def parameter(main, *, sharded=None, shared=False):
    new = torch.nn.Parameter(torch.zeros(4))
    new.main_param, new.shared = None if main is None else torch.tensor(main), shared
    if sharded is not None:
        new.main_param_sharded = sharded
    return new


def chunk(*parameters):
    module = torch.nn.Module()
    for index, one in enumerate(parameters):
        module.register_parameter(f"p{index}", one)
    return module


def squares(rank):
    torch.distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    own = [[3.0], [4.0]][rank]  # the distributed optimizer: each replica has a shard, or none
    only_first = [[2.0], None][rank]
    distributed = [chunk(parameter(own, sharded=True)), chunk(parameter(only_first, sharded=True))]
    plain = [chunk(parameter([3.0, 4.0])), chunk(parameter([2.0]), parameter([9.0], shared=True))]
    return [float(scalars.parameters_square(chunks)) for chunks in (distributed, plain)]


for rank in (0, 1):
    child = os.fork()
    if not child:
        print(json.dumps(squares(rank)), flush=True)
        os._exit(0)
    assert not os.waitpid(child, 0)[1]
"""


def test_each_element_counts_once_and_tied_embeddings_once() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    first, second = (json.loads(line) for line in finished.stdout.splitlines() if line.startswith("["))
    assert first == [9.0 + 4.0, 25.0 + 4.0]
    assert second == [16.0, 0.0]

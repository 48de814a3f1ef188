"""Sums over ranks, on two real ranks of a Gloo group; and each rank's share of the norm of all parameters."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY
from tests.program import answer_of

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
print(json.dumps([nothing, first, second, collectives]), flush=True)
torch.distributed.destroy_process_group()
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


NORM_PROGRAM = """
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
        [sys.executable, "-c", NORM_PROGRAM],
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


PARTS = """
import argparse, json, sys
from types import SimpleNamespace
import torch
from tasks.ranks import scalars

torch.cuda.memory_stats_as_nested_dict = lambda: {"allocated_bytes": {"all": {"current": 40, "peak": 70}}}
found = {"memory": [scalars.memory_scalars(earlier_peak) for earlier_peak in (0, 90)]}

scalars.parallel_state = SimpleNamespace(get_data_parallel_group=lambda *, with_context_parallel: "replicas")
other_replica = torch.tensor([20.0, 5.0])
torch.distributed.all_reduce = lambda total, *, group: total.add_(other_replica) if group == "replicas" else 0
found["loss"] = float(scalars.mean_loss([torch.tensor([6.0, 2.0]), torch.tensor([4.0, 3.0])]))

said = []


class Writer:
    def __init__(self, folder, *, purge_step, filename_suffix):
        said.append([args.rank, folder, purge_step, filename_suffix])

    def add_scalar(self, name, value, iteration):
        said.append([name, value, iteration])

    def flush(self):
        said.append("flushed")


sys.modules["torch.utils.tensorboard"] = SimpleNamespace(SummaryWriter=Writer)
for rank in range(8):
    args = argparse.Namespace(tensorboard_dir="events", rank=rank, world_size=8, attempt=2)
    scalars.Scalars(args, 50).write(51, {"lm loss": torch.tensor(2.5)})
found["written"] = said


def refused(loss):
    try:
        scalars.refuse_bad_loss(loss, 3)
    except FloatingPointError as error:
        return str(error)


found["refused"] = [refused(loss) for loss in (2.5, float("nan"), float("inf"), -float("inf"))]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def parts() -> dict:
    return answer_of(PARTS)


def test_the_most_that_was_allocated_is_of_the_time_before_the_steps_too(parts: dict) -> None:
    """Loading a checkpoint may have needed more than a step."""
    assert parts["memory"] == [
        {"mem-allocated-bytes": 40, "mem-max-allocated-bytes": most} for most in (70, 90)
    ]


def test_the_loss_is_that_of_a_token_over_micro_batches_and_replicas(parts: dict) -> None:
    assert parts["loss"] == (6 + 4 + 20) / (2 + 3 + 5)


def test_the_last_rank_writes_and_what_it_wrote_is_in_the_file(parts: dict) -> None:
    assert parts["written"] == [[7, "events", 51, ".attempt2"], ["lm loss", 2.5, 51], "flushed"]


def test_a_loss_that_is_no_finite_number_is_refused(parts: dict) -> None:
    assert parts["refused"] == [
        None,
        *(f"lm loss is {loss} at iteration 3" for loss in ("nan", "inf", "-inf")),
    ]

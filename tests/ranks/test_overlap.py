"""Evidence of overlap on megatron-core's own bucket groups: three layers, a bucket each, one rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests.program import answer_of

pytestmark = pytest.mark.training

PROGRAM = """
import json, runpy, sys
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer import TransformerConfig
from tasks.ranks import overlap

grad_overlap, gather_overlap, begin = json.loads(sys.argv[1])
for plugin in sys.argv[2:]:
    runpy.run_path(plugin)
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
torch.manual_seed(1)
layers = torch.nn.Sequential(*[torch.nn.Linear(8, 8, bias=False) for _ in range(3)])
options = DistributedDataParallelConfig(
    overlap_grad_reduce=grad_overlap, overlap_param_gather=gather_overlap, use_distributed_optimizer=True,
    bucket_size=64,
)
config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
chunk = DistributedDataParallel(config, options, layers)
watch = overlap.Overlap([chunk]) if begin else None
steps = []
for _ in range(3):
    chunk.zero_grad_buffer()
    if not gather_overlap:
        chunk.start_param_sync()
    chunk(torch.ones(2, 8)).square().sum().backward()
    chunk.finish_grad_sync()
    if watch and grad_overlap and gather_overlap:
        assert not watch._at_once, "all is asynchronous: what is waited for is exposed, and nothing twice"
    digest = float(sum(parameter.main_grad.double().sum() for parameter in layers.parameters()))
    steps.append([digest, watch.take() if watch else None])
chunk.start_param_sync(force_sync=True)  # as for a checkpoint: of no step
if watch:
    assert watch.take()["overlap-exposed-time"] == 0
torch.distributed.destroy_process_group()  # left to Python's end, a thread of Gloo's now and then aborts it
print(json.dumps([len(overlap.bucket_groups([chunk])), steps]))
"""


def three_steps(
    *plugins: Path, grad: bool = True, gather: bool = True, watched: bool = True, buckets: int = 3
) -> tuple[list[float], list[dict[str, float]]]:
    """A digest of the gradients and what was counted, a step each."""
    groups, steps = answer_of(PROGRAM, json.dumps([grad, gather, watched]), *map(str, plugins))
    assert groups == buckets
    return [digest for digest, _ in steps], [counts for _, counts in steps]


def counted(name: str, counts: list[dict[str, float]]) -> list[float]:
    return [step[name] for step in counts]


@pytest.fixture(scope="module")
def overlapped() -> tuple[list[float], list[dict[str, float]]]:
    return three_steps()


def test_all_reductions_but_that_of_the_last_gradients_begin_early(overlapped) -> None:
    # The first batch shows megatron-core which gradients to wait for, so nothing can begin in it.
    assert counted("overlap-grad-buckets", overlapped[1]) == [0, 2, 2]


def test_all_gathers_but_that_of_the_first_parameters_begin_ahead(overlapped) -> None:
    assert counted("overlap-param-gathers", overlapped[1]) == [2, 2, 2]


def test_times_are_measured(overlapped) -> None:
    for step in overlapped[1]:
        assert 0 < step["overlap-hidden-time"] < 10
        assert 0 < step["overlap-exposed-time"] < 10


def test_watching_changes_no_gradient(overlapped) -> None:
    assert three_steps(watched=False)[0] == overlapped[0]


def test_reductions_without_overlap_are_not_early() -> None:
    # megatron-core then makes one bucket of all, and its one gather cannot be ahead.
    _, counts = three_steps(grad=False, buckets=1)
    assert counted("overlap-grad-buckets", counts) == [0, 0, 0]
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_all_of_a_synchronous_communication_is_exposed() -> None:
    _, counts = three_steps(grad=False, gather=False, buckets=1)
    assert counted("overlap-hidden-time", counts) == [0, 0, 0]
    assert all(0 < seconds < 10 for seconds in counted("overlap-exposed-time", counts))


def test_gathers_without_overlap_are_not_ahead() -> None:
    _, counts = three_steps(gather=False)
    assert counted("overlap-grad-buckets", counts) == [0, 2, 2]
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_a_reduction_that_is_waited_for_at_once_is_not_early() -> None:
    _, counts = three_steps(REPOSITORY / "tests" / "faults" / "grad_overlap_waited_for.py")
    assert counted("overlap-grad-buckets", counts) == [0, 0, 0]


def test_a_gather_that_its_use_does_not_wait_for_does_not_count() -> None:
    _, counts = three_steps(REPOSITORY / "tests" / "faults" / "parameters_used_before_gathered.py")
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_a_handle_that_is_waited_for_twice_counts_once() -> None:
    program = (
        "from tasks.ranks import cuda_on_cpu; cuda_on_cpu.install()\n"
        "from tasks.ranks.device import EventPool\n"
        "from tasks.ranks.overlap import _WatchedHandle\n"
        "class Handle:\n"
        "    waits = 0\n"
        "    def wait(self):\n"
        "        self.waits += 1\n"
        "handle, seen = Handle(), []\n"
        "watched = _WatchedHandle(handle, EventPool())\n"
        "watched.on_wait = seen.append\n"
        "watched.wait(), watched.wait()\n"
        "assert handle.waits == 2 and seen == [watched], (handle.waits, seen)\n"
        "class Event:\n"
        "    def __init__(self, at):\n"
        "        self.at = at\n"
        "    def elapsed_time(self, later):\n"
        "        return later.at - self.at\n"
        "class Events:\n"
        "    times = [0.0, 1000.0, 1500.0]\n"
        "    def record(self):\n"
        "        return Event(self.times.pop(0))\n"
        "watched = _WatchedHandle(handle, Events())\n"
        "watched.wait(), watched.wait()\n"
        "assert (watched.hidden_s, watched.exposed_s) == (1.0, 0.5), 'until the wait, and in it'\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr

"""Memory growth and computing time in pieces of work, in a process of its own: the stand-in changes torch."""

from __future__ import annotations

import itertools

import pytest

from tests.program import answer_of

pytestmark = pytest.mark.training

PROGRAM = """
import argparse, json, mmap, time
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from megatron.core.pipeline_parallel import schedules
from tasks.ranks import resources

def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

schedules.forward_step = lambda: compute(0.01)
schedules.backward_step = lambda: (compute(0.02), time.sleep(0.05))
args = argparse.Namespace(rank=1, world_size=4, num_attention_heads=4, hidden_size=32, ffn_hidden_size=128,
                          seq_length=32, micro_batch_size=1)
torch.manual_seed(1)
random_state = torch.get_rng_state()
measured = resources.Resources(args)
taken, leaked = [], []
for iteration in range(51, 60):
    measured.begin_step()
    schedules.forward_step()
    schedules.backward_step()
    measured.end_step()
    taken.append(measured.take(iteration))
    measured.compute_piece()
    leaked.append(b"x" * 2**22)
sums = {"forward": 6.0, "backward": 3.0, "piece": 0.1, "step": 12.0, "mem-growth-bytes": [0.0, 7.0, 3.0]}
scalars = resources.scalars_from(sums)
untouched = bool((random_state == torch.get_rng_state()).all())
passes = iter(range(1, 100))
schedules.forward_step = lambda: compute(0.001 * next(passes))
rare, pieces, rarely = resources.Resources(args), [], []
rare._timed_every, rare._work = 4, lambda: pieces.append(rare._steps)
for step in range(1, 14):
    rare.begin_step()
    if step != 12:
        schedules.forward_step()
    rare.end_step()
    rarely.append(rare.take(50 + step))
    rare.compute_piece()
works = iter([0.1, 0.001, 0.0, 0.0])
resources._piece_of_work = lambda _: lambda: compute(next(works))
first = resources.Resources(args)
first.begin_step(), first.end_step()
first_piece = first.take(51)["piece"]
own = resources._memory()["host"]
shared = mmap.mmap(-1, 2**26)
for _ in range(64):
    shared.write(bytes(2**20))
shares = resources._memory()["host"] - own
memory = [{"host": 5, "device": 7}, {"host": 9, "device": 8}]
resources._memory = lambda: memory.pop(0)
two_kinds = resources.Resources(args)
growth = [two_kinds._memory_growth(iteration) for iteration in (51, 56)]
print(json.dumps([taken, scalars, untouched, sorted(sums), pieces, rarely, shares, growth, first_piece]))
"""


@pytest.fixture(scope="module")
def measured() -> list:
    return answer_of(PROGRAM)


def test_growth_counts_from_the_warm_up_on_and_lies_in_the_place_of_the_rank(measured) -> None:
    growth = [values["mem-growth-bytes"] for values in measured[0]]
    assert [values[1] for values in growth[:5]] == [0.0] * 5
    assert all(values[0] == values[2] == values[3] == 0.0 for values in growth)
    steps = [later[1] - earlier[1] for earlier, later in itertools.pairwise(growth[4:])]
    assert all(3.5 * 2**20 < step < 5 * 2**20 for step in steps), steps


def test_memory_that_is_shared_is_no_growth_and_the_kind_that_grew_most_counts(measured) -> None:
    assert measured[6] < 2**25
    assert measured[7] == [0, 4]


def test_computing_counts_and_waiting_does_not(measured) -> None:
    for values in measured[0]:
        assert 0.01 <= values["forward"] < 0.018
        assert 0.02 <= values["backward"] < 0.035
        assert 0.03 <= values["step"] < 0.06
        assert 0 < values["piece"] < 0.2


def test_the_piece_of_work_uses_no_random_numbers(measured) -> None:
    assert measured[2] is True


def test_scalars_are_ratios_and_the_largest_growth(measured) -> None:
    assert measured[1] == {
        "mem-growth-bytes": 7.0,
        "relative-forward-time": pytest.approx(60.0),
        "relative-backward-time": pytest.approx(30.0),
        "relative-step-time": pytest.approx(120.0),
    }
    assert measured[3] == [], "what was summed is no scalar of the job"


def test_a_piece_that_is_not_due_leaves_the_last_ones_time(measured) -> None:
    assert measured[4] == [4, 8, 12]
    assert all(values["piece"] > 0 for values in measured[5])


def test_the_piece_that_loads_its_kernels_is_not_timed(measured) -> None:
    assert 0 < measured[8] < 0.05


def test_passes_are_timed_while_warming_up_and_then_with_each_piece(measured) -> None:
    """Step N's pass takes N ms; in step 12 there is none, which is no reason to show another step's."""
    whole_ms = [int(values["forward"] * 1000) for values in measured[5]]
    assert whole_ms == [1, 2, 3, 4, 5, 5, 5, 8, 8, 8, 8, 0, 0]

"""Digests see any change of the state; random states come back, each of them; in a process of their own."""

from __future__ import annotations

import pytest

from tests.program import answer_of

RANDOM = """
import json, random
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import numpy, torch
from megatron.core import tensor_parallel
from tasks.ranks import state

cuda_on_cpu.finish_install()
device = torch.Generator().manual_seed(3)  # a GPU's is another one than torch's, unlike here
torch.cuda.get_rng_state, torch.cuda.set_rng_state = device.get_state, device.set_state
tracker = tensor_parallel.get_cuda_rng_tracker()
tracker.set_states({"model": torch.Generator().manual_seed(7).get_state()})


def from_tracker():
    new = torch.Generator()
    new.set_state(tracker.get_states()["model"])
    drawn = float(torch.rand(1, generator=new))
    tracker.set_states({"model": new.get_state()})
    return drawn


draws = {
    "Python": random.random,
    "NumPy": numpy.random.random,
    "torch": lambda: float(torch.rand(1)),
    "device": lambda: float(torch.rand(1, generator=device)),
    "tracker": from_tracker,
}
found = {}
for name, draw in draws.items():
    before, kept = state._digest_random_states(), state.random_states()
    drawn, after = draw(), state._digest_random_states()
    state.restore_random_states(kept)
    found[name] = [before != after, before == state._digest_random_states(), drawn == draw()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[bool]]:
    return answer_of(RANDOM)


@pytest.mark.parametrize("generator", ["Python", "NumPy", "torch", "device", "tracker"])
def test_a_draw_of_any_generator_shows_and_is_taken_back(
    found: dict[str, list[bool]], generator: str
) -> None:
    shows, digest_is_back, draws_again = found[generator]
    assert (shows, digest_is_back, draws_again) == (True, True, True)


DIGESTS = """
import argparse, json, pathlib, sys
from types import SimpleNamespace
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import state

values = torch.arange(6, dtype=torch.float32)
changed = values.clone()
changed[0] = -0.0
others = {
    "shape": [values.view(2, 3)],
    "kind of number": [values.view(torch.int32)],
    "sign of a zero": [changed],
    "order": [values.flip(0)],
    "one more": [values, values],
    "split": [values[:3], values[3:]],
}
digests = {name: state._digest_tensors(tensors) for name, tensors in others.items()}
same = state._digest_tensors([torch.stack([values, values])[:, 0:6].clone()[1]])

weights = [torch.nn.Parameter(torch.full((2,), float(number))) for number in range(4)]


def optimizer(steps, *, with_group=False, second=4.0):
    adam = torch.optim.AdamW(weights[:2])
    for weight, step in zip(weights, steps):
        kept = {"exp_avg": torch.full((2,), 3.0), "exp_avg_sq": torch.full((2,), second)}
        adam.state[weight] = kept if with_group else kept | {"step": torch.tensor(float(step))}
    if with_group:
        adam.param_groups[0]["step"] = steps[0]
    return SimpleNamespace(optimizer=adam)


steps = [state._optimizer_steps(optimizer([5, 5])), state._optimizer_steps(optimizer([5, 6])),
         state._optimizer_steps(optimizer([7, 7], with_group=True))]


def told(*, optimizer=optimizer([5, 5]), rate=0.1, batch="a", samples=16, chunks=((0, 1), (2, 3))):
    held = [[weights[index] for index in own] for own in chunks]
    modules = [SimpleNamespace(parameters=lambda own=own: own) for own in held]
    scheduler = SimpleNamespace(state_dict=lambda: {"rate": rate})
    iterators = [None, SimpleNamespace(next_digest=lambda: batch)]
    return state.state_digests(modules, optimizer, scheduler, iterators, samples)


changes = [dict(optimizer=optimizer([6, 6])), dict(optimizer=optimizer([5, 5], second=4.5)), dict(rate=0.2),
           dict(batch="b"), dict(samples=17), dict(chunks=((0, 1), (2,)))]
whole = told()
parted = [
    sorted(name for name, digest in told(**change).items() if digest != whole[name]) for change in changes
]
folder = pathlib.Path(sys.argv[1]) / "evidence"
state.write_evidence(folder, "saved", 50, argparse.Namespace(rank=3), {"rng": "a"})
files = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
print(json.dumps([[state._digest_tensors([values]), same], digests, steps, parted, files]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list:
    return answer_of(DIGESTS, str(tmp_path_factory.mktemp("state")))


def test_a_digest_is_of_values_kind_and_shape_and_of_nothing_else(told: list) -> None:
    (digest, same), others, *_ = told
    assert digest == same
    assert len({digest, *others.values()}) == 1 + len(others), others


def test_steps_are_those_of_every_parameter_or_of_the_group(told: list) -> None:
    assert told[2] == [[5.0], [5.0, 6.0], [7.0]]


def test_each_part_of_the_state_shows_in_the_digest_of_its_name(told: list) -> None:
    assert told[3] == [
        ["optimizer_steps"],
        ["exp_avg_sq"],
        ["scheduler"],
        ["next_batch"],
        ["consumed_samples"],
        ["parameters"],
    ]


def test_evidence_is_whole_and_named_by_what_it_is_of(told: list) -> None:
    assert told[4] == {"saved_0000050_rank3.json": {"rng": "a"}}


PARTS = """
import json
from types import SimpleNamespace as Made
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import state


class Batches:
    def __init__(self, *left):
        self.left = left

    def next_digest(self):
        if not self.left:
            raise StopIteration
        return self.left[0]


def digests(*batches, step=2.0):
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    for group in inner.param_groups:
        for parameter in group["params"]:
            inner.state[parameter] = {name: torch.ones(3) for name in ("exp_avg", "exp_avg_sq")}
            if step is not None:
                inner.state[parameter]["step"] = torch.tensor(step)
    return state.state_digests([], Made(optimizer=inner), Made(state_dict=dict), list(batches), 8)


found = {
    "next": digests(None, Batches("a"), Batches("b")),
    "same": digests(None, Batches("a", "c"), Batches("b")),
    "other": digests(None, Batches("a"), Batches("c")),
    "end": digests(None, Batches("a"), Batches()),
    "other step": digests(step=3.0),
    "no step": digests(step=None),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def digests() -> dict:
    """Digests by name, for several states of the data and of the optimizer."""
    return answer_of(PARTS)


def test_the_end_of_the_data_is_a_state_like_any_other(digests: dict) -> None:
    """A data set with no sample more than training takes has no next batch when the last step is saved."""
    batches = {name: digests[name]["next_batch"] for name in ("next", "same", "other", "end")}
    assert batches["next"] == batches["same"]
    assert len(set(batches.values())) == 3


def test_an_optimizer_that_counts_no_step_proves_nothing(digests: dict) -> None:
    assert digests["no step"]["optimizer_steps"] == ""
    assert len({digests[name]["optimizer_steps"] for name in ("next", "other step", "no step")}) == 3

"""Random states and digests of the state of a rank."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from megatron.core import tensor_parallel

from tasks.ranks import state


def _generators() -> dict[str, Callable[[], float]]:
    """A draw from each generator. The device's is another one than torch's, as on a GPU."""
    device = torch.Generator().manual_seed(3)
    torch.cuda.get_rng_state, torch.cuda.set_rng_state = device.get_state, device.set_state
    tracker = tensor_parallel.get_cuda_rng_tracker()
    tracker.set_states({"model": torch.Generator().manual_seed(7).get_state()})

    def from_tracker() -> float:
        new = torch.Generator()
        new.set_state(tracker.get_states()["model"])
        drawn = float(torch.rand(1, generator=new))
        tracker.set_states({"model": new.get_state()})
        return drawn

    return {
        "Python": random.random,
        "NumPy": numpy.random.random,
        "torch": lambda: float(torch.rand(1)),
        "device": lambda: float(torch.rand(1, generator=device)),
        "tracker": from_tracker,
    }


def draw_and_restore(generator: str) -> dict[str, bool]:
    """A draw: whether the digest changes, is back after a restore, and the same is drawn again."""
    draw = _generators()[generator]
    before, kept = state._digest_random_states(), state.random_states()
    drawn, after = draw(), state._digest_random_states()
    state.restore_random_states(kept)
    back = before == state._digest_random_states()
    return {"shows": before != after, "digest is back": back, "draws again": drawn == draw()}


def digests_of_tensors() -> dict[str, Any]:
    """The digest of some tensors, of equal ones made in another way, and of others by what differs."""
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
    return {
        "digest": state._digest_tensors([values]),
        "same": state._digest_tensors([torch.stack([values, values])[:, 0:6].clone()[1]]),
        "others": {name: state._digest_tensors(tensors) for name, tensors in others.items()},
    }


WEIGHTS = [torch.nn.Parameter(torch.full((2,), float(number))) for number in range(4)]


def _optimizer(steps: Sequence[int], *, with_group: bool = False, second: float = 4.0) -> SimpleNamespace:
    """Adam of two weights that counts its steps a weight, or a group."""
    adam = torch.optim.AdamW(WEIGHTS[:2])
    for weight, step in zip(WEIGHTS, steps, strict=False):
        kept = {"exp_avg": torch.full((2,), 3.0), "exp_avg_sq": torch.full((2,), second)}
        adam.state[weight] = kept if with_group else kept | {"step": torch.tensor(float(step))}
    if with_group:
        adam.param_groups[0]["step"] = steps[0]
    return SimpleNamespace(optimizer=adam)


def optimizer_steps() -> list[list[float]]:
    """Steps of an optimizer whose parameters agree, of one whose do not, of one that counts in the group."""
    counted = _optimizer([5, 5]), _optimizer([5, 6]), _optimizer([7, 7], with_group=True)
    return [state._optimizer_steps(optimizer) for optimizer in counted]


def _digests(
    *,
    optimizer: SimpleNamespace | None = None,
    rate: float = 0.1,
    batch: str = "a",
    samples: int = 16,
    chunks: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3)),
) -> dict[str, str]:
    held = [[WEIGHTS[index] for index in own] for own in chunks]
    modules = [SimpleNamespace(parameters=lambda own=own: own) for own in held]
    scheduler = SimpleNamespace(state_dict=lambda: {"rate": rate})
    iterators = [None, SimpleNamespace(next_digest=lambda: batch)]
    return state.state_digests(modules, optimizer or _optimizer([5, 5]), scheduler, iterators, samples)


def names_that_differ() -> list[list[str]]:
    """Names of the digests that differ when one part of the state does, a part each."""
    changes = [
        {"optimizer": _optimizer([6, 6])},
        {"optimizer": _optimizer([5, 5], second=4.5)},
        {"rate": 0.2},
        {"batch": "b"},
        {"samples": 17},
        {"chunks": ((0, 1), (2,))},
    ]
    whole = _digests()
    return [
        sorted(name for name, digest in _digests(**change).items() if digest != whole[name])
        for change in changes
    ]


def written_evidence(folder: str) -> dict[str, Any]:
    """The files of evidence by name."""
    state.write_evidence(Path(folder), "saved", 50, argparse.Namespace(rank=3), {"rng": "a"})
    return {path.name: json.loads(path.read_text()) for path in Path(folder).iterdir()}


class _Batches:
    """Batches whose digests are given."""

    def __init__(self, *left: str) -> None:
        self.left = left

    def next_digest(self) -> str:
        if not self.left:
            raise StopIteration
        return self.left[0]


def _digests_of_parts(*batches: _Batches | None, step: float | None = 2.0) -> dict[str, str]:
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    for group in inner.param_groups:
        for parameter in group["params"]:
            inner.state[parameter] = {name: torch.ones(3) for name in ("exp_avg", "exp_avg_sq")}
            if step is not None:
                inner.state[parameter]["step"] = torch.tensor(step)
    scheduler = SimpleNamespace(state_dict=dict)
    return state.state_digests([], SimpleNamespace(optimizer=inner), scheduler, list(batches), 8)


def digests_of_parts() -> dict[str, dict[str, str]]:
    """Digests by name, for several states of the data and of the optimizer."""
    return {
        "next": _digests_of_parts(None, _Batches("a"), _Batches("b")),
        "same": _digests_of_parts(None, _Batches("a", "c"), _Batches("b")),
        "other": _digests_of_parts(None, _Batches("a"), _Batches("c")),
        "end": _digests_of_parts(None, _Batches("a"), _Batches()),
        "other step": _digests_of_parts(step=3.0),
        "no step": _digests_of_parts(step=None),
    }

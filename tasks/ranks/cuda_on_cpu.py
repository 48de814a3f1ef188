"""megatron-core's CUDA calls, served by the CPU.

megatron-core asks torch for CUDA devices, streams, events and random generators without offering another
device. On a machine without a GPU this module answers those calls: one table of what is replaced and why.
It must be installed before megatron is imported, and it refuses to be installed on a CUDA host.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tasks.machine.host_memory import peak_resident_bytes, resident_bytes

_CPU = torch.device("cpu")
# Megatron prefers them wherever they are installed, as on a GPU host that is told to use its CPU.
_WITHOUT_CPU_KERNELS = ("transformer_engine", "apex")


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One name of torch that is replaced while the stand-in is in force."""

    owner: Any
    name: str
    stand_in: Callable[[Any], Any]  # what was there -> what stands in for it
    why: str


class _Stream:
    """Everything on the CPU runs in program order, so a stream orders nothing."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, _: Any) -> None:
        """All earlier work is already done."""

    def wait_event(self, _: Any) -> None:
        """All earlier work is already done."""

    def record_event(self, event: Any = None) -> Any:
        event = event or _Event()
        event.record()
        return event

    def synchronize(self) -> None:
        """All earlier work is already done."""


class _Event:
    """A point in time; ``elapsed_time`` is in milliseconds, as in torch."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seconds = 0.0

    def record(self, *_: Any) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return (end.seconds - self.seconds) * 1000.0

    def wait(self, *_: Any) -> None:
        """All earlier work is already done."""

    def synchronize(self) -> None:
        """All earlier work is already done."""

    def query(self) -> bool:
        return True


class _Generators:
    """``torch.cuda.default_generators``: whatever the index, the CPU's generator."""

    def __getitem__(self, _: Any) -> torch.Generator:
        return torch.default_generator

    def __len__(self) -> int:
        return 1


def _is_cuda(device: Any) -> bool:
    return str(device).startswith("cuda") or (isinstance(device, int) and not isinstance(device, bool))


def _made_on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return make


def _moved_to_cpu(to: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(to)
    def move(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], (str, torch.device)) and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        if kwargs.get("device") is not None and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        return to(tensor, *args, **kwargs)

    return move


def _named_as_cuda(tensor_type: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(tensor_type)
    def name(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = tensor_type(tensor, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    return name


def _not_compiled(_: Any) -> Any:
    def compile(model: Any = None, **__: Any) -> Any:
        return model if model is not None else (lambda function: function)

    return compile


_bytes_after_imports = 0  # resident memory that the ranks inherit; it differs between builds of torch


def _nested_memory_stats(*_: Any, **__: Any) -> dict[str, Any]:
    now = {"current": resident_bytes(), "peak": peak_resident_bytes()}
    now = {name: most - _bytes_after_imports for name, most in now.items()}
    counts = {"allocation": {"all": {"allocated": 0, "current": 0}}, "num_ooms": 0}
    return {"allocated_bytes": {"all": now}, "reserved_bytes": {"all": now}, **counts}


@contextlib.contextmanager
def _no_context(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _answer(value: Any) -> Callable[[Any], Any]:
    return lambda _: lambda *args, **kwargs: value


def _instead(stand_in: Any) -> Callable[[Any], Any]:
    return lambda _: stand_in


def _forks_for_spawns(get_context: Callable[..., Any]) -> Callable[..., Any]:
    return lambda method=None: get_context("fork" if method in ("spawn", "forkserver") else method)


def _seed_cpu_alone(_: Any) -> Any:
    """``torch.manual_seed`` itself calls ``torch.cuda.manual_seed_all``: going back there would recurse."""
    return lambda seed: torch.default_generator.manual_seed(int(seed)) and None


_FACTORIES = [
    "empty",
    "zeros",
    "ones",
    "full",
    "tensor",
    "as_tensor",
    "arange",
    "rand",
    "randn",
    "randint",
    "linspace",
    "eye",
]
_LIKE_FACTORIES = ["empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"]


def replacements() -> list[Replacement]:
    """Everything that is replaced, and why."""
    cuda = torch.cuda
    rows: list[tuple[Any, str, Callable[[Any], Any], str]] = [
        (cuda, "current_device", _answer(_CPU), "the device on which megatron allocates"),
        (cuda, "device_count", _answer(1), "checkpoint workers take the rank modulo this number"),
        (cuda, "set_device", _answer(None), "there is nothing to choose"),
        (cuda, "synchronize", _answer(None), "the CPU has no queue"),
        (cuda, "empty_cache", _answer(None), "the CPU has no caching allocator"),
        (cuda, "get_device_capability", _answer((0, 0)), "no kernel may be chosen by it"),
        (cuda, "Stream", _instead(_Stream), "program order is the only order"),
        (cuda, "Event", _instead(_Event), "times are wall-clock times"),
        (cuda, "current_stream", _answer(_Stream()), "program order is the only order"),
        (cuda, "default_stream", _answer(_Stream()), "program order is the only order"),
        (cuda, "stream", _instead(_no_context), "program order is the only order"),
        (cuda, "set_stream", _answer(None), "program order is the only order"),
        (cuda, "get_rng_state", _instead(lambda *a, **k: torch.get_rng_state()), "one generator: the CPU's"),
        (cuda, "set_rng_state", _instead(lambda s, *a, **k: torch.set_rng_state(s)), "one generator"),
        (cuda.random, "get_rng_state", _instead(lambda *a, **k: torch.get_rng_state()), "one generator"),
        (cuda.random, "set_rng_state", _instead(lambda s, *a, **k: torch.set_rng_state(s)), "one generator"),
        (cuda, "manual_seed", _seed_cpu_alone, "megatron seeds its tracker through it"),
        (cuda, "default_generators", _instead(_Generators()), "megatron's tracker sets states on them"),
        (cuda, "_lazy_call", _instead(lambda call, **_: call()), "CUDA will never be initialised"),
        (cuda, "_lazy_init", _answer(None), "CUDA will never be initialised"),
        (
            cuda,
            "memory_stats_as_nested_dict",
            _instead(_nested_memory_stats),
            "resident bytes",
        ),
        (cuda.memory, "memory_stats_as_nested_dict", _instead(_nested_memory_stats), "what all others ask"),
        (cuda.nvtx, "range_push", _answer(None), "no profiler listens"),
        (cuda.nvtx, "range_pop", _answer(None), "no profiler listens"),
        (torch, "compile", _not_compiled, "eight compilers on the CPU cost minutes and gain nothing"),
        (
            torch.multiprocessing,
            "get_context",
            _forks_for_spawns,
            "CUDA forbids forks, the CPU does not: a spawned checkpoint worker imports torch again",
        ),
        (torch.Tensor, "cuda", _instead(lambda tensor, *_, **__: tensor), "already where it belongs"),
        (torch.nn.Module, "cuda", _instead(lambda module, *_, **__: module), "already where it belongs"),
        (torch.Tensor, "pin_memory", _instead(lambda tensor, *_: tensor), "no transfer to speed up"),
        (torch.Tensor, "to", _moved_to_cpu, "megatron moves tensors to 'cuda'"),
        (
            torch.Tensor,
            "type",
            _named_as_cuda,
            "the optimizer tells precisions apart by 'torch.cuda.…Tensor'",
        ),
    ]
    rows += [
        (torch, name, _made_on_cpu, "megatron allocates on 'cuda'") for name in _FACTORIES + _LIKE_FACTORIES
    ]
    return [Replacement(owner=o, name=n, stand_in=s, why=w) for o, n, s, w in rows]


def install() -> None:
    """Install every replacement.

    Raises:
        RuntimeError: this is a CUDA host.
        AttributeError: the installed torch lacks a name.
    """
    if torch.cuda.is_available():
        raise RuntimeError("the CPU stand-in for CUDA must not be installed on a CUDA host")
    for package in _WITHOUT_CPU_KERNELS:
        sys.modules[package] = None  # importing it fails, and megatron takes its own modules
    for row in replacements():
        setattr(row.owner, row.name, row.stand_in(getattr(row.owner, row.name)))
    # Its tracker of CUDA generators warns at every dropout that the CPU's moved: here they are one.
    logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


def stage_a_copy(write_buckets: list, non_blocking: bool = True) -> list:
    """megatron-core's staging of tensors for a checkpoint, as a copy.

    Megatron stages with ``tensor.to("cpu")``, a copy from a GPU. On the CPU that is no copy: training would
    go on changing the tensors while the checkpoint worker writes them.
    """
    return [
        (path, key, (bytes_data, [(item, tensor.detach().clone()) for item, tensor in tensor_data]))
        for path, key, (bytes_data, tensor_data) in write_buckets
    ]


def finish_install() -> None:
    """The part that needs megatron imported."""
    global _bytes_after_imports
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    FileSystemWriterAsync.preload_tensors = staticmethod(stage_a_copy)
    _bytes_after_imports = resident_bytes()

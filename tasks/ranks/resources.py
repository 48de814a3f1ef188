"""Cost of training: growth of memory, and computing time in multiples of a fixed piece of work.

An absolute time says little on a shared machine. Every rank therefore computes a fixed piece of similar work
between the steps; the number of pieces that a forward pass takes depends on the program alone. On a CPU the
processor's time is measured, not the clock's: waiting for others does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional
from megatron.core.pipeline_parallel import schedules

from tasks.cases import metrics
from tasks.machine.host_memory import resident_bytes
from tasks.ranks.device import EventPool, allocated_bytes

# Steps: on a GPU the piece delays the step after it, and events around every pass cost 1 to 3 % of a step.
TIMED_EVERY_ON_CUDA = 10
# A piece takes a millisecond, and pieces vary by a third: times are relative to the median of the last ones.
PIECES = 10
_FORWARD, _BACKWARD, _STEP, _PIECE = "forward", "backward", "step", "piece"


class _Stopwatch:
    """Seconds of computing between ``start`` and ``stop``, over all pairs of them since ``take``.

    ``on``: this step is measured; otherwise the seconds are those of the last step that was.
    """

    def __init__(self) -> None:
        self.on = True
        self._events = EventPool() if torch.cuda.is_available() else None
        self._pairs: list[list[Any]] = []
        self._seconds = 0.0

    def _now(self) -> Any:
        return self._events.record() if self._events else time.thread_time()

    def start(self) -> None:
        self._pairs.append([self._now()])

    def stop(self) -> None:
        self._pairs[-1].append(self._now())

    def take(self) -> float:
        """The seconds; the device must have finished: the gradient norm, for which the host waits, comes
        after.
        """
        pairs, self._pairs = self._pairs, []
        if self.on:
            self._seconds = sum(self._between(*pair) for pair in pairs)
        if self._events:
            self._events.take_back(event for pair in pairs for event in pair)
        return self._seconds

    def _between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1000.0 if self._events else end - begin


class Resources:
    """Measurements of one rank, while ``installed``; sums over all ranks are given to ``scalars_from``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._first_iteration: int | None = None
        self._memory_at_start: dict[str, int] = {}
        self._watches = {name: _Stopwatch() for name in (_FORWARD, _BACKWARD, _PIECE)}
        self._work = _piece_of_work(args)
        self._pieces: deque[float] = deque(maxlen=PIECES)
        self._timed_every = TIMED_EVERY_ON_CUDA if torch.cuda.is_available() else 1
        self._steps = 0
        self._step_begin = self._step_s = 0.0
        self._work()  # kernels are loaded by the first one: 70 times the time of the next, on an H100
        self.compute_piece()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the forward and backward passes of megatron-core's schedules are timed."""
        forward, backward = schedules.forward_step, schedules.backward_step
        schedules.forward_step = _timed(forward, self._watches[_FORWARD])
        schedules.backward_step = _timed(backward, self._watches[_BACKWARD])
        try:
            yield
        finally:
            schedules.forward_step, schedules.backward_step = forward, backward

    def begin_step(self) -> None:
        """Call it before the first forward pass of a step."""
        self._watches[_FORWARD].on = self._watches[_BACKWARD].on = self._passes_are_due()
        self._step_begin = self._step_clock()

    def _passes_are_due(self) -> bool:
        return self._steps <= metrics.WARM_UP_STEPS or self._steps % self._timed_every == 0

    def end_step(self) -> None:
        """Call it after the optimizer's step."""
        self._step_s = self._step_clock() - self._step_begin

    def _step_clock(self) -> float:
        # All threads of the process count: those that reduce gradients, too.
        return time.perf_counter() if torch.cuda.is_available() else time.process_time()

    def compute_piece(self) -> None:
        """The fixed piece of work, if it is due; call it after each step, outside of what is timed as one."""
        watch = self._watches[_PIECE]
        watch.on = self._steps % self._timed_every == 0
        if watch.on:
            watch.start()
            self._work()
            watch.stop()
        self._steps += 1

    def take(self, iteration: int) -> dict[str, Any]:
        """This rank's seconds since the last call, and its growth of memory in its own place of a list."""
        growth = [0] * self._args.world_size
        growth[self._args.rank] = self._memory_growth(iteration)
        seconds = {name: watch.take() for name, watch in self._watches.items()}
        if self._watches[_PIECE].on:
            self._pieces.append(seconds[_PIECE])
        seconds[_PIECE] = statistics.median(self._pieces)
        return {**seconds, _STEP: self._step_s, metrics.MEMORY_GROWTH.name: growth}

    def _memory_growth(self, iteration: int) -> int:
        if self._first_iteration is None:
            self._first_iteration = iteration
        now = _memory()
        if iteration < self._first_iteration + metrics.WARM_UP_STEPS:
            self._memory_at_start = now
        return max(now[kind] - self._memory_at_start[kind] for kind in now)


def scalars_from(sums: dict[str, Any]) -> dict[str, float]:
    """The scalars of the job, from sums over all ranks of ``Resources.take``, which are removed from
    ``sums``.
    """
    seconds = {name: sums.pop(name) for name in (_FORWARD, _BACKWARD, _PIECE, _STEP)}
    return {
        metrics.MEMORY_GROWTH.name: max(sums.pop(metrics.MEMORY_GROWTH.name)),
        metrics.RELATIVE_FORWARD_TIME.name: seconds[_FORWARD] / seconds[_PIECE],
        metrics.RELATIVE_BACKWARD_TIME.name: seconds[_BACKWARD] / seconds[_PIECE],
        metrics.RELATIVE_STEP_TIME.name: seconds[_STEP] / seconds[_PIECE],
    }


def _timed(function: Callable[..., Any], watch: _Stopwatch) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not watch.on:
            return function(*args, **kwargs)
        watch.start()
        answer = function(*args, **kwargs)
        watch.stop()
        return answer

    return call


def _memory() -> dict[str, int]:
    """Bytes that only this process uses, on the host and on its device."""
    memory = {"host": resident_bytes()}
    if torch.cuda.is_available():
        memory["device"] = allocated_bytes()["current"]
    return memory


def _piece_of_work(args: argparse.Namespace) -> Callable[[], None]:
    """Forward and backward of one layer like the model's, with weights of its own; uses no random numbers."""
    heads, hidden, length = args.num_attention_heads, args.hidden_size, args.seq_length
    options = {"dtype": torch.bfloat16, "device": torch.cuda.current_device()}

    def filled(*shape: int) -> torch.Tensor:
        return torch.full(shape, 1.0 / hidden, **options)

    tokens = filled(length, args.micro_batch_size, hidden)
    up = filled(args.ffn_hidden_size, hidden).requires_grad_()
    down = filled(hidden, args.ffn_hidden_size).requires_grad_()

    def work() -> None:
        functional = torch.nn.functional
        normed = functional.layer_norm(tokens, (hidden,))
        query = normed.reshape(length, -1, hidden // heads).transpose(0, 1)
        scores = torch.softmax(torch.bmm(query, query.transpose(1, 2)).float(), dim=-1).bfloat16()
        attended = torch.bmm(scores, query).transpose(0, 1).reshape(tokens.shape)
        output = functional.linear(functional.gelu(functional.linear(attended, up)), down)
        torch.autograd.grad(output.float().square().mean(), (up, down))

    return work

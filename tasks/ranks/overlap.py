"""Evidence that communication was really overlapped: counted and timed on megatron-core's bucket groups.

A flag says what was asked for, not what happened. Counted is what happened: a reduction is early when it was
asynchronous and this rank computed gradients after it began; a gather is ahead when it was asynchronous and
something else than its own first use began it. A synchronous call is neither. Loss curves show none of this.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from tasks.cases import metrics
from tasks.ranks import mcore_compat
from tasks.ranks.device import EventPool
from tasks.ranks.model import Chunks

_WATCHED_METHODS = ("start_grad_sync", "start_param_sync", "register_grad_ready", "finish_param_sync")


def bucket_groups(chunks: Chunks) -> list[Any]:
    """All groups of buckets that are reduced and gathered together, dense and expert parameters."""
    return [group for chunk in chunks for group in chunk.bucket_groups + chunk.expert_parallel_bucket_groups]


class Overlap:
    """Counts and times of this rank's overlapped communication, while ``installed``.

    Two of megatron-core's methods are called for each parameter and micro-batch. They are watched only as
    long as a call can change a count; watched always, they cost about 1 % of a step on a CPU.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._groups = bucket_groups(chunks)
        self._finishing: Any = None  # the group whose gather is needed now
        self._of_a_step = True  # False while parameters are gathered for a check or a checkpoint
        self._events = EventPool()
        self._registers: list[tuple[Any, Callable[..., None]]] = []
        self._finishes: list[tuple[Any, Callable[..., None]]] = []
        self._reset()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, megatron-core's communication of the bucket groups is watched."""
        for group in self._groups:
            self._watch(group)
        self._reset()
        try:
            with mcore_compat.communication_wrapped(self._watching):
                yield
        finally:
            for group in self._groups:
                for name in _WATCHED_METHODS:
                    vars(group).pop(name, None)
            self._registers, self._finishes = [], []

    def _reset(self) -> None:
        self._begun = self._early = self._ahead = 0
        self._waits: list[_WatchedHandle] = []
        self._at_once: list[tuple[Any, Any]] = []  # events before and after a synchronous communication
        for group, finish in self._finishes:
            group.finish_param_sync = finish

    def _watch(self, group: Any) -> None:
        group.start_grad_sync = functools.partial(self._start_grad_sync, group, group.start_grad_sync)
        group.start_param_sync = functools.partial(self._start_param_sync, group, group.start_param_sync)
        register = functools.partial(self._register_grad_ready, group.register_grad_ready)
        self._registers.append((group, register))
        finish = functools.partial(self._finish_param_sync, group, group.finish_param_sync)
        self._finishes.append((group, finish))

    def _start_grad_sync(self, group: Any, start: Any, *args: Any, **kwargs: Any) -> None:
        outstanding = group.grad_reduce_handle
        start(*args, **kwargs)
        if _is_under_way(group.grad_reduce_handle, outstanding):
            group.grad_reduce_handle = self._watched(group.grad_reduce_handle, self._waits.append)
            self._begun += 1
            for each, register in self._registers:
                each.register_grad_ready = register

    def _register_grad_ready(self, register: Any, *args: Any, **kwargs: Any) -> None:
        self._early = self._begun  # backward goes on, so all that had begun before began early
        for group, _ in self._registers:
            vars(group).pop("register_grad_ready", None)  # until another one begins
        register(*args, **kwargs)

    def _start_param_sync(self, group: Any, start: Any, *args: Any, **kwargs: Any) -> None:
        outstanding, on_demand = group.param_gather_handle, self._finishing is group
        self._of_a_step = not kwargs.get("force_sync", False)
        start(*args, **kwargs)
        self._of_a_step = True

        def waited(handle: _WatchedHandle) -> None:
            self._waits.append(handle)
            if self._finishing is group:
                # Counted when its use waits for it: a gather that nobody waits for proves nothing.
                self._ahead += not on_demand
                vars(group).pop("finish_param_sync", None)  # gathered for the rest of the step

        if _is_under_way(group.param_gather_handle, outstanding):
            group.param_gather_handle = self._watched(group.param_gather_handle, waited)

    def _finish_param_sync(self, group: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        before, self._finishing = self._finishing, group
        try:
            finish(*args, **kwargs)
        finally:
            self._finishing = before

    def take(self) -> dict[str, float]:
        """This rank's counts and seconds since the last call; call it when the host has waited for the step's
        gradients. For a synchronous gather, which comes after them, it waits itself.

        Hidden is the time from the beginning of a communication to the wait for it, exposed the time in the
        wait: on the compute stream of a GPU, on the processor of a CPU. All of a synchronous one is exposed.
        """
        if self._at_once:  # parameters gathered for the next step, after the host's last wait for this one
            self._at_once[-1][1].synchronize()
        at_once = [begun.elapsed_time(done) / 1000.0 for begun, done in self._at_once]
        values = {
            metrics.GRAD_BUCKETS.name: self._early,
            metrics.PARAM_GATHERS.name: self._ahead,
            metrics.HIDDEN_TIME.name: sum(handle.hidden_s for handle in self._waits),
            metrics.EXPOSED_TIME.name: sum(handle.exposed_s for handle in self._waits) + sum(at_once),
        }
        for handle in self._waits:
            self._events.take_back(handle.events)
        for events in self._at_once:
            self._events.take_back(events)
        self._reset()
        return values

    def _watching(self, coalescing_manager: Callable[..., Any]) -> Callable[..., Any]:
        """megatron-core's communications of a group, with handles that are watched from the beginning."""

        @contextlib.contextmanager
        def manage(*args: Any, **kwargs: Any) -> Iterator[_WatchedHandle]:
            with coalescing_manager(*args, **kwargs) as manager:
                handle = _WatchedHandle(manager, self._events)
                yield handle
            if self._of_a_step and not kwargs.get("async_ops", False):
                self._at_once.append((handle.events[0], self._events.record()))

        return manage

    def _watched(self, handle: Any, on_wait: Callable[[_WatchedHandle], object]) -> _WatchedHandle:
        watched = handle if isinstance(handle, _WatchedHandle) else _WatchedHandle(handle, self._events)
        watched.on_wait = on_wait
        return watched


class _WatchedHandle:
    """A handle of an asynchronous communication that remembers when it began and how it was waited for."""

    def __init__(self, handle: Any, events: EventPool) -> None:
        self._handle, self._events = handle, events
        self.on_wait: Callable[[_WatchedHandle], object] = lambda _: None
        self._begun = events.record()
        self._asked = self._done = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        if self.was_waited_for:
            return self._handle.wait(*args, **kwargs)
        self._asked = self._events.record()
        answer = self._handle.wait(*args, **kwargs)
        self._done = self._events.record()
        self.on_wait(self)
        return answer

    @property
    def was_waited_for(self) -> bool:
        return self._done is not None

    @property
    def events(self) -> tuple[Any, Any, Any]:
        """Of its beginning, of the wait, and of the end of the wait."""
        return self._begun, self._asked, self._done

    @property
    def hidden_s(self) -> float:
        return self._begun.elapsed_time(self._asked) / 1000.0

    @property
    def exposed_s(self) -> float:
        return self._asked.elapsed_time(self._done) / 1000.0


def _is_under_way(handle: Any, outstanding: Any) -> bool:
    """True when a call began a communication without waiting for it at once, as a synchronous one does."""
    return handle is not None and handle is not outstanding and not getattr(handle, "was_waited_for", False)

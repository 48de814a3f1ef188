"""Events of the CPU stand-in as strict as CUDA's: no time is told of one for which the host has not waited.

CUDA refuses it ("Both events must be completed"); on a CPU all is done when it is asked for. The host waits
in ``synchronize``, and in megatron-core's gradient norm and count of zeros, which it reads from the device.
"""

import functools
import itertools

import torch
from megatron.core.optimizer import optimizer

Event = torch.cuda.Event
clock = itertools.count(1)
waited_until = 0


def wait() -> None:
    global waited_until
    waited_until = next(clock)


def record(event, *arguments, _record=Event.record):
    event.number = next(clock)
    return _record(event, *arguments)


def synchronize(event, _synchronize=Event.synchronize):
    global waited_until
    waited_until = max(waited_until, event.number)
    return _synchronize(event)


def elapsed_time(event, other, _elapsed_time=Event.elapsed_time):
    if max(event.number, other.number) > waited_until:
        raise RuntimeError("both events must be completed before calculating elapsed time")
    return _elapsed_time(event, other)


def waiting(method):
    @functools.wraps(method)
    def call(*arguments, **options):
        answer = method(*arguments, **options)
        wait()
        return answer

    return call


Event.record, Event.synchronize, Event.elapsed_time = record, synchronize, elapsed_time
for kind in (optimizer.MegatronOptimizer, optimizer.ChainedOptimizer):
    for name in {"get_grad_norm", "count_zeros"} & vars(kind).keys():
        setattr(kind, name, waiting(vars(kind)[name]))

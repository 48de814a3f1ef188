"""Restarts again and again in one process, and says how often a restart parted from the first one, and where.

A fault that one restart in a hundred has is not found by restarting once. For ``tasks.resume``: after three
steps the checkpoint is loaded again, ``$RESTARTS`` times (20), about a second and a half each; then the phase
goes on to its end. Compared are exact sums of the bits of what every module puts out in every pass, of the
gradients and of the parameters, made on the device without the host waiting for them. The ranks' logs have
the answer: the first that parted, modules in the order in which they finish.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from megatron.core.pipeline_parallel import schedules

from tasks.ranks import pretrain
from tasks.ranks.pretrain import Trainer

RESTARTS = int(os.environ.get("RESTARTS", "20"))
RESERVES = os.environ.get("RESERVES", "yes") == "yes"  # "no": the first step asks for its memory itself
STEPS = 3  # the second one gathers parameters for the first time
AS_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}

noted: list[tuple[str, torch.Tensor]] = []


def note(name: str, values: Any) -> None:
    """Keep the sum of the bits of a tensor, or of each of several."""
    if isinstance(values, list | tuple):
        for index, each in enumerate(values):
            note(f"{name}[{index}]", each)
    elif isinstance(values, torch.Tensor):
        integers = values.detach().contiguous().view(AS_INTEGERS.get(values.dtype, values.dtype))
        noted.append((name, integers.sum(dtype=torch.int64)))


class Restarts:
    """Of one rank; the first one is what the others are compared with."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.loaded = trainer.iteration
        self.made = self.parted = 0
        self.ended = False
        self.passes = 0  # of this step, begun up to now
        self.reference: dict[str, int] = {}
        self.write: Any = None
        self.step, self.optimizer_step = trainer.step, trainer.optimizer.step
        self.forward_step = schedules.forward_step
        trainer.step, trainer.optimizer.step = self.restart_and_step, self.optimizer_step_and_note
        schedules.forward_step = self.forward_and_count
        for chunk in trainer.chunks:
            for name, module in chunk.module.module.named_modules():
                module.register_forward_hook(functools.partial(self.note_output, name or "all"))

    def forward_and_count(self, *args: Any, **keywords: Any) -> Any:
        self.passes += 1
        return self.forward_step(*args, **keywords)

    def note_output(self, name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if not self.ended:
            note(f"step {self.trainer.iteration + 1}: pass {self.passes}: {name}", output)

    def optimizer_step_and_note(self) -> Any:
        self.passes = 0
        if self.ended:
            return self.optimizer_step()
        step = self.trainer.iteration + 1
        for index, chunk in enumerate(self.trainer.chunks):
            note(f"step {step}: gradients of chunk {index}", [buffer.grad_data for buffer in chunk.buffers])
        answer = self.optimizer_step()
        for index, chunk in enumerate(self.trainer.chunks):
            note(f"step {step}: parameters of chunk {index}", [buffer.param_data for buffer in chunk.buffers])
        return answer

    def write_the_last(self, *args: Any) -> None:
        if self.made >= RESTARTS:
            self.write(*args)

    def restart_and_step(self) -> None:
        if self.write is None:  # each step is logged once, that of the last restart
            self.write, self.trainer.writer.write = self.trainer.writer.write, self.write_the_last
        if self.trainer.iteration == self.loaded + STEPS and not self.ended:
            self.compare()
            if self.made <= RESTARTS:
                self.restart()
            else:
                self.ended = True
                print(
                    f"{RESTARTS} more restarts of this rank, {self.parted} parted from the first", flush=True
                )
        self.step()

    def compare(self) -> None:
        sums = dict(
            zip([name for name, _ in noted], torch.stack([s for _, s in noted]).tolist(), strict=True)
        )
        noted.clear()
        self.reference = self.reference or sums
        parted = [name for name in self.reference if sums.get(name) != self.reference[name]]
        if parted:
            self.parted += 1
            print(f"restart {self.made} parted at {parted[0]}, and at {len(parted) - 1} more", flush=True)
        self.made += 1

    def restart(self) -> None:
        trainer = self.trainer
        trainer.measurements.sums()
        trainer._disable_gather_hooks(param_sync=True)
        trainer.config.param_sync_func = None
        torch.cuda.empty_cache()  # a new process, too, asks for all its memory
        trainer.iteration = self.loaded
        trainer.scheduler.num_steps = 0  # loading adds to it
        trainer.consumed_samples = trainer.checkpoints.load(trainer.iteration)
        trainer.begin()
        if RESERVES:
            trainer.reserve()


def begin_and_watch(trainer: Trainer) -> None:
    """In the place of ``Trainer.train``, where the phase restarts."""
    if trainer.iteration:
        Restarts(trainer)
    train(trainer)


train, pretrain.Trainer.train = pretrain.Trainer.train, begin_and_watch

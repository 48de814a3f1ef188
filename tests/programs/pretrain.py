"""The training loop of a rank, around functions that note when they are called."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.ranks import pretrain


class _Reached(Exception):
    """As far as the program is to come."""


def settings_before_groups(platform: str) -> dict[str, bool]:
    """Settings of torch's when the groups of ranks are to be started."""

    def start_worker(args: argparse.Namespace) -> None:
        raise _Reached

    pretrain.checkpoint.start_worker = start_worker
    flags = load_case("gpt3_pp4_resume", platform_name=platform).argv()
    with contextlib.suppress(_Reached):
        pretrain._start_groups(parse_arguments(flags, world_size=8), 0)
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch._C._is_multithreading_enabled(),
    }


class _Noting:
    """An object whose methods, any of them, note their calls."""

    def __init__(self, calls: list[str], name: str = "") -> None:
        self.calls, self.name = calls, name

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **_: object) -> tuple[bool, int, int]:
            self.calls.append(" ".join([self.name, name, *map(str, arguments)]))
            return True, 1, 0

        return call


def _noting_trainer(calls: list[str]) -> pretrain.Trainer:
    """A trainer whose parts note their calls; only its schedule does something: it begins to reduce."""
    connected: list[Any] = []

    def run_schedule(**_: object) -> list:
        before_reducing = connected[0]
        before_reducing()
        calls.append("schedule")
        return []

    arguments = argparse.Namespace(
        rank=0, num_microbatches=4, global_batch_size=8, seq_length=4, micro_batch_size=1
    )
    trainer = pretrain.Trainer(
        arguments,
        chunks=[],
        optimizer=_Noting(calls, "optimizer"),
        scheduler=_Noting(calls),
        checkpoints=_Noting(calls),
        evidence=Path(),
    )
    pretrain.model.connect_schedule = lambda args, chunks, optimizer, before: connected.append(before)
    pretrain.get_forward_backward_func = lambda: run_schedule
    pretrain.scalars.Scalars = lambda *_, **__: None
    pretrain.StepMeasurements = lambda *_, **__: _Noting(calls)
    trainer.connect()
    trainer.measurements.scalars = lambda *_: {}
    trainer.iterators = [_Noting(calls, "first"), _Noting(calls, "last")]
    return trainer


def reads_in_a_step(stage: str) -> list[str]:
    """The order of schedule, optimizer step and reading ahead in a step of a stage."""
    calls: list[str] = []
    trainer = _noting_trainer(calls)
    pretrain.parallel_state.is_pipeline_first_stage = lambda *, ignore_virtual: stage == "first"
    pretrain.parallel_state.is_pipeline_last_stage = lambda *, ignore_virtual: stage == "last"
    calls.clear()
    trainer.chunks = [_Noting(calls), _Noting(calls)]
    trainer.step()
    return [call for call in calls if call in ("schedule", "optimizer step") or "read_ahead" in call]


def order_of_a_run(backend: str, reserved_peak_bytes: int) -> list[str]:
    """Loading, reserving, training and the end of a run whose loading took 5 bytes."""
    calls: list[str] = []

    class Measurements:
        @contextlib.contextmanager
        def installed(self) -> Iterator[None]:
            calls.append("watched")
            yield
            calls.append("no longer watched")

    class Trainer(pretrain.Trainer):
        def connect(self) -> None:
            self.measurements = Measurements()

        def load(self) -> None:
            calls.append("load")

        def train(self) -> None:
            calls.append("train")

        def finish(self) -> None:
            calls.append(f"finish, peak {self.peak_bytes}")

    def reserve_memory(args: object) -> int:
        calls.append("reserve")
        return reserved_peak_bytes

    def build_trainer(args: argparse.Namespace, evidence: Path, *_: object, **__: object) -> Trainer:
        parts = dict.fromkeys(("optimizer", "scheduler", "checkpoints"))
        trainer = Trainer(args, chunks=[], evidence=evidence, **parts)
        trainer.peak_bytes = 5
        return trainer

    pretrain.build_trainer, pretrain.reserve_memory = build_trainer, reserve_memory
    pretrain._start_groups = lambda args, attempt: None
    pretrain.torch.distributed.destroy_process_group = lambda: None
    pretrain.parse_arguments = lambda argv, world_size: argparse.Namespace(distributed_backend=backend)
    os.environ.update(RANK="0", WORLD_SIZE="8")
    pretrain.run([], evidence=Path("."))
    return calls


class _Chunk:
    """A chunk whose forward hooks gather parameters."""

    def __init__(self, gathered: Any) -> None:
        self.remove_forward_pre_hook_handles, self._gathered = {"layer": 1}, gathered

    def train(self) -> None:
        """Nothing is switched."""

    def enable_forward_pre_hook(self) -> None:
        self.remove_forward_pre_hook_handles = {"layer": 1}

    def disable_forward_pre_hook(self, param_sync: bool = True) -> None:
        self.remove_forward_pre_hook_handles = {}
        self._gathered(param_sync)


def gathers_of_two_steps() -> list[str]:
    """Steps 6 and 7 of a training that overlaps gathers, saves and compares hashes after each step."""
    calls: list[str] = []

    class Trainer(pretrain.Trainer):
        def step(self) -> None:
            self.iteration += 1
            calls.append(f"step {self.iteration}, aligned: {self.config.param_sync_func}")

        def _check_weight_hashes(self) -> None:
            calls.append(f"{self.iteration} hashes")

        def _write_evidence(self, kind: str) -> None:
            calls.append(f"{self.iteration} {kind}")

        def _write_sums(self) -> None:
            """No sums."""

    def gathered(param_sync: bool) -> None:
        calls.append(f"{trainer.iteration} gathered" if param_sync else "hooks off")

    arguments = argparse.Namespace(
        rank=0,
        train_iters=7,
        exit_interval=None,
        save="here",
        save_interval=1,
        overlap_param_gather=True,
        check_weight_hash_across_dp_replicas_interval=1,
    )
    trainer = Trainer(
        arguments,
        chunks=[_Chunk(gathered)],
        optimizer=None,
        scheduler=None,
        checkpoints=argparse.Namespace(save=lambda *_: None, finish_saves=lambda *, blocking: None),
        evidence=Path(),
    )
    trainer.iteration = 5
    pretrain.get_forward_backward_func = lambda: None
    pretrain.model.connect_schedule = lambda *_: argparse.Namespace(param_sync_func="yes")
    pretrain.scalars.Scalars = pretrain.StepMeasurements = lambda *_, **__: None
    trainer.connect()
    trainer.train()
    return calls

"""torch_dist checkpoints with megatron-core's strategies: saved asynchronously, loaded completely.

A checkpoint of iteration N lies in ``iter_<N>/`` below the save folder (``records.checkpoints``). When every
rank has written its part, rank 0 writes the manifest (``records.manifest``) and then the tracker, never
before. Nothing is loaded that does not match its manifest.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from tasks.ranks import integrity, mcore_compat
from tasks.ranks.model import Chunks
from tasks.ranks.state import inner_optimizers, random_states, restore_random_states
from tasks.records import manifest
from tasks.records.checkpoints import Choice, iteration_folder, write_tracker
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity
from tasks.util.files import disk_is_full
from tasks.util.processes import allow_tracer

RANDOM_STATES = "rng_state"
_POLL_S = 0.05


@contextlib.contextmanager
def gathered_parameters(args: argparse.Namespace, chunks: Chunks) -> Iterator[None]:
    """Inside, every replica holds all current parameters.

    With overlapped gathering the other replicas' shards are one step old until the next forward pass.
    """
    overlapped = [
        chunk for chunk in chunks if args.overlap_param_gather and chunk.remove_forward_pre_hook_handles
    ]
    for chunk in overlapped:
        chunk.disable_forward_pre_hook()
    try:
        yield
    finally:
        for chunk in overlapped:
            chunk.enable_forward_pre_hook()


def start_worker(args: argparse.Namespace) -> None:
    """Fork megatron-core's persistent checkpoint worker of this rank, before the rank touches CUDA.

    Left to the first save, it is spawned: it imports torch and megatron anew while training waits for it.
    Megatron, too, starts it first of all (``init_persistent_async_worker``). megatron-core 0.16 cannot.
    Neither can it be told how to start the process that its results pass through. Spawned, that one imports
    torch when the first results reach it: on an H100's host a rank's first save took 0.7 s, and 6.3 s more.
    """
    if args.save and args.use_persistent_ckpt_worker:
        worker = mcore_compat.fork_checkpoint_worker(args.rank)
        if worker is not None:
            _give_access(worker)


def _give_access(worker: int) -> None:
    """Let the worker, a child, take this rank's file descriptors (pidfd_getfd).

    So it gets at device memory in expandable segments. Where the kernel has Yama, as Ubuntu's, a child may
    not, unless its parent names it; elsewhere there is nothing to name.
    """
    allow_tracer(worker)


def _refuse_dead_worker(queue: AsyncCallsQueue, folder: str | None) -> None:
    """Refuse to wait for a save whose worker has ended: it would never complete."""
    worker = mcore_compat.checkpoint_worker(queue)
    if worker is not None and not worker.is_alive():
        full = folder and os.path.isdir(folder) and disk_is_full(folder)
        why = f", {os.strerror(errno.ENOSPC)}: {folder}" if full else ""
        raise RuntimeError(
            f"the checkpoint worker of this rank ended before its work (exit code {worker.exitcode}{why});"
            " see its output above in this log"
        )


class Checkpoints:
    """Saves and loads the training state of one rank together with all others."""

    def __init__(
        self,
        args: argparse.Namespace,
        chunks: Chunks,
        optimizer: MegatronOptimizer,
        scheduler: OptimizerParamScheduler,
        *,
        identity: CheckpointIdentity = ANY_IDENTITY,
        expected: CheckpointIdentity = ANY_IDENTITY,
    ) -> None:
        """``identity``: written into the checkpoints saved here; ``expected``: required of a loaded one."""
        self.args = args
        self._identity, self._expected = identity, expected
        self.chunks = chunks
        self.optimizer = optimizer
        self.scheduler = scheduler
        self._queue = AsyncCallsQueue(persistent=args.use_persistent_ckpt_worker)
        self._save_strategy = self._make_save_strategy()
        self._saved_before = False
        self._vouched_for: int | None = None
        self.manifest_s = 0.0  # what this rank's part of the manifests cost the training

    def _make_save_strategy(self) -> Any:
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1)
        strategy.use_cached_ckpt_structure = self.args.ckpt_assume_constant_structure
        if not self.args.async_save:
            strategy.thread_count = 1
        if self.args.ckpt_fully_parallel_save:
            group = parallel_state.get_data_parallel_group(with_context_parallel=True)
            return FullyParallelSaveStrategyWrapper(strategy, group, self.args.ckpt_assume_constant_structure)
        return strategy

    def _metadata(self) -> dict[str, Any]:
        metadata = {
            "singleton_local_shards": False,
            "chained_optim_avoid_prefix": True,
            "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
        if self.args.use_distributed_optimizer:
            fully = self.args.dist_ckpt_optim_fully_reshardable
            metadata["distrib_optim_sharding_type"] = "fully_reshardable" if fully else "dp_reshardable"
            if fully:
                metadata["distrib_optim_fully_reshardable_mem_efficient"] = False
        return metadata

    def _named_models(self) -> list[tuple[str, GPTModel]]:
        """The chunks inside their wrappers for data parallelism and bf16, under Megatron's names."""
        models = [chunk.module.module for chunk in self.chunks]
        return (
            [("model", models[0])] if len(models) == 1 else [(f"model{i}", m) for i, m in enumerate(models)]
        )

    def _sharded_state(self, *, is_loading: bool) -> dict[str, Any]:
        metadata = self._metadata()
        state: dict[str, Any] = {}
        for name, chunk in self._named_models():
            state[name] = chunk.sharded_state_dict(metadata=metadata)
        if is_loading:
            allocate_adam_state(self.optimizer)
        state["optimizer"] = self.optimizer.sharded_state_dict(
            state, is_loading=is_loading, metadata=metadata
        )
        if self.args.load_rng or not is_loading:
            state[RANDOM_STATES] = self._sharded_random_states()
        return state

    def _sharded_random_states(self) -> ShardedObject:
        """Every rank's own states; Megatron keeps only those of the first data-parallel replica."""
        shape = (
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_data_parallel_world_size(),
        )
        offset = (parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_data_parallel_rank())
        return ShardedObject(RANDOM_STATES, [random_states()], shape, offset, replica_id=0)

    def save(self, iteration: int, consumed_samples: int) -> None:
        """Begin to save; with ``--async-save`` the writing goes on while training does.

        The caller has gathered the parameters (``gathered_parameters``).
        """
        _refuse_dead_worker(self._queue, self.args.save)
        folder = iteration_folder(self.args.save, iteration)
        if self.args.rank == 0:
            # What an interrupted save left, or a checkpoint that was not good enough to resume from.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        torch.distributed.barrier()
        metadata = self._metadata()
        state = self._sharded_state(is_loading=False) | {
            "iteration": iteration,
            "consumed_train_samples": consumed_samples,
            "opt_param_scheduler": self.scheduler.state_dict(),
        }
        request = dist_checkpointing.save(
            state,
            str(folder),
            self._save_strategy,
            async_sharded_save=True,
            validate_access_integrity=not (self._saved_before and self.args.ckpt_assume_constant_structure),
            content_metadata=mcore_compat.serializable_metadata(metadata),
            **mcore_compat.save_options(),
        )
        self._saved_before = True
        if request.async_fn is not None:
            write = functools.partial(manifest.write_and_note, request.async_fn, folder, self.args.rank)
            request = request._replace(async_fn=write)
        request.add_finalize_fn(functools.partial(self._complete, iteration))
        if self.args.async_save:
            self._queue.schedule_async_request(request)
        else:
            request.execute_sync()

    def _complete(self, iteration: int) -> None:
        """Declare a checkpoint complete. megatron-core calls this when all ranks have written their part."""
        if self.args.rank == 0:
            begin = time.monotonic()
            folder = iteration_folder(self.args.save, iteration)
            manifest.complete(folder, iteration=iteration, origin=self._identity)
            write_tracker(self.args.save, iteration)
            self.manifest_s += time.monotonic() - begin

    def finish_saves(self, *, blocking: bool) -> None:
        """Complete the saves whose files are written on every rank; all ranks call this together.

        ``blocking``: wait for all of them.

        Raises:
            RuntimeError: this rank's worker has ended.
        """
        while True:
            _refuse_dead_worker(self._queue, self.args.save)
            self._queue.maybe_finalize_async_calls(blocking=False)
            if not blocking or not self._queue.get_num_unfinalized_calls():
                return
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Complete all saves and end the checkpoint worker; before the process group is destroyed."""
        self.finish_saves(blocking=True)
        self._queue.close()
        del self._queue  # megatron-core 0.16 asks for this rank's number when it is freed

    def abort(self) -> None:
        """End the checkpoint worker now. What it had not finished stays without a tracker."""
        self._queue.close(abort=True)

    def choose(self) -> Choice:
        """Choose and check the checkpoint to load: that of ``--ckpt-step``, else the newest complete one.

        Raises:
            DamagedCheckpoint: on all ranks.
        """
        if not self.args.load:
            return Choice(iteration=None)
        if self.args.ckpt_step is None:
            choice = integrity.choose_newest(self.args.load, self._expected)
        else:
            choice = Choice(iteration=self.args.ckpt_step)
            self._verify(self.args.ckpt_step)
        self._vouched_for = choice.iteration
        return choice

    def _verify(self, iteration: int) -> None:
        folder = iteration_folder(self.args.load, iteration)
        integrity.verify(folder, iteration, self._expected)

    def load(self, iteration: int) -> int:
        """Load everything that ``iteration``'s checkpoint holds; returns the consumed samples.

        Missing and unexpected keys are errors (``raise_all``). With ``--no-load-rng`` random states stay as
        they are: the checkpoint has none for ranks that did not save.

        Raises:
            DamagedCheckpoint: before any file is read that does not match the manifest.
        """
        if iteration != self._vouched_for:
            self._verify(iteration)
        folder = str(iteration_folder(self.args.load, iteration))
        strategy = dist_checkpointing.serialization.get_default_load_sharded_strategy(folder)
        if self.args.ckpt_fully_parallel_load:
            group = parallel_state.get_data_parallel_group(with_context_parallel=True)
            strategy = FullyParallelLoadStrategyWrapper(strategy, group)
        with integrity.weights_only():
            state = self._read(folder, strategy)
        if state["iteration"] != iteration:
            raise RuntimeError(f"{folder} holds iteration {state['iteration']}, not {iteration}")
        self._restore(state)
        return state["consumed_train_samples"]

    def _read(self, folder: str, strategy: Any) -> dict[str, Any]:
        wanted = self._sharded_state(is_loading=True)
        if self.args.load_rng:
            return dist_checkpointing.load(wanted, folder, strategy, strict=self.args.dist_ckpt_strictness)
        state, *unmatched = dist_checkpointing.load(
            wanted, folder, strategy, strict=StrictHandling.RETURN_ALL
        )
        keys = sorted(key for keys in unmatched for key in keys if not key.startswith(RANDOM_STATES))
        if keys:
            raise RuntimeError(f"{folder}: not in both, the checkpoint and this model: {', '.join(keys)}")
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        for name, chunk in self._named_models():
            chunk.load_state_dict(state[name], strict=True)
        with _steps_left_out(self.optimizer, wanted=self.args.dist_ckpt_optim_fully_reshardable):
            self.optimizer.load_state_dict(state["optimizer"])
        restore_adam_steps(self.optimizer)
        self.scheduler.load_state_dict(state["opt_param_scheduler"])
        if self.args.load_rng:
            restore_random_states(state[RANDOM_STATES][0])


def _keeps_step_with_parameters(inner: torch.optim.Optimizer) -> bool:
    """torch's AdamW keeps its step count with each parameter, fused Adam with the group."""
    return isinstance(inner, torch.optim.AdamW)


def allocate_adam_state(optimizer: MegatronOptimizer) -> None:
    """torch's AdamW has no state before its first step, but the load plan is made from it."""
    for inner in filter(_keeps_step_with_parameters, inner_optimizers(optimizer)):
        for group in inner.param_groups:
            for parameter in group["params"]:
                inner.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


@contextlib.contextmanager
def _steps_left_out(optimizer: MegatronOptimizer, *, wanted: bool) -> Iterator[None]:
    """Inside, loading leaves torch's AdamW without step counts.

    The fully reshardable form has none; megatron-core (0.16.1 and 0.19.2) looks for one for every parameter
    whose state has one, and fails.
    """

    def drop(inner: torch.optim.Optimizer) -> None:
        for state in inner.state.values():
            state.pop("step", None)

    inners = filter(_keeps_step_with_parameters, inner_optimizers(optimizer)) if wanted else ()
    hooks = [inner.register_load_state_dict_post_hook(drop) for inner in inners]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def restore_adam_steps(optimizer: MegatronOptimizer) -> None:
    """The step count comes back with the group; without it, bias correction would begin again.

    megatron-core's optimizer that is not distributed keeps it with the parameters, and restores it itself.
    """
    for inner in filter(_keeps_step_with_parameters, inner_optimizers(optimizer)):
        for group in filter(lambda group: "step" in group, inner.param_groups):
            for parameter in group["params"]:
                inner.state[parameter]["step"] = torch.tensor(float(group["step"]), dtype=torch.float32)

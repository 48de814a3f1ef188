"""The training program that every rank runs: GPT on a pipeline with virtual stages, on megatron-core itself.

``run`` shows the whole order: groups, seeds, model, checkpoint, steps, end.
"""

from __future__ import annotations

import argparse
import datetime
import os
import runpy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import init_num_microbatches_calculator
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer import TransformerConfig
from megatron.core.utils import check_param_hashes_across_dp_replicas

from tasks.cases import metrics
from tasks.cases.flags import parse_arguments
from tasks.ranks import batches, checkpoint, model, scalars, state
from tasks.ranks.forward import forward_step
from tasks.ranks.measurements import StepMeasurements
from tasks.ranks.warm_up import reserve_memory, warm_up
from tasks.ranks.whole_state import whole_state_digests
from tasks.records.checkpoints import FALLBACKS
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity
from tasks.util.exits import UsageError
from tasks.util.progress import ProgressBoard


def run(
    argv: Sequence[str],
    *,
    evidence: Path,
    rank_plugins: Sequence[Path] = (),
    board: ProgressBoard | None = None,
    attempt: int = 0,
    identity: CheckpointIdentity = ANY_IDENTITY,
    expected: CheckpointIdentity = ANY_IDENTITY,
) -> None:
    """Train with Megatron's command line ``argv``, as one rank of an elastic agent's group.

    ``evidence``: folder for this rank's digests of the saved and the loaded state.
    ``rank_plugins``: Python files executed here before the model is built.
    ``attempt``: number of times that the ranks of this phase were started before.
    ``identity``: of the checkpoints saved here; ``expected``: required of a loaded one.
    """
    args = parse_arguments(argv, world_size=int(os.environ["WORLD_SIZE"]))
    args.rank = int(os.environ["RANK"])  # as Megatron does
    for plugin in rank_plugins:
        runpy.run_path(str(plugin), run_name="rank_plugin")
    begin = time.monotonic()
    _start_groups(args, attempt)
    trainer = build_trainer(args, evidence, board, attempt=attempt, identity=identity, expected=expected)
    trainer.seconds["build"] = time.monotonic() - begin
    try:
        trainer.load()
        trainer.reserve()
        trainer.connect()
        with trainer.measurements.installed():
            trainer.train()
    except BaseException:
        trainer.checkpoints.abort()
        raise
    trainer.finish()
    torch.distributed.destroy_process_group()


def _start_groups(args: argparse.Namespace, attempt: int) -> None:
    on_gpus = args.distributed_backend == "nccl"
    if args.deterministic_mode:
        torch.use_deterministic_algorithms(True)
        if on_gpus:  # filling every new tensor with NaN costs an eighth of a step, and changes no result
            torch.utils.deterministic.fill_uninitialized_memory = False
    if on_gpus:  # handing each backward pass to a thread of the device costs 4 % of a step on an H100
        torch.autograd.set_multithreading_enabled(False)
    checkpoint.start_worker(args)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    timeout = datetime.timedelta(minutes=args.distributed_timeout_minutes)
    store, rank, world_size = next(torch.distributed.rendezvous("env://", timeout=timeout))
    # The agent's store outlives an attempt: without a prefix, a restarted rank would read addresses that
    # ranks of the previous attempt left there, and be refused.
    store = torch.distributed.PrefixStore(f"attempt{attempt}", store)
    torch.distributed.init_process_group(
        args.distributed_backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=args.virtual_pipeline_model_parallel_size,
        distributed_timeout_minutes=args.distributed_timeout_minutes,
        create_gloo_process_groups=args.enable_gloo_process_groups,
    )
    init_num_microbatches_calculator(
        args.rank, None, args.global_batch_size, args.micro_batch_size, args.data_parallel_size, False
    )
    model.seed_everything(args)
    if on_gpus:
        warm_up(args)
        model.seed_everything(args)


def build_trainer(
    args: argparse.Namespace,
    evidence: Path,
    board: ProgressBoard | None,
    *,
    attempt: int,
    identity: CheckpointIdentity,
    expected: CheckpointIdentity,
) -> Trainer:
    """This rank's model, optimizer, scheduler and checkpoints, as a ``Trainer``."""
    note_progress(board, args.rank, 0, "starting")
    chunks = model.build_model(args)
    optimizer = model.build_optimizer(args, chunks)
    scheduler = model.build_scheduler(args, optimizer)
    checkpoints = checkpoint.Checkpoints(
        args, chunks, optimizer, scheduler, identity=identity, expected=expected
    )
    return Trainer(
        args,
        chunks=chunks,
        optimizer=optimizer,
        scheduler=scheduler,
        checkpoints=checkpoints,
        evidence=evidence,
        board=board,
        attempt=attempt,
    )


def note_progress(
    board: ProgressBoard | None, rank: int, step: int, activity: str, loss: float = float("nan")
) -> None:
    """Write this rank's row of the board, where there is one."""
    if board is not None:
        board.note(rank, process_id=os.getpid(), step=step, activity=activity, loss=loss)


class Trainer:
    """One rank's part of the training job."""

    args: argparse.Namespace
    chunks: model.Chunks
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    checkpoints: checkpoint.Checkpoints
    evidence: Path
    board: ProgressBoard | None
    attempt: int
    iteration: int  # completed
    consumed_samples: int
    seconds: dict[str, float]  # by part of the run, for the evidence
    peak_bytes: int  # of the device, before its record was reset
    iterators: list[batches.Batches]  # from ``begin`` on, one a chunk
    # From ``connect`` on:
    config: TransformerConfig
    run_schedule: Callable[..., list]
    measurements: StepMeasurements
    writer: scalars.Scalars

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        chunks: model.Chunks,
        optimizer: MegatronOptimizer,
        scheduler: OptimizerParamScheduler,
        checkpoints: checkpoint.Checkpoints,
        evidence: Path,
        board: ProgressBoard | None = None,
        attempt: int = 0,
    ) -> None:
        self.args = args
        self.chunks, self.optimizer, self.scheduler = chunks, optimizer, scheduler
        self.checkpoints = checkpoints
        self.evidence, self.board, self.attempt = evidence, board, attempt
        self.iteration = self.consumed_samples = self.peak_bytes = 0
        self.seconds = {"load": 0.0, "save": 0.0, "finish": 0.0}

    def _note(self, activity: str, loss: float = float("nan")) -> None:
        note_progress(self.board, self.args.rank, self.iteration, activity, loss)

    def load(self) -> None:
        """Resume from ``--load`` where there is a checkpoint."""
        self._note("loading checkpoint")
        begin = time.monotonic()
        choice = self.checkpoints.choose()
        self.seconds["verify"] = time.monotonic() - begin
        wanted = choice.iteration
        if choice.skipped:
            self._tell(choice.lines())
        if wanted is None and self.args.exit_on_missing_checkpoint:
            raise UsageError(f"--load {self.args.load} holds no complete checkpoint; train first")
        if wanted is not None:
            begin = time.monotonic()
            self.consumed_samples = self.checkpoints.load(wanted)
            self.iteration = wanted
            self.seconds["load"] = time.monotonic() - begin
        self.begin()
        if wanted is not None:
            self._write_evidence("loaded")

    def _tell(self, lines: list[str]) -> None:
        print(*lines, sep="\n", flush=True)
        if self.args.rank == 0:
            self.evidence.mkdir(parents=True, exist_ok=True)
            with (self.evidence / FALLBACKS).open("a") as file:  # of several attempts, all are kept
                print(*lines, sep="\n", file=file)

    def begin(self) -> None:
        """Prepare the batches that come next."""
        self.iterators = batches.build_iterators(self.args, self.consumed_samples)

    def _write_evidence(self, kind: str) -> None:
        digests = state.state_digests(
            self.chunks, self.optimizer, self.scheduler, self.iterators, self.consumed_samples
        )
        if self.args.dist_ckpt_optim_fully_reshardable:
            digests |= whole_state_digests(self.chunks, self.optimizer)
        state.write_evidence(self.evidence, kind, self.iteration, self.args, digests)

    def reserve(self) -> None:
        """On GPUs, allocate what a step needs, on all ranks, after loading and before the first step."""
        if self.args.distributed_backend == "nccl":
            self.peak_bytes = max(self.peak_bytes, reserve_memory(self.args))

    def connect(self) -> None:
        """Connect the pipeline schedule, and prepare measurements and scalars; once, before ``train``."""
        args = self.args
        self.config = model.connect_schedule(args, self.chunks, self.optimizer, self._read_on_first_stage)
        self.run_schedule = get_forward_backward_func()
        self.writer = scalars.Scalars(args, self.iteration, attempt=self.attempt)
        self.measurements = StepMeasurements(
            args, self.chunks, self.optimizer, earlier_peak_bytes=self.peak_bytes
        )
        for chunk in self.chunks:
            chunk.train()

    def train(self) -> None:
        """All steps from here to ``--train-iters``, or to a multiple of ``--exit-interval``.

        Megatron-LM also saves at the end where that is no multiple of ``--save-interval``. Nothing here would
        read that checkpoint, so it is not written.
        """
        args = self.args
        # The first gather must not hide errors of initialisation or loading: as in Megatron, the first step
        # runs on the parameters that each replica holds.
        param_sync_func, self.config.param_sync_func = self.config.param_sync_func, None
        self._disable_gather_hooks(param_sync=False)
        self._check_weight_hashes()
        first, begin = self.iteration, time.monotonic()
        while self.iteration < args.train_iters:
            self.checkpoints.finish_saves(blocking=False)
            self.step()
            if self.iteration == first + 1:  # before anything gathers: without hooks, all counts as gathered
                self.seconds["first step"] = time.monotonic() - begin
                self._enable_gather_hooks()
                self.config.param_sync_func = param_sync_func
            if self._every(args.check_weight_hash_across_dp_replicas_interval):
                with checkpoint.gathered_parameters(args, self.chunks):
                    self._check_weight_hashes()
            saves, ends = args.save and self._every(args.save_interval), self._every(args.exit_interval)
            if saves or ends or self._every(metrics.SUMS_EVERY):
                self._write_sums()
            if saves:
                self._save()
            if ends:
                break
        self._write_sums()

    def _every(self, interval: int | None) -> bool:
        return bool(interval) and self.iteration % interval == 0

    def _disable_gather_hooks(self, *, param_sync: bool) -> None:
        if self.args.overlap_param_gather:
            for chunk in self.chunks:
                chunk.disable_forward_pre_hook(param_sync=param_sync)

    def _enable_gather_hooks(self) -> None:
        if self.args.overlap_param_gather:
            for chunk in self.chunks:
                chunk.enable_forward_pre_hook()

    def _check_weight_hashes(self) -> None:
        if (
            self.args.check_weight_hash_across_dp_replicas_interval
            and not check_param_hashes_across_dp_replicas(self.chunks, cross_check=True)
        ):
            raise RuntimeError(f"weights differ between data-parallel replicas at iteration {self.iteration}")

    def step(self) -> None:
        """One iteration: forward and backward over all micro-batches, optimizer, schedule, scalars."""
        args = self.args
        self._note("forward and backward")
        self.measurements.begin_step()
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = self.run_schedule(
            forward_step_func=forward_step,
            data_iterator=self.iterators if len(self.chunks) > 1 else self.iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=args.num_microbatches,
            seq_length=args.seq_length,
            micro_batch_size=args.micro_batch_size,
            decoder_seq_length=args.seq_length,
            forward_only=False,
        )
        self._read_on_last_stage()
        self._note("optimizer step")
        successful, grad_norm, num_zeros = self.optimizer.step()
        if successful:
            self.scheduler.step(increment=args.global_batch_size)
        self.measurements.end_step()
        self.iteration += 1
        self.consumed_samples += args.global_batch_size
        self._log(losses, grad_norm, num_zeros)

    def _read_on_first_stage(self) -> None:
        """Prefetch here: the first stage is about to block on the device, which checks gradients for NaN.

        Reading at the beginning of the next step instead cost 3 to 4 % of a step on one H100.
        """
        if parallel_state.is_pipeline_first_stage(ignore_virtual=True):
            self.iterators[0].read_ahead(self.args.num_microbatches)

    def _read_on_last_stage(self) -> None:
        """Prefetch on the last stage, which finishes first and would otherwise wait for the others.

        With NCCL: on a CPU it has waited already.
        """
        if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
            self.iterators[-1].read_ahead(self.args.num_microbatches)

    def _log(self, losses: list, grad_norm: Any, num_zeros: Any) -> None:
        self._note("logging")
        values = self.measurements.scalars(self.iteration, losses, grad_norm, num_zeros)
        if values:
            self.writer.write(self.iteration, values)
            loss = values[metrics.LM_LOSS.name]
            self._note("logging", loss)
            scalars.refuse_bad_loss(loss, self.iteration)
        self.measurements.compute_piece()

    def _write_sums(self) -> None:
        """Write what all ranks measured together since the last call; a collective of all ranks."""
        for iteration, sums in self.measurements.sums():
            self.writer.write(iteration, sums)

    def _save(self) -> None:
        self._note("saving checkpoint")
        begin = time.monotonic()
        with checkpoint.gathered_parameters(self.args, self.chunks):
            self._write_evidence("saved")
            self.checkpoints.save(self.iteration, self.consumed_samples)
        self.seconds["save"] += time.monotonic() - begin

    def finish(self) -> None:
        """Complete the saves that still run, write out the scalars."""
        self._note("saving checkpoint")
        begin = time.monotonic()
        self.checkpoints.close()
        self.seconds["finish"] = time.monotonic() - begin
        self.seconds["manifest"] = self.checkpoints.manifest_s
        self.writer.close()
        state.write_evidence(self.evidence, "seconds", self.iteration, self.args, self.seconds)
        self._note("finished")

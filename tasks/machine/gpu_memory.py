"""Estimate a case's GPU memory from its arguments before any rank starts, and compare it with what is free.

The estimate is for the rank that needs most, one of the last stage, which holds the logits. It was checked
against one H100 (``benchmarks/one_gpu.md``) and is meant to exceed the memory used by less than a half.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass

from tasks.machine.platforms import Platform
from tasks.util.exits import CannotRun

MIB = 2**20
# CUDA contexts of a rank and its checkpoint worker, NCCL's buffers, cuBLAS's workspaces
CONTEXT_MIB = 700
_COPIES_OF_LOGITS = 10  # bytes a logit: bf16 logits and gradients, fp32 for the loss
_LOGITS_IN_USE = 0.5  # of these; with them a step of the last stage was estimated at 1798 MiB, and took 1793
# Times hidden size: activations kept for the backward pass (Korthikanti et al., arXiv 2205.05198).
_BYTES_A_TOKEN_AND_LAYER = 34


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory that one rank needs, in MiB."""

    parameters: float
    activations: float
    logits: float
    context: float = CONTEXT_MIB

    @property
    def total(self) -> int:
        """Sum of all parts, in MiB."""
        return round(self.parameters + self.activations + self.logits + self.context)

    def of_a_step(self, *, last_stage: bool) -> int:
        """Memory that every step allocates and frees, in MiB; only the last stage has logits."""
        return round(self.activations + (_LOGITS_IN_USE * self.logits if last_stage else 0.0))


def estimate(args: argparse.Namespace) -> Need:
    """The need of a rank of the last stage, from parsed Megatron flags."""
    stages = args.pipeline_model_parallel_size
    layers = -(-args.num_layers // stages)
    hidden = args.hidden_size
    count = layers * (4 * hidden**2 + (3 if args.swiglu else 2) * hidden * args.ffn_hidden_size)
    count += args.padded_vocab_size * hidden
    # bf16 parameter and fp32 gradient; fp32 master and Adam's two moments lie on one of the replicas each
    replicas = args.data_parallel_size if args.use_distributed_optimizer else 1
    bytes_each = 2 + (4 if args.accumulate_allreduce_grads_in_fp32 else 2) + 12 / replicas
    tokens = args.micro_batch_size * args.seq_length
    # The interleaved schedule keeps at most this many micro-batches' activations of a chunk on a stage.
    chunks = args.virtual_pipeline_model_parallel_size or 1
    kept = min(args.num_microbatches * chunks, stages * (chunks + 1)) / chunks
    # Without flash attention: scores, softmax and dropout, in bf16 and fp32.
    scores = args.num_attention_heads * args.seq_length**2 * args.micro_batch_size
    attention = 16 * scores if args.transformer_impl == "local" else 0.0
    activations = kept * layers * (_BYTES_A_TOKEN_AND_LAYER * tokens * hidden + attention)
    return Need(
        parameters=count * bytes_each / MIB,
        activations=activations / MIB,
        logits=_COPIES_OF_LOGITS * tokens * args.padded_vocab_size / MIB,
    )


def free_mib(uuids: list[str]) -> dict[str, int]:
    """Free memory now, by GPU; empty where the driver does not say."""
    command = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split(",") for line in outcome.stdout.splitlines() if line.count(",") == 1]
    found = {uuid.strip(): free.strip() for uuid, free in rows}
    return {uuid: int(found[uuid]) for uuid in uuids if found.get(uuid, "").isdigit()}


def check(platform: Platform, args: argparse.Namespace) -> Need:
    """Estimate the need of one rank and compare it with free memory.

    Raises:
        CannotRun: ranks need more than a GPU has free; the message names the GPU.
    """
    need = estimate(args)
    free = free_mib([gpu.uuid for gpu in platform.gpus])
    for gpu in platform.gpus:
        wanted, there = need.total * platform.ranks_per_gpu, free.get(gpu.uuid, gpu.memory_mib)
        if wanted > there:
            raise CannotRun(
                f"GPU {gpu.index} ({gpu.name}): {platform.ranks_per_gpu} ranks need about {wanted} MiB,"
                f" {there} of {gpu.memory_mib} MiB are free: end what else uses it (see nvidia-smi), use"
                " others (CUDA_VISIBLE_DEVICES lists them), train a smaller model (--set micro-batch-size=1),"
                " or stay on the CPU (CRASH_TEST_DEVICE=cpu)"
            )
    return need

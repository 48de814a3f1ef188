"""Before the first step on GPUs: compile, plan and connect on all ranks at once.

Left to the first step, this happens stage after stage, since each waits for the output of the one before it.
Megatron compiles its fused functions beforehand, too (``set_jit_fusion_options``). Nothing of it stays: the
layer is thrown away, and the caller seeds every random generator afterwards.
"""

from __future__ import annotations

import argparse
import copy
import importlib

import torch
import torch._inductor.config
from megatron.core import parallel_state
from megatron.core.models.gpt import gpt_layer_specs as layer_specs
from megatron.core.transformer.spec_utils import build_module

from tasks.machine import gpu_memory
from tasks.machine.gpu_memory import MIB
from tasks.ranks import model

SMALL_MIB = 64  # of blocks up to 1 MiB, which torch's allocator keeps apart

# What torch.compile imports when it compiles for the first time: seconds in each of the ranks.
_COMPILERS = (
    "torch._dynamo.backends.inductor",
    "torch._inductor.compile_fx",
    "torch._inductor.fx_passes.joint_graph",
    "torch._inductor.fx_passes.post_grad",
    "torch._inductor.fx_passes.fuse_attention",
    "torch._inductor.codegen.cuda_combined_scheduling",
    "torch._inductor.codegen.wrapper",
    "torch._inductor.runtime.triton_heuristics",
    "torch._functorch._aot_autograd.autograd_cache",
    "triton.compiler.compiler",
    "triton.backends.nvidia.driver",
    "triton.backends.nvidia.compiler",
)


def import_compilers() -> None:
    """In the process that forks the ranks; initialises no CUDA."""
    # Else every rank starts a pool of 17 processes for a handful of kernels, on the cores that train.
    torch._inductor.config.compile_threads = 1
    for name in _COMPILERS:
        importlib.import_module(name)


def warm_up(args: argparse.Namespace) -> None:
    """One layer forward and backward, and a word with the neighbours in the pipeline."""
    _run_layer(args)
    _meet_neighbours()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _run_layer(args: argparse.Namespace) -> None:
    args = copy.copy(args)
    args.gradient_accumulation_fusion = False  # it needs the buffers of a DistributedDataParallel
    config = model.transformer_config(args)
    if args.transformer_impl == "transformer_engine":
        spec = layer_specs.get_gpt_layer_with_transformer_engine_spec()
    else:
        spec = layer_specs.get_gpt_layer_local_spec(normalization=args.normalization)
    options = {} if args.virtual_pipeline_model_parallel_size is None else {"vp_stage": 0}
    layer = build_module(spec, config=config, layer_number=1, **options).cuda().to(torch.bfloat16)
    shape = (args.seq_length, args.micro_batch_size, args.hidden_size)
    for _ in range(2):
        hidden = torch.ones(shape, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        output = layer(hidden, attention_mask=None)
        (output[0] if isinstance(output, tuple) else output).sum().backward()


def reserve_memory(args: argparse.Namespace) -> int:
    """Ask the driver for what a step needs before any rank takes one; torch's allocator keeps it.

    Left to the first step, every rank asks while others compute: the only time at which attention on a shared
    GPU was seen not to repeat (docs/gpu.md). Returns the bytes that were allocated at most up to now; the
    device's own record of that is begun anew, for what is asked for here is not used.
    """
    peak = torch.cuda.max_memory_allocated()
    last_stage = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    of_a_step = gpu_memory.estimate(args).of_a_step(last_stage=last_stage) * MIB
    device = torch.cuda.current_device()
    for size, count in ((of_a_step, 1), (MIB, SMALL_MIB)):
        blocks = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        del blocks
    torch.distributed.barrier(device_ids=[device])
    torch.cuda.reset_peak_memory_stats()
    return peak


def _meet_neighbours() -> None:
    """Exchange a number with the stages before and after: NCCL connects two ranks when they first talk."""
    group = parallel_state.get_pipeline_model_parallel_group()
    if group.size() == 1:
        return
    following = parallel_state.get_pipeline_model_parallel_next_rank()
    preceding = parallel_state.get_pipeline_model_parallel_prev_rank()
    number = torch.zeros(1, device="cuda")
    exchange = [(torch.distributed.isend, following), (torch.distributed.irecv, preceding)]
    if parallel_state.get_pipeline_model_parallel_rank() % 2:
        exchange.reverse()  # one of each pair must listen first
    for talk, rank in exchange:
        talk(number, rank, group=group).wait()

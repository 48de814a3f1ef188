"""The model, its optimizer and its schedule, built from megatron-core alone."""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Callable

import numpy
import torch
import torch.nn.functional
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt import gpt_layer_specs as layer_specs
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.optimizer.optimizer_config import ParamKey
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module

from tasks.cases import metrics
from tasks.ranks import mcore_compat

Chunks = list[DistributedDataParallel]


def seed_everything(args: argparse.Namespace) -> None:
    """Seed Python, NumPy, torch and megatron's tracker of device generators.

    A stage adds 100 times its index to the seed, as Megatron does; data-parallel replicas share theirs.
    """
    seed = args.seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def transformer_config(args: argparse.Namespace) -> TransformerConfig:
    """Megatron's flags as megatron-core's configuration."""
    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        ffn_hidden_size=args.ffn_hidden_size,
        attention_dropout=args.attention_dropout,
        hidden_dropout=args.hidden_dropout,
        init_method_std=args.init_method_std,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        add_bias_linear=args.add_bias_linear,
        gated_linear_unit=args.swiglu,
        activation_func=torch.nn.functional.silu if args.swiglu else torch.nn.functional.gelu,
        bias_activation_fusion=args.bias_swiglu_fusion if args.swiglu else args.bias_gelu_fusion,
        bias_dropout_fusion=args.bias_dropout_fusion,
        masked_softmax_fusion=args.masked_softmax_fusion,
        persist_layer_norm=args.persist_layer_norm,
        apply_rope_fusion=args.rope_fusion and args.transformer_impl == "transformer_engine",
        gradient_accumulation_fusion=args.gradient_accumulation_fusion,
        attention_softmax_in_fp32=args.attention_softmax_in_fp32,
        calculate_per_token_loss=args.calculate_per_token_loss,
        deterministic_mode=args.deterministic_mode,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=args.virtual_pipeline_model_parallel_size,
        num_layers_in_first_pipeline_stage=args.decoder_first_pipeline_num_layers,
        num_layers_in_last_pipeline_stage=args.decoder_last_pipeline_num_layers,
        # Megatron overlaps the stages' sends and receives only in the interleaved schedule.
        overlap_p2p_comm=args.overlap_p2p_communication and _interleaved(args),
        batch_p2p_comm=not (args.overlap_p2p_communication and _interleaved(args)),
        overlap_p2p_comm_warmup_flush=args.overlap_p2p_communication_warmup_flush,
        deallocate_pipeline_outputs=mcore_compat.SENDS_ARE_WAITED_FOR,
        microbatch_group_size_per_vp_stage=args.microbatch_group_size_per_vp_stage,
    )


def _interleaved(args: argparse.Namespace) -> bool:
    return args.virtual_pipeline_model_parallel_size is not None


def build_model(args: argparse.Namespace) -> Chunks:
    """This rank's chunks of the model, each wrapped for bf16 and for data parallelism.

    Returns one chunk a virtual stage, in the order in which they are interleaved.
    """
    config = transformer_config(args)
    chunks = []
    for virtual_stage in range(args.virtual_pipeline_model_parallel_size or 1):
        chunk = _build_chunk(args, config, virtual_stage if _interleaved(args) else None)
        for parameter in chunk.parameters():
            tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
        chunks.append(Float16Module(config, chunk.cuda(torch.cuda.current_device())))
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=args.accumulate_allreduce_grads_in_fp32,
        overlap_grad_reduce=args.overlap_grad_reduce,
        overlap_param_gather=args.overlap_param_gather,
        align_param_gather=args.align_param_gather,
        use_distributed_optimizer=args.use_distributed_optimizer,
        check_for_nan_in_grad=args.check_for_nan_in_loss_and_grad,
        bucket_size=args.ddp_bucket_size,
    )
    # Only the first chunk of the first stage is on the critical path, so only it is cut into buckets.
    return [
        DistributedDataParallel(config, ddp_config, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]


def _build_chunk(args: argparse.Namespace, config: TransformerConfig, virtual_stage: int | None) -> GPTModel:
    chunk_count = args.virtual_pipeline_model_parallel_size or 1
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True) and virtual_stage in (None, 0)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True) and virtual_stage in (
        None,
        chunk_count - 1,
    )
    if args.transformer_impl == "transformer_engine":
        spec = layer_specs.get_gpt_layer_with_transformer_engine_spec()
    else:
        spec = layer_specs.get_gpt_layer_local_spec(normalization=args.normalization)
    chunk = GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=first,
        post_process=last,
        parallel_output=True,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        vp_stage=virtual_stage,
    )
    chunk.vp_stage = virtual_stage
    return chunk


def build_optimizer(args: argparse.Namespace, chunks: Chunks) -> MegatronOptimizer:
    """megatron-core's Adam over all chunks, distributed over the data-parallel replicas if asked."""
    config = OptimizerConfig(
        optimizer=args.optimizer,
        lr=args.lr,
        min_lr=args.min_lr,
        weight_decay=args.weight_decay,
        adam_beta1=args.adam_beta1,
        adam_beta2=args.adam_beta2,
        adam_eps=args.adam_eps,
        clip_grad=args.clip_grad,
        bf16=True,
        params_dtype=torch.bfloat16,
        use_distributed_optimizer=args.use_distributed_optimizer,
        overlap_param_gather=args.overlap_param_gather,
        log_num_zeros_in_grad=args.log_num_zeros_in_grad,
    )
    overrides = _parameter_overrides(args, config)
    return get_megatron_optimizer(
        config, chunks, config_overrides=overrides, use_gloo_process_groups=args.enable_gloo_process_groups
    )


def _parameter_overrides(args: argparse.Namespace, config: OptimizerConfig) -> dict[ParamKey, dict]:
    """No weight decay for biases and norms; a learning rate of their own for embedding and output."""
    config.decoupled_lr = args.decoupled_lr
    config.decoupled_min_lr = args.decoupled_min_lr
    return mcore_compat.parameter_overrides(config)


def learning_rates(args: argparse.Namespace, optimizer: MegatronOptimizer) -> dict[str, float]:
    """The learning rate of now, and that of embedding and output where they have their own; as scalars.

    Every rank has all groups, also those of which it holds no parameter.
    """
    rates = {bool(group.get("is_decoupled_lr")): group["lr"] for group in optimizer.param_groups}
    scalars = {metrics.LEARNING_RATE.name: rates[False]}
    if args.decoupled_lr is not None:
        scalars[metrics.DECOUPLED_LEARNING_RATE.name] = rates[True]
    return scalars


def build_scheduler(args: argparse.Namespace, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    """The schedule of learning rate and weight decay; its unit is samples, as in Megatron."""
    batch = args.global_batch_size
    if args.lr_warmup_fraction is not None:
        warmup = args.lr_warmup_fraction * args.lr_decay_iters * batch
    else:
        warmup = args.lr_warmup_iters * batch
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=args.lr,
        min_lr=args.min_lr,
        lr_warmup_steps=warmup,
        lr_decay_steps=args.lr_decay_iters * batch,
        lr_decay_style=args.lr_decay_style,
        start_wd=args.weight_decay,
        end_wd=args.weight_decay,
        wd_incr_steps=args.train_iters * batch,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=args.use_checkpoint_opt_param_scheduler,
        override_opt_param_scheduler=args.override_opt_param_scheduler,
    )


def connect_schedule(
    args: argparse.Namespace,
    chunks: Chunks,
    optimizer: MegatronOptimizer,
    before_reducing: Callable[[], None],
) -> TransformerConfig:
    """Tell the pipeline schedule how to reduce gradients and gather parameters while it runs.

    ``before_reducing`` is called before the first gradients of a step are reduced, where that is overlapped.
    """
    config = chunks[0].config
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads

    def one_or_all(functions: list) -> object:
        return functions[0] if len(functions) == 1 else functions

    if args.overlap_grad_reduce:
        config.no_sync_func = one_or_all([chunk.no_sync for chunk in chunks])
        if args.align_grad_reduce:
            starts = [chunk.start_grad_sync for chunk in chunks]
            starts[-1] = functools.partial(_one_after_the_other, before_reducing, starts[-1])
            config.grad_sync_func = one_or_all(starts)
    if args.overlap_param_gather and args.align_param_gather:
        config.param_sync_func = one_or_all([chunk.start_param_sync for chunk in chunks])
    return config


def _one_after_the_other(first: Callable[[], None], then: Callable[..., None], *args: object) -> None:
    first()
    then(*args)

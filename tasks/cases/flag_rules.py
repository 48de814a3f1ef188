"""Rules between Megatron's flags; type and range of a single flag are in ``flags``.

A rule takes parsed arguments and yields a line for each violation.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Mapping

_VIRTUAL = "--num-layers-per-virtual-pipeline-stage"
_GROUP = "--microbatch-group-size-per-virtual-pipeline-stage"


def broken(args: argparse.Namespace) -> list[str]:
    """Violated rules of every training program of Megatron."""
    ranks = list(_ranks(args))  # the other rules divide by the number of replicas
    return ranks or [line for rule in _SHARED for line in rule(args)]


def unsupported(args: argparse.Namespace) -> list[str]:
    """Violated rules of our training program, for arguments that pass ``broken``."""
    return [line for rule in _OURS for line in rule(args)]


def missing_on_cpu(args: argparse.Namespace) -> list[str]:
    """A line for each missing flag that a CPU needs; most turn off a default of Megatron."""
    needed = [
        ("--distributed-backend gloo", args.distributed_backend == "gloo"),
        ("--transformer-impl local", args.transformer_impl == "local"),
        ("--no-gradient-accumulation-fusion", not args.gradient_accumulation_fusion),
        ("--no-persist-layer-norm", not args.persist_layer_norm),
    ]
    return [f"a CPU needs {flag}" for flag, given in needed if not given]


def check_data(model_args: Mapping[str, object], corpus: object) -> list[str]:
    """With ``CORPUS``, ``--data-path`` cannot name other data."""
    named = model_args.get("--data-path")
    if corpus is None or named in (None, "${CORPUS_PREFIX}"):
        return []
    return [
        f"--data-path: {named!r} would not be read, CORPUS names the text: for one run give --data-path"
        " PREFIX (not --set); in a case of its own remove the text, CORPUS: null"
    ]


def check_resume(model_args: Mapping[str, object], test_type: str) -> list[str]:
    """A case that restarts needs a checkpoint, and a step to train after it."""
    iterations, interval = model_args.get("--train-iters"), model_args.get("--save-interval")
    if test_type == "regular" or iterations is None:
        return []
    if interval is None:
        return [f"--save-interval: is missing; TEST_TYPE {test_type} restarts from a saved checkpoint"]
    if interval < iterations:
        return []
    reason = f"or TEST_TYPE {test_type} has nothing to train after the restart"
    return [f"--save-interval: {interval} must be below --train-iters {iterations}, {reason}"]


def replicas(args: argparse.Namespace) -> int:
    """Data-parallel replicas of the model."""
    return args.world_size // _model_ranks(args)


def micro_batches(args: argparse.Namespace) -> int:
    """Micro-batches of one replica in one step."""
    return args.global_batch_size // (args.micro_batch_size * replicas(args))


def virtual_stages(args: argparse.Namespace) -> int:
    """Model chunks per stage; with one, Megatron does not interleave."""
    chunk_layers = args.num_layers_per_virtual_pipeline_stage
    chunks = args.num_layers // args.pipeline_model_parallel_size // chunk_layers if chunk_layers else 1
    return args.num_virtual_stages_per_pipeline_rank or chunks


def gated_ffn_size(args: argparse.Namespace) -> int:
    """Megatron's FFN size with SwiGLU: about as many parameters as without, a multiple of 64."""
    return int((4 * args.hidden_size * 2 / 3) / 64) * 64


def training_sequences(split: str, sequences: int) -> int:
    """Sequences in megatron-core's training share; with none, building their index never ends."""
    shares = _shares(split)
    return round(shares[0] / sum(shares) * sequences)


def _shares(split: str) -> list[float]:
    """The shares of ``--split``, the first for training, parsed as in megatron-core.

    Raises:
        ValueError: a number has more than one point.
    """
    return [float(share) for share in re.findall(r"[.0-9]+", split)]


def _model_ranks(args: argparse.Namespace) -> int:
    tensor_and_context = args.tensor_model_parallel_size * args.context_parallel_size
    return args.pipeline_model_parallel_size * tensor_and_context


def _uneven(args: argparse.Namespace) -> list[int]:
    """Layer counts given for the first and last stage."""
    ends = [args.decoder_first_pipeline_num_layers, args.decoder_last_pipeline_num_layers]
    return [layers for layers in ends if layers is not None]


def _ranks(args: argparse.Namespace) -> Iterator[str]:
    if args.world_size % _model_ranks(args):
        yield (
            f"--pipeline-model-parallel-size: {args.world_size} ranks are not divisible by tensor x pipeline"
            f" x context parallel = {_model_ranks(args)}"
        )


def _layers(args: argparse.Namespace) -> Iterator[str]:
    layers, stages = args.num_layers, args.pipeline_model_parallel_size
    per_chunk, chunks = args.num_layers_per_virtual_pipeline_stage, args.num_virtual_stages_per_pipeline_rank
    if per_chunk and chunks:
        yield f"--num-virtual-stages-per-pipeline-rank: not with {_VIRTUAL}"
    elif (per_chunk or chunks) and stages < 2:
        yield f"--pipeline-model-parallel-size: virtual stages need at least 2 pipeline stages, not {stages}"
    elif not _uneven(args) and layers % (stages * (per_chunk or chunks or 1)):
        unit = "layers a virtual stage" if per_chunk else "virtual stages a rank"
        virtual = f" x {per_chunk or chunks} {unit}" if per_chunk or chunks else ""
        yield f"--num-layers: {layers} is not divisible by {stages} pipeline stages{virtual}"


def _batches(args: argparse.Namespace) -> Iterator[str]:
    batch, micro, stages = args.global_batch_size, args.micro_batch_size, args.pipeline_model_parallel_size
    if batch % (micro * replicas(args)):
        yield (
            f"--global-batch-size: {batch} is not divisible by micro-batch {micro} x {replicas(args)}"
            f" data-parallel replicas = {micro * replicas(args)}"
        )
        return
    group = args.microbatch_group_size_per_vp_stage or stages
    rest = micro_batches(args) % group
    if virtual_stages(args) > 1 and 0 < rest < stages:
        yield (
            f"--global-batch-size: {batch} gives {micro_batches(args)} micro-batches a replica; the"
            f" interleaved schedule runs them in groups of {group} and leaves a rest of {rest}, smaller than"
            f" the {stages} pipeline stages: give a multiple, or another group size"
        )


def _sizes(args: argparse.Namespace) -> Iterator[str]:
    if args.hidden_size % args.num_attention_heads:
        heads = f"--num-attention-heads {args.num_attention_heads}"
        yield f"--hidden-size: {args.hidden_size} is not divisible by {heads}"
    if args.seq_length > args.max_position_embeddings:
        positions = f"--max-position-embeddings {args.max_position_embeddings}"
        yield f"--seq-length: {args.seq_length} is above {positions}"
    if args.min_lr > args.lr:
        yield f"--min-lr: {args.min_lr} is above --lr {args.lr}"


def _uneven_stages(args: argparse.Namespace) -> Iterator[str]:
    given, stages = _uneven(args), args.pipeline_model_parallel_size
    if given and args.num_layers_per_virtual_pipeline_stage:
        yield f"{_VIRTUAL} needs stages of equal size: no --decoder-first/last-pipeline-num-layers"
    elif given:
        layers, between = args.num_layers - sum(given), stages - len(given)
        if layers < between or (layers % between if between else layers):
            yield (
                f"--num-layers {args.num_layers}: the {layers} layers beside the first and last stage's own"
                f" cannot be shared equally by {between} pipeline stages"
            )


def _virtual_stages(args: argparse.Namespace) -> Iterator[str]:
    interleaved, stages = virtual_stages(args) > 1, args.pipeline_model_parallel_size
    group = args.microbatch_group_size_per_vp_stage
    if interleaved and stages == 2 and not args.overlap_p2p_communication:
        yield "--no-overlap-p2p-communication with virtual stages needs more than 2 pipeline stages"
    if args.overlap_p2p_communication_warmup_flush and not (interleaved and args.overlap_p2p_communication):
        yield "--overlap-p2p-communication-warmup-flush needs virtual stages, and sends that overlap"
    if group is not None and not args.num_layers_per_virtual_pipeline_stage:
        yield f"{_GROUP} needs {_VIRTUAL}"
    elif group is not None and not stages <= group <= micro_batches(args):
        most = f"that of micro-batches, {micro_batches(args)}"
        yield f"{_GROUP} {group} must be from the number of stages, {stages}, to {most}"


def _feed_forward(args: argparse.Namespace) -> Iterator[str]:
    if args.swiglu and args.ffn_hidden_size is None and gated_ffn_size(args) < 1:
        yield f"--swiglu: with --hidden-size {args.hidden_size} its own size is 0: give --ffn-hidden-size"


def _companions(args: argparse.Namespace) -> Iterator[str]:
    """Flags that need other flags."""
    if args.decoupled_min_lr is not None and args.decoupled_lr is None:
        yield "--decoupled-min-lr needs --decoupled-lr"
    if args.overlap_param_gather and not (args.use_distributed_optimizer and args.overlap_grad_reduce):
        yield "--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce"
    if args.dist_ckpt_optim_fully_reshardable and not args.use_distributed_optimizer:
        yield "--dist-ckpt-optim-fully-reshardable needs --use-distributed-optimizer"
    if args.use_persistent_ckpt_worker and not args.async_save:
        yield "--use-persistent-ckpt-worker needs --async-save"
    if not args.bf16:
        yield "only --bf16 training is supported"
    if args.eval_interval <= args.train_iters:
        yield "evaluation is not part of a test case: --eval-interval must exceed --train-iters"


def _seed(args: argparse.Namespace) -> Iterator[str]:
    largest = 2**32 - 1 - 100 * (args.pipeline_model_parallel_size - 1)  # NumPy's, of the last stage
    if args.seed > largest:
        yield f"--seed {args.seed} must be at most {largest}"


def _schedule(args: argparse.Namespace) -> Iterator[str]:
    if args.use_checkpoint_opt_param_scheduler and args.override_opt_param_scheduler:
        yield "--override-opt_param-scheduler: not with --use-checkpoint-opt_param-scheduler"
    decay = args.lr_decay_iters or args.train_iters
    if args.lr_warmup_fraction is not None and args.lr_warmup_iters:
        yield "--lr-warmup-iters: not with --lr-warmup-fraction; remove one of them"
    elif args.lr_warmup_fraction is None and args.lr_warmup_iters >= decay:
        limit = f"--lr-decay-iters (by default --train-iters), {decay}"
        yield f"--lr-warmup-iters {args.lr_warmup_iters} must be below {limit}"


def _split(args: argparse.Namespace) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        shares = _shares(args.split)
        if 0 < len(shares) <= 3 and shares[0] > 0:
            return
    yield f"--split {args.split} must be up to three shares, of which the first, for training, is above 0"


_SHARED = (_layers, _batches, _sizes)
_OURS = (_uneven_stages, _virtual_stages, _feed_forward, _companions, _seed, _schedule, _split)

"""The Megatron flags that the training program understands, under Megatron's own names and meanings.

Imports neither torch nor megatron, so that a wrong flag is reported before any rank is started.
Source of names and defaults: megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from typing import NoReturn

from tasks.cases.argument_values import broken_values
from tasks.util.exits import UsageError


class _FlagParser(argparse.ArgumentParser):
    """Collects errors instead of exiting, so that all of them are shown together."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"Megatron flags: {message}")

    def names(self) -> list[str]:
        return [name for name in self._option_string_actions if name.startswith("--")]

    def takes(self, flag: str) -> float:
        """How many words at most."""
        number = self._option_string_actions[flag].nargs
        return math.inf if number == "*" else 1 if number is None else number


def _flag_parser() -> _FlagParser:
    parser = _FlagParser(add_help=False, allow_abbrev=False)
    _add_model_flags(parser)
    _add_training_flags(parser)
    _add_parallel_flags(parser)
    _add_data_flags(parser)
    _add_checkpoint_flags(parser)
    _add_logging_flags(parser)
    return parser


def _switch(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        if name.startswith("--no-"):
            parser.add_argument(name, action="store_false", dest=name[5:].replace("-", "_"), default=True)
        else:
            parser.add_argument(name, action="store_true")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--num-layers", type=int, required=True)
    add("--hidden-size", type=int, required=True)
    add("--num-attention-heads", type=int, required=True)
    add("--ffn-hidden-size", type=int)
    add("--seq-length", type=int, required=True)
    add("--max-position-embeddings", type=int, required=True)
    add("--position-embedding-type", choices=["learned_absolute", "rope", "none"], default="learned_absolute")
    add("--rotary-percent", type=float, default=1.0)
    add("--rotary-base", type=int, default=10000)
    add("--normalization", choices=["LayerNorm", "RMSNorm"], default="LayerNorm")
    add("--norm-epsilon", type=float, default=1e-5)
    add("--init-method-std", type=float, default=0.02)
    add("--attention-dropout", type=float, default=0.1)
    add("--hidden-dropout", type=float, default=0.1)
    add("--transformer-impl", choices=["local", "transformer_engine"], default="transformer_engine")
    add("--disable-bias-linear", action="store_false", dest="add_bias_linear")
    _switch(
        parser,
        "--use-mcore-models",
        "--bf16",
        "--swiglu",
        "--untie-embeddings-and-output-weights",
        "--attention-softmax-in-fp32",
        "--deterministic-mode",
        "--no-gradient-accumulation-fusion",
        "--no-bias-gelu-fusion",
        "--no-bias-swiglu-fusion",
        "--no-bias-dropout-fusion",
        "--no-masked-softmax-fusion",
        "--no-persist-layer-norm",
        "--no-rope-fusion",
    )


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--micro-batch-size", type=int, required=True)
    add("--global-batch-size", type=int, required=True)
    add("--train-iters", type=int, required=True)
    add("--exit-interval", type=int)
    add("--seed", type=int, default=1234)
    add("--optimizer", choices=["adam"], default="adam")
    add("--lr", type=float, required=True)
    add("--min-lr", type=float, default=0.0)
    add("--decoupled-lr", type=float)
    add("--decoupled-min-lr", type=float)
    add("--lr-decay-style", choices=["constant", "linear", "cosine"], default="linear")
    add("--lr-decay-iters", type=int)
    add("--lr-warmup-fraction", type=float)
    add("--lr-warmup-iters", type=int, default=0)
    add("--weight-decay", type=float, default=0.01)
    add("--clip-grad", type=float, default=1.0)
    add("--adam-beta1", type=float, default=0.9)
    add("--adam-beta2", type=float, default=0.999)
    add("--adam-eps", type=float, default=1e-8)
    add("--eval-interval", type=int, default=1000)
    add("--eval-iters", type=int, default=100)
    _switch(parser, "--calculate-per-token-loss", "--no-check-for-nan-in-loss-and-grad")


def _add_parallel_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tensor-model-parallel-size", type=int, choices=[1], default=1)
    add("--pipeline-model-parallel-size", type=int, default=1)
    add("--num-layers-per-virtual-pipeline-stage", type=int)
    add(
        "--microbatch-group-size-per-virtual-pipeline-stage",
        type=int,
        dest="microbatch_group_size_per_vp_stage",
    )
    add("--decoder-first-pipeline-num-layers", type=int)
    add("--decoder-last-pipeline-num-layers", type=int)
    add("--distributed-backend", choices=["nccl", "gloo"], default="nccl")
    add("--distributed-timeout-minutes", type=int, default=10)
    add("--ddp-bucket-size", type=int)
    add("--no-align-param-gather", action="store_false", dest="align_param_gather", default=False)
    add("--check-weight-hash-across-dp-replicas-interval", type=int)
    add("--disable-gloo-process-groups", action="store_false", dest="enable_gloo_process_groups")
    _switch(
        parser,
        "--use-distributed-optimizer",
        "--overlap-grad-reduce",
        "--overlap-param-gather",
        "--align-param-gather",
        "--no-align-grad-reduce",
        "--accumulate-allreduce-grads-in-fp32",
        "--grad-reduce-in-bf16",
        "--no-overlap-p2p-communication",
        "--overlap-p2p-communication-warmup-flush",
    )


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data-path", nargs="*", required=True)
    add("--data-cache-path")
    add("--split", default="969,30,1")
    add("--tokenizer-type", choices=["NullTokenizer"], default="NullTokenizer")
    add("--vocab-size", type=int, required=True)
    add("--make-vocab-size-divisible-by", type=int, default=128)


def _add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--save")
    add("--load")
    add("--ckpt-step", type=int)
    add("--save-interval", type=int)
    add("--ckpt-format", choices=["torch_dist"], default="torch_dist")
    add("--dist-ckpt-strictness", choices=["raise_all"], default="raise_all")
    add("--no-ckpt-fully-parallel-save", action="store_false", dest="ckpt_fully_parallel_save")
    _switch(
        parser,
        "--ckpt-fully-parallel-load",
        "--ckpt-assume-constant-structure",
        "--async-save",
        "--use-persistent-ckpt-worker",
        "--dist-ckpt-optim-fully-reshardable",
        "--exit-on-missing-checkpoint",
    )
    add("--no-load-rng", action="store_false", dest="load_rng")
    # Megatron spells this one with an underscore in the middle; both spellings occur in its case files.
    add(
        "--use-checkpoint-opt_param-scheduler",
        "--use-checkpoint-opt-param-scheduler",
        action="store_true",
        dest="use_checkpoint_opt_param_scheduler",
    )
    add("--override-opt_param-scheduler", action="store_true", dest="override_opt_param_scheduler")


def _add_logging_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tensorboard-dir")
    add("--log-interval", type=int, choices=[1], default=1)
    add("--timing-log-level", type=int, choices=[0], default=0)
    _switch(
        parser,
        "--log-params-norm",
        "--log-num-zeros-in-grad",
        "--log-validation-ppl-to-tensorboard",
        "--log-timers-to-tensorboard",
        "--log-memory-to-tensorboard",
    )


def known_flags() -> list[str]:
    """All flags that the training program understands."""
    return _flag_parser().names()


def unknown_flags(words: Sequence[str]) -> list[str]:
    """The words of a Megatron command line that look like flags and are not known here."""
    known = set(known_flags())
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


def parse_arguments(words: Sequence[str], *, world_size: int) -> argparse.Namespace:
    """Parse a Megatron command line and derive what follows from it.

    Derived: ``data_parallel_size``, ``virtual_pipeline_model_parallel_size`` (chunks a stage, None without
    interleaving), ``padded_vocab_size`` (tokens), ``num_microbatches`` (of one rank in one step),
    ``end_of_document`` (token id).

    Errors: ``UsageError`` that names every unknown flag with the nearest known one, or every broken rule.
    """
    unknown = unknown_flags(words)
    if unknown:
        raise UsageError("; ".join(_describe_unknown(flag) for flag in unknown))
    parser = _flag_parser()
    args, extra = parser.parse_known_args(list(words))
    if extra:
        raise UsageError(f"Megatron flags: {'; '.join(_describe_extra(parser, words))}")
    broken = _broken_rules(args, world_size)
    if broken:
        raise UsageError("Megatron flags: " + "; ".join(broken))
    _derive(args, world_size)
    return args


def _describe_unknown(flag: str) -> str:
    nearest = difflib.get_close_matches(flag, known_flags(), n=1, cutoff=0.5)
    advice = f"did you mean {nearest[0]}?" if nearest else "see tasks/cases/flags.py for those it knows"
    return f"unknown Megatron flag {flag}: {advice}"


def _describe_extra(parser: _FlagParser, words: Sequence[str]) -> list[str]:
    """Words that no flag takes, with the flag before each."""
    found, flag, takes = [], "the beginning", 0.0
    for word in words:
        if word.startswith("--"):
            flag, takes = word, parser.takes(word)
        elif takes:
            takes -= 1
        else:
            found.append(f"{flag}: {word!r} is more than it takes (a switch is true or false)")
    return found


def _broken_rules(args: argparse.Namespace, world_size: int) -> list[str]:
    broken = []
    stages = args.pipeline_model_parallel_size
    if world_size % stages:
        return [f"--pipeline-model-parallel-size {stages} does not divide the {world_size} ranks"]
    replicas = world_size // stages
    batch = args.micro_batch_size * replicas
    if args.global_batch_size % batch:
        broken.append(
            f"--global-batch-size {args.global_batch_size} is not a multiple of micro-batch size "
            f"{args.micro_batch_size} x {replicas} data-parallel replicas"
        )
    broken += _broken_pipeline_rules(args, micro_batches=args.global_batch_size // batch)
    broken += broken_values(args)
    if args.hidden_size % args.num_attention_heads:
        broken.append(f"--hidden-size {args.hidden_size} is not a multiple of --num-attention-heads")
    if args.seq_length > args.max_position_embeddings:
        broken.append("--seq-length exceeds --max-position-embeddings")
    if args.swiglu and args.ffn_hidden_size is None and _gated_ffn_size(args) < 1:
        broken.append(
            f"--swiglu with --hidden-size {args.hidden_size}: Megatron's own feed-forward size, two thirds of"
            " 4 times that in multiples of 64, is 0: give --ffn-hidden-size"
        )
    if args.decoupled_min_lr is not None and args.decoupled_lr is None:
        broken.append("--decoupled-min-lr needs --decoupled-lr")
    if args.overlap_param_gather and not (args.use_distributed_optimizer and args.overlap_grad_reduce):
        broken.append("--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce")
    if args.dist_ckpt_optim_fully_reshardable and not args.use_distributed_optimizer:
        broken.append("--dist-ckpt-optim-fully-reshardable needs --use-distributed-optimizer")
    if args.use_persistent_ckpt_worker and not args.async_save:
        broken.append("--use-persistent-ckpt-worker needs --async-save")
    if not args.bf16:
        broken.append("only --bf16 training is supported")
    if args.eval_interval <= args.train_iters:
        broken.append("evaluation is not part of a test case: --eval-interval must exceed --train-iters")
    return broken


def _broken_pipeline_rules(args: argparse.Namespace, *, micro_batches: int) -> list[str]:
    broken = []
    stages, chunk_layers = args.pipeline_model_parallel_size, args.num_layers_per_virtual_pipeline_stage
    ends = [args.decoder_first_pipeline_num_layers, args.decoder_last_pipeline_num_layers]
    given = [layers for layers in ends if layers is not None]
    if given and chunk_layers:
        broken.append(
            "--num-layers-per-virtual-pipeline-stage needs stages of equal size: not with"
            " --decoder-first-pipeline-num-layers or --decoder-last-pipeline-num-layers"
        )
    elif given:
        layers, between = args.num_layers - sum(given), stages - len(given)
        if layers < between or (layers % between if between else layers):
            broken.append(
                f"--num-layers {args.num_layers}: the {layers} layers beside the first and last stage's own"
                f" cannot be shared equally by {between} pipeline stages"
            )
    elif args.num_layers % (stages * (chunk_layers or 1)):
        broken.append(
            f"--num-layers {args.num_layers} is not a multiple of {stages} pipeline stages x "
            f"{chunk_layers or 1} layers a virtual stage"
        )
    if _virtual_stages(args) > 1 and stages == 2 and not args.overlap_p2p_communication:
        broken.append("--no-overlap-p2p-communication with virtual stages needs more than 2 pipeline stages")
    if args.overlap_p2p_communication_warmup_flush and not (
        _virtual_stages(args) > 1 and args.overlap_p2p_communication
    ):
        broken.append(
            "--overlap-p2p-communication-warmup-flush needs virtual stages, and sends that overlap (not"
            " --no-overlap-p2p-communication)"
        )
    group = args.microbatch_group_size_per_vp_stage
    if group is not None and not chunk_layers:
        broken.append(
            "--microbatch-group-size-per-virtual-pipeline-stage needs --num-layers-per-virtual-pipeline-stage"
        )
    elif group is not None and not stages <= group <= micro_batches:
        broken.append(
            f"--microbatch-group-size-per-virtual-pipeline-stage {group} must be from the number of stages,"
            f" {stages}, to that of micro-batches, {micro_batches}"
        )
    elif _virtual_stages(args) > 1 and 0 < micro_batches % (group or stages) < stages:
        broken.append(
            f"{micro_batches} micro-batches in groups of {group or stages} leave a rest smaller than the"
            f" {stages} stages: the interleaved schedule needs a number of micro-batches that the"
            " stages divide, or another group size"
        )
    return broken


def _derive(args: argparse.Namespace, world_size: int) -> None:
    args.world_size = world_size
    args.data_parallel_size = world_size // args.pipeline_model_parallel_size
    args.num_microbatches = args.global_batch_size // (args.micro_batch_size * args.data_parallel_size)
    virtual_stages = _virtual_stages(args)
    args.virtual_pipeline_model_parallel_size = virtual_stages if virtual_stages > 1 else None
    # Megatron aligns them in the interleaved schedule alone.
    args.align_param_gather = args.align_param_gather and virtual_stages > 1
    args.end_of_document = args.vocab_size
    tokens = args.vocab_size + 1
    multiple = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
    args.padded_vocab_size = -(-tokens // multiple) * multiple
    args.ffn_hidden_size = args.ffn_hidden_size or (
        _gated_ffn_size(args) if args.swiglu else 4 * args.hidden_size
    )
    args.lr_decay_iters = args.lr_decay_iters or args.train_iters
    args.bias_gelu_fusion = args.bias_gelu_fusion and args.add_bias_linear  # as in Megatron: nothing to fuse
    # Megatron reduces the gradients of a bf16 model in fp32 unless told otherwise.
    args.accumulate_allreduce_grads_in_fp32 = not args.grad_reduce_in_bf16


def _virtual_stages(args: argparse.Namespace) -> int:
    """Chunks of the model a stage; with one, Megatron does not interleave."""
    chunk_layers = args.num_layers_per_virtual_pipeline_stage
    return args.num_layers // args.pipeline_model_parallel_size // chunk_layers if chunk_layers else 1


def _gated_ffn_size(args: argparse.Namespace) -> int:
    """Megatron keeps the parameter count of a gated unit near that of a plain one, in multiples of 64."""
    return int((4 * args.hidden_size * 2 / 3) / 64) * 64

"""Values of Megatron's flags that would only fail in the ranks, or be taken there for something else."""

from __future__ import annotations

import argparse
import contextlib
import math
import re


def broken_values(args: argparse.Namespace) -> list[str]:
    """A line a value that is out of its range, or that another one forbids."""
    return [*_not_finite(args), *_out_of_range(args), *_broken_schedule(args), *_broken_split(args)]


def broken_on_cpu(args: argparse.Namespace) -> list[str]:
    """A line a flag that asks for what only a GPU has; most are Megatron's defaults."""
    needed = [
        ("--distributed-backend gloo", args.distributed_backend == "gloo"),
        ("--transformer-impl local", args.transformer_impl == "local"),
        ("--no-gradient-accumulation-fusion", not args.gradient_accumulation_fusion),
        ("--no-persist-layer-norm", not args.persist_layer_norm),
    ]
    return [f"a CPU needs {flag}" for flag, given in needed if not given]


def training_sequences(split: str, sequences: int) -> int:
    """How many of the sequences megatron-core trains on; without any, it never ends building their index."""
    shares = _shares(split)
    return round(shares[0] / sum(shares) * sequences)


def _shares(split: str) -> list[float]:
    """As megatron-core reads them; training takes the first.

    Errors: ``ValueError`` for a number with more than one point.
    """
    return [float(share) for share in re.findall(r"[.0-9]+", split)]


def _not_finite(args: argparse.Namespace) -> list[str]:
    return [
        f"--{name.replace('_', '-')} {value}: must be a finite number"
        for name, value in vars(args).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _out_of_range(args: argparse.Namespace) -> list[str]:
    largest_seed = 2**32 - 1 - 100 * (args.pipeline_model_parallel_size - 1)  # NumPy's, of the last stage
    ranges = [
        ("--seed", args.seed, 1, largest_seed),
        ("--lr", args.lr, 0, math.inf),
        ("--lr-warmup-iters", args.lr_warmup_iters, 0, math.inf),
        ("--ffn-hidden-size", args.ffn_hidden_size, 1, math.inf),
        ("--attention-dropout", args.attention_dropout, 0, 1),
        ("--hidden-dropout", args.hidden_dropout, 0, 1),
        ("--exit-interval", args.exit_interval, 0, math.inf),
        ("--distributed-timeout-minutes", args.distributed_timeout_minutes, 1, math.inf),
    ]
    return [
        f"{flag} {value} must be at least {least}{'' if most == math.inf else f', at most {most}'}"
        for flag, value, least, most in ranges
        if value is not None and not least <= value <= most
    ]


def _broken_schedule(args: argparse.Namespace) -> list[str]:
    broken = []
    if args.use_checkpoint_opt_param_scheduler and args.override_opt_param_scheduler:
        broken.append("--override-opt_param-scheduler: not with --use-checkpoint-opt_param-scheduler")
    decay = args.lr_decay_iters or args.train_iters
    if args.lr_warmup_fraction is not None:
        if args.lr_warmup_iters:
            broken.append("--lr-warmup-iters: not with --lr-warmup-fraction; take one of them away")
        if not 0 <= args.lr_warmup_fraction < 1:
            broken.append(f"--lr-warmup-fraction {args.lr_warmup_fraction} must be at least 0, below 1")
    elif args.lr_warmup_iters >= decay:
        broken.append(
            f"--lr-warmup-iters {args.lr_warmup_iters} must be below --lr-decay-iters (by default"
            f" --train-iters), {decay}"
        )
    return broken


def _broken_split(args: argparse.Namespace) -> list[str]:
    with contextlib.suppress(ValueError):
        shares = _shares(args.split)
        if 0 < len(shares) <= 3 and shares[0] > 0:
            return []
    return [f"--split {args.split} must be up to three shares, of which the first, for training, is above 0"]

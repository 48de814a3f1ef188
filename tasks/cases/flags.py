"""The table of Megatron's flags, with types and ranges, and the parser built from it.

Imports neither torch nor megatron, so that a wrong flag is reported before ranks start.
Source of names and defaults: megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tasks.cases import flag_rules
from tasks.util.exits import UsageError
from tasks.util.files import whole
from tasks.util.suggestions import nearest


@dataclass(frozen=True, kw_only=True)
class Number:
    """A type for argparse: a finite number from ``least`` to ``most``, and less than ``below``."""

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __call__(self, text: str) -> float:
        """Convert text.

        Raises:
            ArgumentTypeError: text that is no such number.
        """
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if not self.contains(value):
            raise argparse.ArgumentTypeError(f"{text!r} must be {self}")
        return value

    def contains(self, value: object) -> bool:
        """True for a number in this range; booleans are not numbers."""
        if not isinstance(value, int if self.whole else (int, float)) or isinstance(value, bool):
            return False
        return self.least <= value <= self.most and -math.inf < value < self.below

    def __str__(self) -> str:
        bounds = {"of at least": self.least, "at most": self.most, "below": self.below}
        limits = [f"{name} {bound:g}" for name, bound in bounds.items() if abs(bound) != math.inf]
        kind = "a whole number" if self.whole else "a finite number"
        return f"{kind} {', '.join(limits)}".strip()


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of Megatron. Without ``type`` it is a switch; ``--no-`` and ``--disable-`` turn it off.

    Attributes:
        dest: the name of the parsed argument, where it does not follow from the flag's.
        required: by every training program of Megatron.
        divisor: other values are divided by it.
        choices: the values that our training program supports.
        supported: False when our training program does not know the flag.
        influence: False for paths, times and output, which do not change the computation.
    """

    type: Number | type[str] | None = None
    many: bool = False
    default: object = None
    dest: str = ""
    required: bool = False
    divisor: bool = False
    choices: tuple[object, ...] = ()
    supported: bool = True
    influence: bool = True

    def argument(self, name: str) -> dict[str, object]:
        """Options of ``add_argument``."""
        dest = self.dest or name.removeprefix("--no-").strip("-").replace("-", "_")
        if self.type is None:
            on = not name.startswith(("--no-", "--disable-"))
            return {"dest": dest, "action": "store_const", "const": on, "default": not on}
        return {"dest": dest, "type": self.type, "default": self.default, "nargs": "*" if self.many else None}

    def error(self, value: object) -> str | None:
        """The error in a value of a case file, or None. A value of None (YAML null) removes the flag."""
        if value is None:
            return None
        if self.type is None:
            return None if isinstance(value, bool) else f"{value!r} is more than it takes: true or false"
        if isinstance(self.type, Number):
            return None if self.type.contains(value) else f"{value!r} must be {self.type}"
        several = isinstance(value, list) and not self.many
        return f"{value!r} must be one value" if value is True or several else None


def _choice(default: str, *others: str) -> Flag:
    return Flag(type=str, default=default, choices=(default, *others))


INTEGER, COUNT = Number(whole=True), Number(whole=True, least=1)
NUMBER, NOT_NEGATIVE, PROBABILITY = Number(), Number(least=0), Number(least=0, most=1)
_SIZE = Flag(type=COUNT, required=True, divisor=True)

# Both spellings of --use-checkpoint-opt_param-scheduler occur in Megatron-LM's case files. argparse takes the
# default of --align-param-gather and its opposite from the first, which is off.
_SWITCHES = """
--use-mcore-models --bf16 --swiglu --untie-embeddings-and-output-weights --attention-softmax-in-fp32
--deterministic-mode --no-gradient-accumulation-fusion --no-bias-gelu-fusion --no-bias-swiglu-fusion
--no-bias-dropout-fusion --no-masked-softmax-fusion --no-persist-layer-norm --no-rope-fusion
--calculate-per-token-loss --no-check-for-nan-in-loss-and-grad --use-distributed-optimizer
--overlap-grad-reduce --overlap-param-gather --align-param-gather --no-align-param-gather
--no-align-grad-reduce --accumulate-allreduce-grads-in-fp32 --grad-reduce-in-bf16
--no-overlap-p2p-communication --overlap-p2p-communication-warmup-flush --no-ckpt-fully-parallel-save
--ckpt-fully-parallel-load --ckpt-assume-constant-structure --async-save --use-persistent-ckpt-worker
--dist-ckpt-optim-fully-reshardable --exit-on-missing-checkpoint --no-load-rng
--use-checkpoint-opt_param-scheduler --use-checkpoint-opt-param-scheduler --override-opt_param-scheduler
--log-params-norm --log-num-zeros-in-grad --log-validation-ppl-to-tensorboard --log-memory-to-tensorboard
"""

FLAGS: Mapping[str, Flag] = {
    **dict.fromkeys(_SWITCHES.split(), Flag()),
    # ---- model ----
    "--num-layers": _SIZE,
    "--hidden-size": _SIZE,
    "--num-attention-heads": _SIZE,
    "--ffn-hidden-size": Flag(type=COUNT),
    "--seq-length": _SIZE,
    "--max-position-embeddings": _SIZE,
    "--position-embedding-type": _choice("learned_absolute", "rope", "none"),
    "--rotary-percent": Flag(type=NUMBER, default=1.0),
    "--rotary-base": Flag(type=INTEGER, default=10000),
    "--normalization": _choice("LayerNorm", "RMSNorm"),
    "--norm-epsilon": Flag(type=NUMBER, default=1e-5),
    "--init-method-std": Flag(type=NUMBER, default=0.02),
    "--attention-dropout": Flag(type=PROBABILITY, default=0.1),
    "--hidden-dropout": Flag(type=PROBABILITY, default=0.1),
    "--transformer-impl": _choice("transformer_engine", "local"),
    "--disable-bias-linear": Flag(dest="add_bias_linear"),
    # ---- training ----
    "--micro-batch-size": _SIZE,
    "--global-batch-size": _SIZE,
    "--train-iters": Flag(type=COUNT, required=True),
    "--exit-interval": Flag(type=COUNT, influence=False),
    "--exit-duration-in-mins": Flag(type=NUMBER, influence=False, supported=False),
    "--seed": Flag(type=COUNT, default=1234),
    "--optimizer": _choice("adam"),
    "--lr": Flag(type=NOT_NEGATIVE, required=True),
    "--min-lr": Flag(type=NOT_NEGATIVE, default=0.0),
    "--decoupled-lr": Flag(type=NOT_NEGATIVE),
    "--decoupled-min-lr": Flag(type=NOT_NEGATIVE),
    "--lr-decay-style": _choice("linear", "constant", "cosine"),
    "--lr-decay-iters": Flag(type=COUNT),
    "--lr-warmup-fraction": Flag(type=Number(least=0, below=1)),
    "--lr-warmup-iters": Flag(type=Number(whole=True, least=0), default=0),
    "--weight-decay": Flag(type=NOT_NEGATIVE, default=0.01),
    "--clip-grad": Flag(type=NOT_NEGATIVE, default=1.0),
    "--adam-beta1": Flag(type=NUMBER, default=0.9),
    "--adam-beta2": Flag(type=NUMBER, default=0.999),
    "--adam-eps": Flag(type=NUMBER, default=1e-8),
    "--eval-interval": Flag(type=INTEGER, default=1000),
    "--eval-iters": Flag(type=INTEGER, default=100),
    # ---- parallelism ----
    "--tensor-model-parallel-size": Flag(type=COUNT, choices=(1,), default=1, divisor=True),
    "--pipeline-model-parallel-size": Flag(type=COUNT, default=1, divisor=True),
    "--context-parallel-size": Flag(type=COUNT, default=1, divisor=True, supported=False),
    "--num-layers-per-virtual-pipeline-stage": Flag(type=COUNT, divisor=True),
    "--num-virtual-stages-per-pipeline-rank": Flag(type=COUNT, divisor=True, supported=False),
    "--microbatch-group-size-per-virtual-pipeline-stage": Flag(
        type=COUNT, divisor=True, dest="microbatch_group_size_per_vp_stage"
    ),
    "--decoder-first-pipeline-num-layers": Flag(type=COUNT),
    "--decoder-last-pipeline-num-layers": Flag(type=COUNT),
    "--distributed-backend": _choice("nccl", "gloo"),
    "--distributed-timeout-minutes": Flag(type=COUNT, default=10, influence=False),
    "--ddp-bucket-size": Flag(type=COUNT),
    "--check-weight-hash-across-dp-replicas-interval": Flag(type=COUNT),
    "--disable-gloo-process-groups": Flag(dest="enable_gloo_process_groups"),
    # ---- data ----
    "--data-path": Flag(type=str, many=True),
    "--num-workers": Flag(type=INTEGER, influence=False, supported=False),
    "--data-cache-path": Flag(type=str, influence=False),
    "--split": Flag(type=str, default="969,30,1"),
    "--tokenizer-type": _choice("NullTokenizer"),
    "--vocab-size": Flag(type=COUNT),
    "--make-vocab-size-divisible-by": Flag(type=COUNT, default=128, divisor=True),
    # ---- checkpoints ----
    "--save": Flag(type=str, influence=False),
    "--load": Flag(type=str, influence=False),
    "--ckpt-step": Flag(type=INTEGER),
    "--save-interval": Flag(type=COUNT),
    "--ckpt-format": _choice("torch_dist"),
    "--dist-ckpt-strictness": _choice("raise_all"),
    # ---- logging ----
    "--tensorboard-dir": Flag(type=str, influence=False),
    "--log-interval": Flag(type=INTEGER, choices=(1,), default=1),
    "--timing-log-level": Flag(type=INTEGER, choices=(0,), default=0, influence=False),
    "--timing-log-option": Flag(type=str, influence=False, supported=False),
    "--log-timers-to-tensorboard": Flag(influence=False),
}
_NEEDED_HERE = ("--data-path", "--vocab-size")  # optional in Megatron-LM's own program


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A Megatron command line, parsed for our training program.

    Attributes:
        arguments: None when there is any error.
        broken: violated rules of every training program of Megatron.
        unsupported: settings that ours does not support, and Megatron-LM's own may.
    """

    arguments: argparse.Namespace | None
    broken: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()

    def accepted(self, where: str = "") -> argparse.Namespace:
        """The arguments.

        Raises:
            UsageError: there are errors; the message begins with ``where`` and has all of them.
        """
        if self.arguments is None:
            raise UsageError(f"{where}Megatron flags: {'; '.join(self.broken + self.unsupported)}")
        return self.arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


@functools.cache
def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name, flag in FLAGS.items():
        parser.add_argument(name, **flag.argument(name))
    return parser


def value_error(name: str, value: object) -> str | None:
    """The error in a case's value of a flag, or None; an unknown flag may have any value."""
    return FLAGS[name].error(value) if name in FLAGS else None


def influences(name: str) -> bool:
    """True for a flag that may change the computation; the digest of a case covers only these."""
    return name not in FLAGS or FLAGS[name].influence


def broken_divisors(model_args: Mapping[str, object]) -> list[str]:
    """A line for each size below 1, by which no training program of Megatron can divide."""
    return [
        f"{name}: {error}"
        for name, value in model_args.items()
        if name in FLAGS and FLAGS[name].divisor and whole(value) is not None
        if (error := FLAGS[name].error(value))
    ]


def unknown_flags(argv: Sequence[str]) -> list[str]:
    """Flags of a Megatron command line that our training program does not know."""
    names = [word.split("=")[0] for word in argv if word.startswith("--")]
    return [name for name in names if name not in FLAGS or not FLAGS[name].supported]


def parse(argv: Sequence[str], *, world_size: int) -> Parsed:
    """Parse a Megatron command line for ``world_size`` ranks, and add derived arguments.

    Derived: ``data_parallel_size``, ``virtual_pipeline_model_parallel_size`` (chunks per stage, None without
    interleaving), ``padded_vocab_size`` (tokens), ``num_microbatches`` (per replica and step),
    ``end_of_document`` (token id).
    """
    try:
        args, surplus = _parser().parse_known_args(list(argv))
    except UsageError as error:
        return Parsed(arguments=None, broken=(str(error),))
    args.world_size = world_size
    if broken := _missing(args, [name for name in FLAGS if FLAGS[name].required]) or flag_rules.broken(args):
        return Parsed(arguments=None, broken=tuple(broken))
    unknown = [_unknown(name) for name in unknown_flags(argv)]
    surplus = [] if unknown else [f"{value!r} is more than the flag before it takes" for value in surplus]
    missing = _missing(args, _NEEDED_HERE)
    if unsupported := [*unknown, *surplus, *missing, *_other_choices(args), *flag_rules.unsupported(args)]:
        return Parsed(arguments=None, unsupported=tuple(unsupported))
    _derive(args)
    return Parsed(arguments=args)


def parse_arguments(argv: Sequence[str], *, world_size: int) -> argparse.Namespace:
    """The arguments of our training program; see ``parse``.

    Raises:
        UsageError: unknown flags or broken rules; the message has all of them.
    """
    return parse(argv, world_size=world_size).accepted()


def _dest(name: str) -> str:
    return str(FLAGS[name].argument(name)["dest"])


def _missing(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    return [f"{name}: is missing" for name in names if getattr(args, _dest(name)) is None]


def _unknown(name: str) -> str:
    known = nearest(name, (flag for flag in FLAGS if FLAGS[flag].supported), cutoff=0.5)
    advice = f"did you mean {known}?" if known else "see tasks/cases/flags.py for those it knows"
    return f"unknown flag {name}: {advice}"


def _other_choices(args: argparse.Namespace) -> list[str]:
    return [
        f"{name}: {value!r} is not supported, only {', '.join(map(str, flag.choices))}"
        for name, flag in FLAGS.items()
        if flag.choices and (value := getattr(args, _dest(name))) not in flag.choices
    ]


def _derive(args: argparse.Namespace) -> None:
    args.data_parallel_size = flag_rules.replicas(args)
    args.num_microbatches = flag_rules.micro_batches(args)
    virtual_stages = flag_rules.virtual_stages(args)
    args.virtual_pipeline_model_parallel_size = virtual_stages if virtual_stages > 1 else None
    # Megatron aligns gathers in the interleaved schedule only.
    args.align_param_gather = args.align_param_gather and virtual_stages > 1
    args.end_of_document = args.vocab_size
    tokens = args.vocab_size + 1
    multiple = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
    args.padded_vocab_size = -(-tokens // multiple) * multiple
    gated_or_plain = flag_rules.gated_ffn_size(args) if args.swiglu else 4 * args.hidden_size
    args.ffn_hidden_size = args.ffn_hidden_size or gated_or_plain
    args.lr_decay_iters = args.lr_decay_iters or args.train_iters
    args.bias_gelu_fusion = args.bias_gelu_fusion and args.add_bias_linear  # as in Megatron: nothing to fuse
    # Megatron's default for bf16 models is to reduce gradients in fp32.
    args.accumulate_allreduce_grads_in_fp32 = not args.grad_reduce_in_bf16

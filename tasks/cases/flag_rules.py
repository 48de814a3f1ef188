"""The rules of a case's flags, as one platform gets them. Each check returns all its errors, as lines."""

from __future__ import annotations

from collections.abc import Mapping

_COUNTS = (
    "--num-layers",
    "--hidden-size",
    "--num-attention-heads",
    "--seq-length",
    "--max-position-embeddings",
    "--micro-batch-size",
    "--global-batch-size",
    "--train-iters",
    "--save-interval",
    "--lr-decay-iters",
    "--vocab-size",
    "--make-vocab-size-divisible-by",
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--context-parallel-size",
    "--num-layers-per-virtual-pipeline-stage",
    "--num-virtual-stages-per-pipeline-rank",
    "--microbatch-group-size-per-virtual-pipeline-stage",
    "--decoder-first-pipeline-num-layers",
    "--decoder-last-pipeline-num-layers",
    "--exit-interval",
    "--check-weight-hash-across-dp-replicas-interval",
    "--distributed-timeout-minutes",
    "--ddp-bucket-size",
)
_NUMBERS = (
    "--lr",
    "--min-lr",
    "--decoupled-lr",
    "--decoupled-min-lr",
    "--weight-decay",
    "--clip-grad",
    "--attention-dropout",
    "--hidden-dropout",
)
_REQUIRED = (
    "--num-layers",
    "--hidden-size",
    "--num-attention-heads",
    "--seq-length",
    "--max-position-embeddings",
    "--micro-batch-size",
    "--global-batch-size",
    "--train-iters",
    "--lr",
)


def check_values(model_args: Mapping[str, object], *, test_type: str, world_size: int) -> list[str]:
    """Rules across flags, for the flags as one platform gets them."""
    errors = [f"{flag}: is missing" for flag in _REQUIRED if model_args.get(flag) is None]
    for flag in _COUNTS:
        value = model_args.get(flag)
        if value is not None and not is_count(value, at_least=1):
            errors.append(f"{flag}: {value!r} must be a whole number of at least 1")
    for flag in _NUMBERS:
        value = model_args.get(flag)
        if value is not None and (
            not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0
        ):
            errors.append(f"{flag}: {value!r} must be a number of at least 0")
    if errors:
        return errors
    return [
        *_check_layers(model_args),
        *_check_batches(model_args, world_size),
        *_check_sizes(model_args),
        *_check_resume(model_args, test_type),
    ]


def _check_layers(args: Mapping[str, object]) -> list[str]:
    layers, stages = args["--num-layers"], args.get("--pipeline-model-parallel-size") or 1
    per_chunk = args.get("--num-layers-per-virtual-pipeline-stage")
    chunks = args.get("--num-virtual-stages-per-pipeline-rank")
    if per_chunk and chunks:
        return ["--num-virtual-stages-per-pipeline-rank: not with --num-layers-per-virtual-pipeline-stage"]
    if (per_chunk or chunks) and stages < 2:
        return [
            f"--pipeline-model-parallel-size: virtual stages need at least 2 pipeline stages, not {stages}"
        ]
    if args.get("--decoder-first-pipeline-num-layers") or args.get("--decoder-last-pipeline-num-layers"):
        return []  # stages of different sizes: the training program's own rules say whether they add up
    parts = stages * (per_chunk or chunks or 1)
    if layers % parts:
        unit = "layers a virtual stage" if per_chunk else "virtual stages a rank"
        virtual = f" x {per_chunk or chunks} {unit}" if per_chunk or chunks else ""
        return [f"--num-layers: {layers} is not divisible by {stages} pipeline stages{virtual}"]
    return []


def _check_batches(args: Mapping[str, object], world_size: int) -> list[str]:
    stages = args.get("--pipeline-model-parallel-size") or 1
    model_ranks = (
        stages * (args.get("--tensor-model-parallel-size") or 1) * (args.get("--context-parallel-size") or 1)
    )
    if world_size % model_ranks:
        return [
            f"--pipeline-model-parallel-size: {world_size} ranks are not divisible by tensor x pipeline"
            f" x context parallel = {model_ranks}"
        ]
    replicas = world_size // model_ranks
    batch, micro = args["--global-batch-size"], args["--micro-batch-size"]
    if batch % (micro * replicas):
        return [
            f"--global-batch-size: {batch} is not divisible by micro-batch {micro} x {replicas} data-parallel"
            f" replicas = {micro * replicas}"
        ]
    per_chunk = args.get("--num-layers-per-virtual-pipeline-stage")
    chunks = args["--num-layers"] // stages // per_chunk if per_chunk else 1
    interleaved = (args.get("--num-virtual-stages-per-pipeline-rank") or chunks) > 1  # with one it is not
    micro_batches = batch // (micro * replicas)
    group = args.get("--microbatch-group-size-per-virtual-pipeline-stage") or stages
    # megatron-core's interleaved schedule: fewer leftover micro-batches than stages are refused
    if interleaved and (micro_batches < stages or 0 < micro_batches % group < stages):
        return [
            f"--global-batch-size: {batch} gives {micro_batches} micro-batches a replica; the interleaved"
            f" schedule needs a multiple of the {group}"
            f" {'pipeline stages' if group == stages else 'micro-batches of a group'}"
        ]
    return []


def _check_sizes(args: Mapping[str, object]) -> list[str]:
    errors = []
    if args["--hidden-size"] % args["--num-attention-heads"]:
        errors.append(
            f"--hidden-size: {args['--hidden-size']} is not divisible by"
            f" --num-attention-heads {args['--num-attention-heads']}"
        )
    if args["--seq-length"] > args["--max-position-embeddings"]:
        errors.append(
            f"--seq-length: {args['--seq-length']} is above"
            f" --max-position-embeddings {args['--max-position-embeddings']}"
        )
    if (args.get("--min-lr") or 0) > args["--lr"]:
        errors.append(f"--min-lr: {args['--min-lr']} is above --lr {args['--lr']}")
    return errors


def check_data(args: Mapping[str, object], corpus: object) -> list[str]:
    """The text that ``CORPUS`` names is what is trained on: ``--data-path`` cannot name other data."""
    named = args.get("--data-path")
    if corpus is None or named in (None, "${CORPUS_PREFIX}"):
        return []
    return [
        f"--data-path: {named!r} would not be read, CORPUS names the text: for one run give --data-path"
        " PREFIX (not --set); for a case of its own take the text away, CORPUS: null"
    ]


def _check_resume(args: Mapping[str, object], test_type: str) -> list[str]:
    if test_type == "regular":
        return []
    iterations, interval = args["--train-iters"], args.get("--save-interval")
    if interval is None:
        return [f"--save-interval: is missing; TEST_TYPE {test_type} restarts from a saved checkpoint"]
    if interval >= iterations:
        return [
            f"--save-interval: {interval} must be below --train-iters {iterations}, or TEST_TYPE {test_type}"
            " has nothing to train after the restart"
        ]
    return []


def is_count(value: object, *, at_least: int) -> bool:
    """Whether it is a whole number of at least so much; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least

"""The model of a case as one rank builds it; a group that communicates nothing stands in for the others."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY

BUILT = {
    "gpt3_pp4": [7],
    "gpt3_pp4_resume_uneven_pipeline": [0, 2, 6],
    "gpt3_pp4_resume_swiglu": [0],
    "gpt3_pp4_resume_untied": [7],
    "gpt3_pp4_resume_per_token_loss": [7],
    "gpt3_pp4_resume_tunable_overlap": [7],
    "gpt3_pp4_resume_decoupled_lr": [0],
    "gpt3_pp4_resume_overlap_grad_reduce": [0],
}
PROGRAM = '''
import json, os, sys, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from megatron.core import parallel_state
from megatron.core.optimizer import OptimizerConfig
from torch.testing._internal.distributed.fake_pg import FakeStore
from tasks.cases.loader import load_case
from tasks.ranks import model
from tasks.cases.flags import parse_arguments

cuda_on_cpu.finish_install()


def reduced(args, chunks):
    """What is called, in its order, when the chunks are reduced from the last one to the first."""
    said = []
    for index, chunk in enumerate(chunks):
        chunk.start_grad_sync = lambda parameters, index=index: said.append(index)
    config = model.connect_schedule(
        args, chunks, types.SimpleNamespace(scale_loss=None), lambda: said.append("before")
    )
    starts = config.grad_sync_func or []
    for start in reversed(starts if isinstance(starts, list) else [starts]):
        start([])
    return said


def build(name, rank):
    args = parse_arguments(load_case(name, platform_name="cpu_x86_64").argv(), world_size=8)
    args.rank = rank
    torch.distributed.init_process_group("fake", rank=rank, world_size=8, store=FakeStore())
    parallel_state.initialize_model_parallel(
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=args.virtual_pipeline_model_parallel_size,
        create_gloo_process_groups=False,
    )
    model.seed_everything(args)
    chunks = model.build_model(args)
    parameters = [pair for chunk in chunks for pair in chunk.module.module.named_parameters()]
    kinds = {type(module).__name__ for chunk in chunks for module in chunk.modules()}
    overrides = model._parameter_overrides(args, OptimizerConfig(lr=args.lr, min_lr=args.min_lr))
    config = chunks[0].config
    return {
        "layers": [[layer.layer_number for layer in chunk.module.module.decoder.layers] for chunk in chunks],
        "names": [name for name, _ in parameters],
        "shared": [name for name, parameter in parameters if getattr(parameter, "shared", False)],
        "norms": sorted({kind for kind in kinds if "Norm" in kind}),
        "wide": sorted({tuple(p.shape) for name, p in parameters if "linear_fc1.weight" in name}),
        "overrides": list(overrides.values()),
        "group": config.microbatch_group_size_per_vp_stage,
        "per token": config.calculate_per_token_loss,
        "warm-up": config.overlap_p2p_comm_warmup_flush,
        "frees": config.deallocate_pipeline_outputs,
        "reduced": reduced(args, chunks),
        "ddp": {
            key: getattr(chunks[0].ddp_config, key)
            for key in ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather")
        },
    }


for name, ranks in json.loads(sys.argv[1]).items():
    for rank in ranks:
        child = os.fork()
        if not child:  # a process builds one model: megatron-core keeps its groups in global variables
            print(json.dumps([name, rank, build(name, rank)]), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{name}, rank {rank}")
'''


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, int], dict]:
    """What was built, by case and rank."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(BUILT)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("[")]
    return {(name, rank): content for name, rank, content in lines}


def test_the_plain_case_ties_its_embeddings_and_overlaps_nothing(models: dict) -> None:
    last = models["gpt3_pp4", 7]
    assert last["layers"] == [[4], [8], [12]]
    assert last["shared"] == ["output_layer.weight"]
    assert last["norms"] == ["LayerNorm"]
    assert not any(last["ddp"].values())
    assert last["overrides"] == [{"wd_mult": 0.0}]
    assert (last["group"], last["per token"], last["warm-up"]) == (4, False, False)


def test_what_was_sent_is_freed_where_the_schedule_waits_for_it(models: dict) -> None:
    waits = importlib.metadata.version("megatron-core") != "0.16.1"
    assert [built["frees"] for built in models.values()] == [waits] * len(models)


def test_before_the_first_gradients_are_reduced_there_is_time_for_something_else(models: dict) -> None:
    assert models["gpt3_pp4_resume_overlap_grad_reduce", 0]["reduced"] == ["before", 2, 1, 0]
    assert models["gpt3_pp4", 7]["reduced"] == []  # no reduction is overlapped


def test_stages_of_different_sizes_share_all_layers_between_them(models: dict) -> None:
    layers = [models["gpt3_pp4_resume_uneven_pipeline", rank]["layers"] for rank in (0, 2, 6)]
    assert layers == [[[1, 2]], [[3, 4, 5, 6]], [[11, 12]]]


def test_a_model_of_todays_kind_has_no_biases_and_no_learned_positions(models: dict) -> None:
    first = models["gpt3_pp4_resume_swiglu", 0]
    assert first["norms"] == ["RMSNorm"]
    assert not [name for name in first["names"] if name.endswith("bias") or "position" in name]
    assert first["wide"] == [[96, 16]]  # gate and value of 48


@pytest.mark.parametrize(
    ("case", "rank", "key", "value"),
    [
        ("gpt3_pp4_resume_untied", 7, "shared", []),
        ("gpt3_pp4_resume_per_token_loss", 7, "per token", True),
        ("gpt3_pp4_resume_tunable_overlap", 7, "group", 5),
        ("gpt3_pp4_resume_tunable_overlap", 7, "warm-up", True),
        (
            "gpt3_pp4_resume_decoupled_lr",
            0,
            "overrides",
            [{"wd_mult": 0.0}, {"max_lr": 0.0002, "min_lr": 1e-05, "is_decoupled_lr": True}],
        ),
        (
            "gpt3_pp4_resume_overlap_grad_reduce",
            0,
            "ddp",
            {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": False},
        ),
    ],
)
def test_what_a_case_is_there_for_reaches_the_model(
    models: dict, case: str, rank: int, key: str, value: object
) -> None:
    assert models[case, rank][key] == value

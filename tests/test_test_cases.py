"""Every folder of test_cases/: it loads, and its flags are understood, on every platform."""

from __future__ import annotations

import pytest

from tasks.case import list_cases, load_case
from tasks.ranks.arguments import parse_arguments

PLATFORMS = {"cpu_x86_64": 8, "cpu_aarch64": 8, "gpu1_h100": 8, "gpu4_h100": 4, "dgx_a100": 8, "dgx_h100": 8}
FAMILY = [name for name in list_cases() if name.startswith("gpt3_pp4") and "common_pile" not in name]


@pytest.mark.parametrize("platform_name", PLATFORMS)
@pytest.mark.parametrize("name", list_cases())
def test_the_flags_of_every_case_are_understood_on_every_platform(name: str, platform_name: str) -> None:
    world_size = PLATFORMS[platform_name]
    case = load_case(name, platform_name=platform_name, world_size=world_size)
    args = parse_arguments(case.flags(), world_size=world_size)
    assert args.world_size == world_size
    assert args.pipeline_model_parallel_size == 4


def test_no_two_cases_tell_the_same_story() -> None:
    for platform_name in PLATFORMS:
        world_size = PLATFORMS[platform_name]
        cases = [load_case(name, platform_name=platform_name, world_size=world_size) for name in list_cases()]
        stories = {f"{case.digest()} {case.restart} {case.checkpoint}" for case in cases}
        assert len(stories) == len(cases), platform_name


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_is_full_size_on_gpus_and_short_and_small_on_a_cpu(name: str) -> None:
    gpu, cpu = (load_case(name, platform_name=platform_name) for platform_name in ("dgx_h100", "cpu_x86_64"))
    assert (gpu.model_args["--hidden-size"], gpu.model_args["--train-iters"]) == (512, 100)
    assert cpu.model_args["--hidden-size"] < 64
    assert cpu.model_args["--train-iters"] == (100 if name == "gpt3_pp4_resume" else 20)
    assert cpu.model_args["--save-interval"] * 2 == cpu.model_args["--train-iters"]

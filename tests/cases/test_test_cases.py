"""Every folder of test_cases/: it loads, and its flags are understood, on every platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.cases.names import case_names
from tasks.judge.run import Options, restart_and_resume_rows
from tasks.records.run import read_run
from tests import short_run

PLATFORMS = {"cpu_x86_64": 8, "cpu_aarch64": 8, "gpu1_h100": 8, "gpu4_h100": 4, "dgx_a100": 8, "dgx_h100": 8}
LONG = ("gpt3_pp4_resume", "gpt3_pp4_crash_resume")
SUITE = [name for name in case_names() if name.startswith("gpt3_pp4") and "common_pile" not in name]


@pytest.mark.parametrize("platform_name", PLATFORMS)
@pytest.mark.parametrize("name", case_names())
def test_the_flags_of_every_case_are_understood_on_every_platform(name: str, platform_name: str) -> None:
    world_size = PLATFORMS[platform_name]
    case = load_case(name, platform_name=platform_name, world_size=world_size)
    args = parse_arguments(case.argv(), world_size=world_size)
    assert args.world_size == world_size
    assert args.pipeline_model_parallel_size == 4


def test_no_two_cases_test_the_same() -> None:
    for platform_name, world_size in PLATFORMS.items():
        cases = [load_case(name, platform_name=platform_name, world_size=world_size) for name in case_names()]
        contents = {f"{case.digest} {case.restart} {case.checkpoint} {case.kills}" for case in cases}
        assert len(contents) == len(cases), platform_name


@pytest.mark.parametrize("platform_name", PLATFORMS)
def test_only_cases_that_train_the_same_share_golden_cards(platform_name: str) -> None:
    for name in case_names():
        options = {"platform_name": platform_name, "world_size": PLATFORMS[platform_name]}
        case = load_case(name, **options)
        assert load_case(case.golden_case, **options).digest == case.digest, name


@pytest.mark.parametrize("name", SUITE)
def test_the_suite_is_full_size_on_gpus_and_short_and_small_on_a_cpu(name: str) -> None:
    gpu, cpu = (load_case(name, platform_name=platform_name) for platform_name in ("dgx_h100", "cpu_x86_64"))
    assert (gpu.model_args["--hidden-size"], gpu.model_args["--train-iters"]) == (512, 100)
    assert cpu.model_args["--hidden-size"] < 64
    assert cpu.model_args["--train-iters"] == (100 if name in LONG else 20)
    assert cpu.model_args["--save-interval"] * 2 == cpu.model_args["--train-iters"]


@pytest.mark.training
def test_half_of_the_ranks_go_on_with_the_whole_state(tmp_path: Path) -> None:
    for task in ("train", "resume"):
        finished = short_run.run(task, tmp_path / "run", case="gpt3_pp4_resume_reshard_pp4_dp1")
        assert finished.returncode == 0, finished.stdout
    rows = restart_and_resume_rows(read_run(tmp_path / "run"), Options())
    assert {row.metric for row in rows if not row.passed} == set()
    verdicts = {row.metric: (row.verdict, row.steps) for row in rows}
    for part in ("parameters", "master weights", "exp avg", "exp avg sq"):
        assert verdicts[f"state: whole {part}"] == ("exact", "8 to 4 ranks")
    assert verdicts["learning-rate"] == ("exact", "3-4")
    assert verdicts["lm loss"][0] in ("exact", "drift")


@pytest.mark.training
def test_a_checkpoint_kept_here_is_gone_on_from(tmp_path: Path) -> None:
    options = ("--set", "exit-interval=12", "--set", "save-interval=10")
    finished = short_run.run("train", tmp_path / "run", *options, case="gpt3_pp4_frozen_resume")
    assert finished.returncode == 0, finished.stdout
    rows = restart_and_resume_rows(read_run(tmp_path / "run"), Options(steps=(11, 12)))
    assert {row.metric for row in rows if not row.passed} == {"last step"}  # --exit-interval ends it early
    verdicts = {row.metric: row.verdict for row in rows}
    for part in ("parameters", "master weights", "exp avg", "exp avg sq", "rng", "next batch", "scheduler"):
        assert verdicts[f"state: {part}"] == "exact"
    assert verdicts["loaded iteration"] == verdicts["learning-rate"] == "exact"
    assert verdicts["lm loss"] in ("exact", "drift")

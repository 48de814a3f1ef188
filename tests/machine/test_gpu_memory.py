"""Memory of ranks on GPUs, sized before they start."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess

import pytest

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.machine import gpu_memory, platforms
from tasks.util.exits import CannotRun
from tests.machines import H100

SECOND = dataclasses.replace(H100, index=1, uuid="GPU-2")
SMALL = dataclasses.replace(H100, memory_mib=24000)
IN_USE_ON_H100_MIB = 28847  # all 8 ranks and their checkpoint workers: benchmarks/one_gpu.md


def arguments(**settings: str) -> argparse.Namespace:
    overrides = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    case = load_case("gpt3_pp4_resume", platform_name="gpu1_h100", overrides=overrides, world_size=8)
    return parse_arguments(case.argv(), world_size=8)


def test_estimate_is_above_what_was_measured_by_less_than_a_half() -> None:
    estimate = 8 * gpu_memory.estimate(arguments()).total
    assert IN_USE_ON_H100_MIB < estimate < 1.5 * IN_USE_ON_H100_MIB


@pytest.mark.parametrize(
    "more",
    [
        {"use_distributed_optimizer": "false", "overlap_param_gather": "false"},
        {"swiglu": "true", "ffn_hidden_size": "2048"},
        {"seq_length": "2048", "max_position_embeddings": "2048"},
    ],
)
def test_what_needs_more_is_estimated_to_need_more(more: dict[str, str]) -> None:
    assert gpu_memory.estimate(arguments(**more)).total > gpu_memory.estimate(arguments()).total


def test_platforms_ask_for_what_the_full_size_needs() -> None:
    assert gpu_memory.estimate(arguments()).total <= platforms.MIB_PER_RANK


def test_fits_on_a_free_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "free_mib", lambda uuids: {"GPU-1": 81079})
    need = gpu_memory.check(platforms.gpu_platform((H100,)), arguments())
    assert need == gpu_memory.estimate(arguments())


@pytest.mark.parametrize(
    ("gpus", "free", "settings", "message"),
    [
        ((H100,), {"GPU-1": 20000}, {}, r"8 ranks need about .* 20000 of 81559 MiB are free: end what else"),
        (
            (H100, SECOND),
            {"GPU-1": 81079, "GPU-2": 9000},
            {},
            r"^GPU 1 .*: 4 ranks need about .* 9000 of 81559 MiB are free",
        ),
        ((SMALL,), {}, {}, "24000 of 24000"),  # the driver does not report free memory: total memory counts
        ((H100,), {"GPU-1": 80000}, {"transformer_impl": "local"}, "8 ranks need"),  # ran out of memory there
    ],
)
def test_ranks_that_need_more_than_a_gpu_has_free_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple, free: dict[str, int], settings: dict, message: str
) -> None:
    monkeypatch.setattr(gpu_memory, "free_mib", lambda uuids: free)
    with pytest.raises(CannotRun, match=message):
        gpu_memory.check(platforms.gpu_platform(gpus), arguments(**settings))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "absent"), subprocess.TimeoutExpired("nvidia-smi", 60)]
)
def test_a_driver_that_does_not_answer_does_not_say(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gpu_memory.subprocess, "run", failing)
    assert gpu_memory.free_mib(["GPU-1"]) == {}


def test_free_memory_by_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout="GPU-1, 81079\nGPU-2, [N/A]\nGPU-3, 5\n", stderr="")
    monkeypatch.setattr(gpu_memory.subprocess, "run", lambda *_, **__: answer)
    assert gpu_memory.free_mib(["GPU-1", "GPU-2"]) == {"GPU-1": 81079}

"""tasks/machine/platforms.py, from captured facts: no GPU is needed here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tasks.cases.loader import load_case
from tasks.machine import cudnn, platforms
from tasks.machine.platforms import parse_gpus, parse_processor
from tasks.records.fingerprint import fingerprint
from tasks.util.exits import CannotRun, UsageError
from tests.machines import DGX_A100, DGX_H100, EPYC, GB200, LAPTOP, ONE_H100, chosen, smi
from tests.program import started_anew


@pytest.fixture
def dev_on_epyc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dev environment on an EPYC, without variables that choose devices."""
    for name in ("CUDA_VISIBLE_DEVICES", platforms.DEVICE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platforms, "environment", lambda: "dev")
    monkeypatch.setattr(platforms, "read_processor", lambda: EPYC)


V100 = smi("Tesla V100-SXM2-32GB", count=8, memory="32768", capability="7.0")


@pytest.mark.parametrize(
    ("text", "name", "world_size", "ranks_per_gpu"),
    [
        (DGX_A100, "dgx_a100", 8, 1),
        (DGX_H100, "dgx_h100", 8, 1),
        (GB200, "dgx_gb200", 4, 1),
        (ONE_H100, "gpu1_h100", 8, 8),
        (smi("NVIDIA H100 PCIe", count=4, memory="81559", capability="9.0"), "gpu4_h100_pcie", 4, 1),
        (smi("NVIDIA A100-PCIE-40GB", count=2, memory="40960", capability="8.0"), "gpu2_a100_pcie", 8, 4),
        (smi("NVIDIA L40S", count=8, memory="46068", capability="8.9"), "gpu8_l40s", 8, 1),
    ],
)
def test_layout_of_gpu_hosts(text: str, name: str, world_size: int, ranks_per_gpu: int) -> None:
    platform = chosen(text)
    assert (platform.name, platform.device) == (name, "cuda")
    assert (platform.world_size, platform.ranks_per_gpu) == (world_size, ranks_per_gpu)
    assert len(platform.gpus) * ranks_per_gpu == world_size
    load_case("gpt3_pp4_resume", platform_name=platform.name, world_size=platform.world_size)


def test_several_ranks_on_a_gpu_get_nccls_settings_and_others_do_not() -> None:
    shared = chosen(ONE_H100).env_vars
    assert shared["NCCL_MULTI_RANK_GPU_ENABLE"] == "1"
    assert (shared["NCCL_MAX_NCHANNELS"], shared["NCCL_MIN_NCHANNELS"]) == ("2", "1")
    alone = chosen(DGX_A100).env_vars
    assert "NCCL_MULTI_RANK_GPU_ENABLE" not in alone
    assert "NCCL_MAX_NCHANNELS" not in alone
    assert shared["NCCL_NVLS_ENABLE"] == alone["NCCL_NVLS_ENABLE"] == "0"
    assert "ATEN_CPU_CAPABILITY" not in shared


def test_a_cpu_gets_portable_settings_and_sees_no_gpu() -> None:
    platform = chosen("")
    assert (platform.name, platform.world_size, platform.ranks_per_gpu) == ("cpu_x86_64", 8, 0)
    assert platform.env_vars == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert platform.notes == ()


@pytest.mark.parametrize(
    ("text", "environment_name", "reason"),
    [
        (LAPTOP, "dev", "has 6144 MiB, its ranks need 31200 MiB"),
        (V100, "dev", "compute capability 7.0"),
        (DGX_A100, "lts", "GPUs need Python 3.12"),
        (smi("NVIDIA H100 80GB HBM3", memory="81559", capability="9.0", mig="Enabled"), "dev", "partitioned"),
    ],
)
def test_gpus_that_cannot_run_leave_the_cpu_with_a_note(
    text: str, environment_name: str, reason: str
) -> None:
    platform = chosen(text, environment_name=environment_name)
    assert platform.device == "cpu"
    assert reason in platform.notes[0]
    with pytest.raises(CannotRun, match=reason):
        chosen(text, environment_name=environment_name, wanted="cuda")


def test_no_gpu_where_one_is_wanted() -> None:
    with pytest.raises(CannotRun, match="there is no NVIDIA GPU"):
        chosen("", wanted="cuda")


def test_the_largest_number_of_gpus_that_fits_is_used_and_reported() -> None:
    six = parse_gpus(smi("NVIDIA A100-SXM4-40GB", count=6, memory="40960", capability="8.0"))
    platform = platforms.gpu_platform(six)
    assert (platform.name, platform.world_size) == ("gpu4_a100", 4)
    assert "4 of 6 GPUs" in platform.notes[0]
    mixed = parse_gpus(LAPTOP) + six
    assert {gpu.name for gpu in platforms.usable(mixed)} == {"NVIDIA A100-SXM4-40GB"}


def test_broken_answers_of_nvidia_smi_are_no_gpus() -> None:
    assert parse_gpus("") == ()
    assert parse_gpus("No devices were found\n") == ()
    assert parse_gpus("Unable to determine the device handle for GPU 0000:65:00.0: Unknown Error\n") == ()


@pytest.mark.parametrize(
    ("script", "gpus", "note"),
    [
        ("echo 'it failed'; exit 9", 0, "nvidia-smi failed: it failed; the CPU is used"),
        (f"printf '{ONE_H100.strip()}'", 1, None),
    ],
)
def test_the_driver_is_asked_and_its_failure_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dev_on_epyc: None,
    script: str,
    gpus: int,
    note: str | None,
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    platforms._ask_driver.cache_clear()
    try:
        assert len(platforms.query_gpus()) == gpus
        assert platforms.detect().notes == ((note,) if note else ())
    finally:
        platforms._ask_driver.cache_clear()


def test_memory_shared_with_the_machine_is_read_from_the_machine() -> None:
    (gpu,) = parse_gpus(smi("NVIDIA GB10", memory="[N/A]", capability="12.1"))
    assert gpu.memory_mib > 0


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", []),
        ("-1", []),
        ("3", [3]),
        ("2,0", [2, 0]),
        ("1,-1,2", [1]),
        ("GPU-5f9", [5]),
        ("0,0", [0]),
        ("2,GPU-2f9,3", [2]),
        ("MIG-abc", []),
    ],
)
def test_visible_devices_are_those_of_cuda(value: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in platforms.visible(parse_gpus(DGX_A100), value)] == indices


def test_one_partitioned_gpu_is_reported() -> None:
    text = DGX_H100.replace("Disabled", "Enabled", 4).replace("Enabled", "Disabled", 3)  # the fourth
    assert "is partitioned (MIG)" in platforms.gpu_obstacle(parse_gpus(text), "dev")
    assert platforms.gpu_obstacle(parse_gpus(DGX_H100), "dev") is None


def test_an_x86_processor_without_avx2_cannot_run() -> None:
    facts = "model name : Intel Xeon E5-2690\nflags : sse avx\n"
    old = parse_processor(facts, system="Linux", machine="x86_64")
    with pytest.raises(CannotRun, match="Intel Xeon E5-2690 lacks avx2 and fma"):
        platforms.cpu_platform(old)
    assert CannotRun("").exit_code == 5


def test_arm_has_its_own_name() -> None:
    arm = parse_processor("CPU part\t: 0xd4f\nFeatures\t: fp asimd sve\n", system="Linux", machine="aarch64")
    assert platforms.cpu_platform(arm).name == "cpu_aarch64"


@pytest.mark.parametrize("both", ["Darwin arm64", "Windows AMD64", "Linux ppc64le"])
def test_other_machines_cannot_run(both: str) -> None:
    system, machine = both.split()
    with pytest.raises(CannotRun):
        platforms.cpu_platform(parse_processor("", system=system, machine=machine))


def test_detect_asks_the_environment(monkeypatch: pytest.MonkeyPatch, dev_on_epyc: None) -> None:
    monkeypatch.setattr(platforms, "query_gpus", lambda: parse_gpus(DGX_A100))
    assert platforms.detect().name == "dgx_a100"
    assert "CUDA_VISIBLE_DEVICES" not in platforms.detect().env_vars
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert platforms.detect().name == "gpu1_a100"
    assert platforms.detect().env_vars["CUDA_VISIBLE_DEVICES"] == "GPU-1f9a2c31-7c51"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")  # two of them are used: ranks must not see the third
    uuids = platforms.detect().env_vars["CUDA_VISIBLE_DEVICES"]
    assert (platforms.detect().name, uuids) == ("gpu2_a100", "GPU-5f9a2c31-7c51,GPU-6f9a2c31-7c51")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuids)  # as a phase finds it that comes after
    assert platforms.detect().env_vars["CUDA_VISIBLE_DEVICES"] == uuids
    monkeypatch.setenv(platforms.DEVICE_VARIABLE, "cpu")
    assert platforms.detect().name == "cpu_x86_64"
    monkeypatch.setenv(platforms.DEVICE_VARIABLE, "tpu")
    with pytest.raises(UsageError, match="must be cpu, cuda or not set"):
        platforms.detect()


def test_nothing_here_imports_torch() -> None:
    finished = started_anew("modules.imported_by_detection")
    assert finished.exit_code == 0, finished.stderr
    assert not {"torch", "numpy"} & {*finished.answer}


def test_fingerprint_names_what_a_result_depends_on() -> None:
    case = load_case("gpt3_pp4_resume", platform_name="dgx_a100")
    facts = fingerprint(case, "abc", platform=chosen(DGX_A100))
    assert facts["platform"] == "dgx_a100"
    assert facts["gpu"] == "8 x NVIDIA A100-SXM4-80GB"
    assert facts["driver"] == "580.95.05"
    assert facts["case"] == case.digest
    assert facts["corpus"] == "abc"
    assert {"torch", "megatron-core", "numpy", "cpu", "commit", "environment", "python"} <= set(facts)
    assert all(isinstance(value, str) for value in facts.values())


@pytest.mark.parametrize(
    ("home", "own", "expected"),
    [("/own", "/own", None), ("/theirs", "/own", "9.30.0"), (None, None, "9.30.0")],
)
def test_fingerprint_names_a_cudnn_that_is_not_the_packages(
    monkeypatch: pytest.MonkeyPatch, home: str | None, own: str | None, expected: str | None
) -> None:
    for name, answer in (("home", home), ("torchs_own", own), ("version", "9.30.0")):
        monkeypatch.setattr(cudnn, name, lambda answer=answer: answer)
    case = load_case("gpt3_pp4_resume", platform_name="dgx_a100")
    assert fingerprint(case, "abc", platform=chosen(DGX_A100)).get("cudnn") == expected


def test_the_commit_marks_a_changed_checkout(tmp_path: Path) -> None:
    assert platforms.git_commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = platforms.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert platforms.git_commit(tmp_path) == f"{commit}-dirty"


def test_no_git_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert platforms.git_commit() == "unknown"

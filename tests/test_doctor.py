"""tasks/doctor.py: what runs here, and what the rest lacks."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import doctor
from tasks.doctor import GIB, Facts, prospects, render
from tasks.machine import platforms
from tasks.machine.platforms import parse_gpus, parse_processor
from tests.datasets import pair
from tests.machines import DGX_A100, EPYC, LAPTOP, ONE_H100

CASE = "gpt3_pp4_resume"
INSTALLED = {"torch": "2.11.0", "megatron-core": "0.19.2", "numpy": "2.5.5", "tensorboard": "2.21.0"}
ON_GPUS = dict.fromkeys(doctor.GPU_PACKAGES, "1")
LAPTOP_CPU = Facts(
    environment="lts",
    processor=EPYC,
    cores=2,
    memory_bytes=16 * GIB,
    shared_memory_bytes=8 * GIB,
    open_files=4096,
    free_disk_bytes=50 * GIB,
    gpus=(),
    packages={**INSTALLED, **dict.fromkeys(ON_GPUS)},
    torch_cuda=None,
    nccl=None,
    cudnn=None,
    mps=False,
)
GPU_HOST = dataclasses.replace(
    LAPTOP_CPU,
    environment="dev",
    packages={**INSTALLED, **ON_GPUS},
    torch_cuda="13.0",
    nccl=(2, 31, 2),
    cudnn="9.19.0",
    mps=True,
)


def lacks(facts: Facts) -> dict[str, str]:
    return {row.platform: "; ".join(row.lacks) for row in prospects(facts, [CASE])}


def host(text: str, **changes: object) -> Facts:
    return dataclasses.replace(GPU_HOST, gpus=parse_gpus(text), **changes)


def test_more_gpus_than_a_platform_takes_can_be_chosen_from() -> None:
    found = lacks(host(ONE_H100 + ONE_H100.replace("0, GPU-0", "1, GPU-1", 1)))
    assert found["gpu1_*"] == "CUDA_VISIBLE_DEVICES with 1 of the 2 GPUs"
    assert found["gpu4_*"] == "4 NVIDIA GPUs (there are 2)"
    assert "gpu2_h100" in found
    assert "gpu2_*" not in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_memory_bytes": 2**20}, "/dev/shm: 1.0 of 16 MiB"),
        ({"unreachable": "127.0.0.1 cannot be reached"}, "127.0.0.1 cannot be reached"),
    ],
)
def test_what_processes_need_to_reach_each_other(changes: dict[str, object], message: str) -> None:
    assert lacks(dataclasses.replace(LAPTOP_CPU, **changes))["cpu_x86_64"] == message


def test_a_laptop_runs_its_cpu_and_names_what_the_rest_lacks() -> None:
    assert lacks(LAPTOP_CPU) == {
        "cpu_x86_64": "",
        "cpu_aarch64": "a processor of type aarch64",
        "gpu1_*": "1 NVIDIA GPU (there are 0)",
        "gpu2_*": "2 NVIDIA GPUs (there are 0)",
        "gpu4_*": "4 NVIDIA GPUs (there are 0)",
        "dgx_*": "8 NVIDIA GPUs (there are 0)",
    }


def test_hosts_with_gpus_run_both() -> None:
    assert lacks(host(DGX_A100))["dgx_a100"] == lacks(host(DGX_A100))["cpu_x86_64"] == ""
    assert lacks(host(ONE_H100))["gpu1_h100"] == ""
    assert "dgx_*" not in lacks(host(DGX_A100))


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (LAPTOP, {}, "its ranks need 31200 MiB"),
        (ONE_H100, {"nccl": (2, 28, 9)}, "NCCL 2.31 or later"),
        (ONE_H100, {"torch_cuda": None}, "a CUDA build of torch"),
        (ONE_H100, {"shared_memory_bytes": 64 * 2**20}, "/dev/shm: 0.1 GiB of 0.5 GiB"),
        (ONE_H100, {"environment": "lts"}, "GPUs need Python 3.12"),
        (ONE_H100, {"packages": INSTALLED}, "transformer-engine (not installed)"),
        (ONE_H100, {"nccl": None, "cudnn": None}, "NCCL (no library found); cuDNN (no library found)"),
    ],
)
def test_what_gpus_lack(text: str, changes: dict, expected: str) -> None:
    by_platform = lacks(host(text, **changes))
    (name,) = [name for name in by_platform if name.startswith("gpu1_") and name != "gpu1_*"]
    assert expected in by_platform[name]


def test_a_container_brings_its_libraries_without_the_packages_of_the_pins() -> None:
    container = host(ONE_H100, packages={**INSTALLED, doctor.ENGINE: "2.20.2"})
    assert lacks(container)["gpu1_h100"] == ""


def test_eight_gpus_need_no_newer_nccl() -> None:
    assert lacks(host(DGX_A100, nccl=(2, 28, 9)))["dgx_a100"] == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bytes": GIB}, "memory: 1.0 GiB of 3.0 GiB"),
        ({"free_disk_bytes": GIB}, "free disk: 1.0 GiB of 2.0 GiB"),
        ({"open_files": 256}, "open files: 256 of 1024 (ulimit -n)"),
        ({"packages": {**INSTALLED, "torch": None}}, "torch (not installed)"),
        (
            {"processor": parse_processor("model name : Old\nflags : sse", system="Linux", machine="x86_64")},
            "Old lacks avx2 and fma",
        ),
    ],
)
def test_what_a_cpu_lacks(changes: dict, expected: str) -> None:
    assert expected in lacks(dataclasses.replace(LAPTOP_CPU, **changes))["cpu_x86_64"]


def test_a_case_lacks_its_data_set_or_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "test_cases/small"
    folder.mkdir(parents=True)
    text = Path(f"test_cases/{CASE}/model_config.yaml").read_text()
    named = text.replace("${CORPUS_PREFIX}", "${DATA_PATH}/text").partition("CORPUS:\n")
    (folder / "model_config.yaml").write_text(f"{named[0]}{named[2][named[2].index('PLATFORMS:') :]}")
    monkeypatch.delenv("DATA_PATH", raising=False)
    assert prospects(LAPTOP_CPU, ["small"], root=tmp_path)[0].lacks == ("a data set: DATA_PATH is not set",)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    (lacking,) = prospects(LAPTOP_CPU, ["small"], root=tmp_path)[0].lacks
    assert f"there is no {tmp_path}/text.bin" in lacking
    pair(tmp_path / "text")
    assert prospects(LAPTOP_CPU, ["small"], root=tmp_path)[0].lacks == ()
    kept = "TEST_TYPE: frozen-resume\nCHECKPOINT: checkpoints/none"
    (folder / "model_config.yaml").write_text(text.replace("TEST_TYPE: ckpt-resume", kept))
    assert "holds no kept checkpoint" in prospects(LAPTOP_CPU, ["small"], root=tmp_path)[0].lacks[0]
    (folder / "model_config.yaml").write_text("MODEL_ARGS: {}\n")
    assert "METRICS" in prospects(LAPTOP_CPU, ["small"], root=tmp_path)[0].lacks[0]


def test_a_file_that_cannot_be_read_is_lacking_in_its_own_rows_alone(tmp_path: Path) -> None:
    """The doctor goes on, and reports all other cases."""
    folder = tmp_path / "test_cases" / CASE
    shutil.copytree(f"test_cases/{CASE}", folder)
    shutil.copytree(folder, tmp_path / "test_cases/torn")
    (tmp_path / "test_cases/torn/model_config.yaml").write_text("MODEL_ARGS: {--lr: [")
    torn, whole = prospects(LAPTOP_CPU, ["torn", CASE], root=tmp_path)[::6]
    assert (torn.case, torn.golden) == ("torn", "unknown")
    assert "model_config.yaml, line 1" in torn.lacks[0]
    assert (whole.case, whole.lacks) == (CASE, ())


def test_the_card_that_would_be_used_is_named(tmp_path: Path) -> None:
    shutil.copytree(f"test_cases/{CASE}", tmp_path / "test_cases" / CASE)
    assert doctor._golden(CASE, "cpu_x86_64", "lts", tmp_path) == f"none yet (nox -s record -- {CASE})"
    folder = tmp_path / "goldens" / CASE
    folder.mkdir(parents=True)
    (folder / "golden_values_lts.json").touch()
    assert doctor._golden(CASE, "cpu_x86_64", "lts", tmp_path) == "golden_values_lts.json"
    (folder / "golden_values_lts_cpu_x86_64.json").touch()
    assert doctor._golden(CASE, "cpu_x86_64", "lts", tmp_path) == "golden_values_lts_cpu_x86_64.json"


def test_the_tables_name_everything() -> None:
    facts = host(DGX_A100)
    text = render(facts, prospects(facts, [CASE]))
    for word in ("NVIDIA A100-SXM4-80GB", "580.95.05", "AVX2", "dgx_a100", "yes", "free disk", "13.0"):
        assert word in text


def test_json_is_for_programs() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tasks.doctor", "--json"], capture_output=True, text=True, check=False
    )
    content = json.loads(outcome.stdout)
    assert {row["case"] for row in content["cases"]} >= {CASE}
    runs = any(not row["lacks"] for row in content["cases"])
    assert outcome.returncode == (0 if runs else 5)


def test_exit_5_when_nothing_can_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(doctor, "read_facts", lambda: dataclasses.replace(LAPTOP_CPU, memory_bytes=GIB))
    monkeypatch.setattr(sys, "argv", ["doctor"])
    assert doctor.main() == 5
    assert "memory: 1.0 GiB of 3.0 GiB" in capsys.readouterr().out


def test_the_crash_case_is_compared_with_the_card_of_the_main_case() -> None:
    crash, main = (
        {row.platform: row.golden for row in prospects(LAPTOP_CPU, [case])}
        for case in ("gpt3_pp4_crash_resume", "gpt3_pp4_resume")
    )
    assert crash == main
    assert any(golden.endswith(".json") for golden in crash.values())


@pytest.mark.parametrize(
    ("wanted", "reported"), [("bogus", "must be cpu, cuda or not set"), ("cuda", "cuda")]
)
def test_what_is_asked_for_and_is_not_there_is_lacking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, wanted: str, reported: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor", "--json"])
    monkeypatch.setattr(platforms, "query_gpus", lambda: ())
    monkeypatch.setenv("CRASH_TEST_DEVICE", wanted)
    assert doctor.main() == 5
    assert all(reported in row["lacks"][0] for row in json.loads(capsys.readouterr().out)["cases"])

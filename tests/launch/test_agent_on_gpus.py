"""The launcher on a CUDA host, as far as that can be seen without one."""

from __future__ import annotations

import sys

import pytest

from tasks.launch import imports
from tasks.launch.imports import ImportSettings
from tasks.machine import cudnn, nccl, packages
from tasks.machine.platforms import GPU_ENVIRONMENT, SHARED_GPU_ENVIRONMENT, Gpu, gpu_platform
from tasks.util.files import REPOSITORY
from tests.program import started_anew

H100 = Gpu(index=0, uuid="GPU-1", name="NVIDIA H100", memory_mib=81559, compute_capability=9.0, driver="580")


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Libraries that the launcher loads on a CUDA host, in order, without loading them."""
    order: list[str] = []

    class WarmUp:
        @staticmethod
        def import_compilers() -> None:
            order.append("compilers")

    class Torch:
        class cuda:
            @staticmethod
            def is_initialized() -> bool:
                return False

    monkeypatch.setattr(nccl, "preload_library", lambda ranks_per_gpu: order.append(f"nccl {ranks_per_gpu}"))
    monkeypatch.setattr(imports, "keep_bytecode", lambda: None)  # for a Python that writes none
    monkeypatch.setattr(cudnn, "preload_library", lambda: order.append("cudnn"))
    monkeypatch.setattr(imports.importlib, "import_module", order.append)
    monkeypatch.setitem(sys.modules, "torch", Torch)
    monkeypatch.setitem(sys.modules, "tasks.ranks.warm_up", WarmUp)
    monkeypatch.setattr(imports.gc, "freeze", lambda: None)
    monkeypatch.setattr(imports, "_done", [])
    monkeypatch.delitem(sys.modules, "tasks.ranks.cuda_on_cpu", raising=False)
    return order


def test_nccl_and_cudnn_are_in_front_before_torch_is_imported(preloaded: list[str]) -> None:
    imports.preload(ImportSettings(device="cuda", ranks_per_gpu=8))
    assert preloaded[:2] == ["nccl 8", "cudnn"]
    assert preloaded[-1] == "compilers"


def test_the_stand_in_for_the_cpu_is_nowhere_in_sight(preloaded: list[str]) -> None:
    imports.preload(ImportSettings(device="cuda", ranks_per_gpu=1))
    assert "tasks.ranks.cuda_on_cpu" not in sys.modules
    assert not [name for name in preloaded if "cuda_on_cpu" in name]


def test_no_module_of_the_ranks_imports_the_stand_in() -> None:
    importing = [
        path.name
        for path in (REPOSITORY / "tasks" / "ranks").glob("*.py")
        if any("import" in line and "cuda_on_cpu" in line for line in path.read_text().splitlines())
    ]
    assert importing == []


def test_cuda_in_the_forking_process_is_an_error(
    preloaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["torch"].cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="CUDA was initialised"):
        imports.preload(ImportSettings(device="cuda", ranks_per_gpu=8))


def test_variables_of_one_gpu() -> None:
    platform = gpu_platform((H100,))
    assert platform.ranks_per_gpu == 8
    assert platform.env_vars == GPU_ENVIRONMENT | SHARED_GPU_ENVIRONMENT
    assert platform.env_vars["NCCL_MULTI_RANK_GPU_ENABLE"] == "1"
    assert platform.env_vars["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


@pytest.mark.parametrize("task", ["train", "resume"])
def test_the_main_module_can_be_imported_again(task: str) -> None:
    """As a spawned checkpoint worker does: it must start nothing and import no torch."""
    finished = started_anew("modules.imported_again_as_main", f"tasks.{task}")
    assert finished.exit_code == 0, finished.stderr
    assert f"tasks.{task}" in finished.answer["main"]
    assert not finished.answer["torch"]


def test_packages_left_out_break_no_environment() -> None:
    said = (
        "nvidia-cudnn-frontend 1.32.0 requires nvidia-cutlass-dsl, which is not installed.\n"
        "onnx 1.23.2 requires protobuf, which is not installed.\n"
    )
    assert packages.broken_dependencies(said) == [
        "pip check: onnx 1.23.2 requires protobuf, which is not installed."
    ]

"""Do torch, Transformer Engine, cuDNN and NCCL load and agree? Run after an installation on a CUDA host."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable

import torch

from tasks.environment import newer_nccl
from tasks.exits import CannotRun, exit_with

OLDEST_SHARING_NCCL = (2, 31)


def nccl_version(library: ctypes.CDLL) -> tuple[int, int, int]:
    """NCCL's own number, 23102 for 2.31.2, as (2, 31, 2)."""
    number = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(number))
    return number.value // 10000, number.value // 100 % 100, number.value % 100


def disagreements(
    torch_cuda: str, engine_packages: set[str], newer: tuple[int, int, int] | None
) -> list[str]:
    """What does not fit together, a line each."""
    lines = []
    major = torch_cuda.split(".")[0]
    if f"transformer-engine-cu{major}" not in engine_packages:
        lines.append(f"torch is built for CUDA {torch_cuda}, Transformer Engine is {sorted(engine_packages)}")
    if newer is not None and newer[:2] < OLDEST_SHARING_NCCL:
        lines.append(f"the NCCL to preload is {newer}, several ranks on a GPU need 2.31")
    return lines


def cudnn_problem(version: Callable[[], int | None]) -> str | None:
    """Why torch refuses the cuDNN that is loaded, and what to do; None when it takes it.

    Transformer Engine loads the system's cuDNN before the one that torch brings, if it finds one
    (``_load_cuda_library`` in its ``common/__init__.py``), and a process has only one.
    """
    try:
        version()
    except RuntimeError as error:
        return (
            f"{str(error).split('. ')[0]}: set CUDNN_HOME to the nvidia/cudnn folder of this environment's"
            " site-packages, or uninstall the system's cuDNN"
        )
    return None


def main() -> int:
    """Print what was loaded; exit 5 when it does not fit."""
    import transformer_engine.pytorch  # noqa: F401  its extension is what has to load

    if torch.version.cuda is None:
        raise CannotRun(f"torch {torch.__version__} is a CPU build; this is a CUDA host")
    library = newer_nccl()
    newer = nccl_version(ctypes.CDLL(str(library))) if library else None
    names = {
        distribution.name.lower().replace("_", "-") for distribution in importlib.metadata.distributions()
    }
    problems = disagreements(
        torch.version.cuda, {name for name in names if name.startswith("transformer-engine-cu")}, newer
    )
    problems += filter(None, [cudnn_problem(torch.backends.cudnn.version)])
    if problems:
        raise CannotRun("; ".join(problems))
    print(
        f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, Transformer Engine"
        f" {importlib.metadata.version('transformer-engine')}, NCCL {torch.cuda.nccl.version()}"
        f" (preloaded for shared GPUs: {newer})"
    )
    return 0


if __name__ == "__main__":
    exit_with(main)

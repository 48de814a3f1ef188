"""Check that torch, Transformer Engine, cuDNN and NCCL load and fit together, after installing on a CUDA
host.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from tasks.machine import cudnn, nccl
from tasks.machine.packages import newer_nccl
from tasks.util.exits import CannotRun, exit_with


def disagreements(
    torch_cuda: str, engine_packages: set[str], newer: tuple[int, int, int] | None
) -> list[str]:
    """Conflicts between the libraries, a line each."""
    lines = []
    major = torch_cuda.split(".")[0]
    if f"transformer-engine-cu{major}" not in engine_packages:
        lines.append(f"torch is built for CUDA {torch_cuda}, Transformer Engine is {sorted(engine_packages)}")
    if newer is not None and not nccl.can_share(newer):
        lines.append(f"the NCCL to preload is {nccl.text(newer)}, several ranks on a GPU need 2.31")
    return lines


def cudnn_problem(version: Callable[[], int | None]) -> str | None:
    """The reason why torch refuses the loaded cuDNN, with the remedy; None when it accepts it.

    torch accepts a cuDNN at least as new as the one it was built with, and asks the one that is loaded.
    """
    try:
        version()
    except RuntimeError as error:
        return (
            f"{str(error).split('. ')[0]}: set CUDNN_HOME to the folder of that cuDNN, or unset it to use the"
            " one that torch brings along"
        )
    return None


def main() -> int:
    """Print what was loaded; exit 5 when it does not fit."""
    cudnn.preload_library()
    import torch
    import transformer_engine.pytorch  # noqa: F401  its extension is what has to load

    if torch.version.cuda is None:
        raise CannotRun(f"torch {torch.__version__} is a CPU build; this is a CUDA host")
    library = newer_nccl()
    newer = nccl.version(library) if library else None
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

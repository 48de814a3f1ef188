"""The stand-in for CUDA: a table of names, an installation that is refused, and what is in force after it."""

from __future__ import annotations

import mmap
import sys
import tempfile
from typing import Any

import torch

from tasks.machine import host_memory
from tasks.ranks import cuda_on_cpu


def table() -> dict[str, list[Any]]:
    """Rows of the table that torch has not, rows without a reason, and rows of one thing."""
    rows = cuda_on_cpu.replacements()
    keys = [f"{id(row.owner)}.{row.name}" for row in rows]
    return {
        "not in torch": [row.name for row in rows if not hasattr(row.owner, row.name)],
        "without a reason": [row.name for row in rows if not row.why],
        "twice": sorted({key for key in keys if keys.count(key) > 1}),
        "all": [row.name for row in rows],
    }


def install_without_a_name() -> None:
    """Install where torch lacks a name of the table."""
    del torch.cuda.empty_cache
    cuda_on_cpu.install()


def install_on_a_cuda_host() -> None:
    """Install where torch finds a GPU."""
    torch.cuda.is_available = lambda: True
    cuda_on_cpu.install()


def finds_transformer_engine(folder: str) -> bool:
    """Megatron's answer where the packages of ``folder`` can be imported."""
    sys.path.insert(0, folder)
    cuda_on_cpu.install()
    from megatron.core.extensions import transformer_engine

    return transformer_engine.HAVE_TE


def value_of(expression: str) -> str:
    """An expression of torch's as a string."""
    held = torch.ones(2**22)  # memory beyond the imports
    return str(eval(expression, {"torch": torch, "held": held}))


def allocated_bytes() -> list[int]:
    """The device's allocated bytes after the imports, and with 64 MiB more."""
    before = torch.cuda.memory_allocated()
    held = torch.ones(2**24)
    return [before, torch.cuda.memory_allocated() - (held.nbytes - 2**26)]


def draws_again_after_a_restore() -> bool:
    """The device's random state is taken, and set again."""
    torch.manual_seed(3)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    return torch.equal(first, torch.rand(3))


def staged_before_a_change() -> list[float]:
    """Weights staged for a checkpoint and changed then."""
    weights = torch.ones(3)
    staged = cuda_on_cpu.stage_a_copy([("file", "key", ([], [("item", weights)]))])
    weights.fill_(2.0)
    return staged[0][2][1][0][1].tolist()


def resident_growth_bytes() -> dict[str, int]:
    """Growth by 64 MiB of pages of a file, then of its own, and the peak when these are given back."""
    before = host_memory.resident_bytes()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(2**26))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 2**26, prot=mmap.PROT_READ)
        sum(mapped[index] for index in range(0, 2**26, 4096))
        with_file = host_memory.resident_bytes()
        own = torch.ones(2**24)
        with_own = host_memory.resident_bytes()
        del own
        above = host_memory.peak_resident_bytes() - host_memory.resident_bytes()
    return {"file": with_file - before, "own": with_own - with_file, "peak above": above}

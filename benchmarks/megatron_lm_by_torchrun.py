"""One rank of Megatron-LM as its users start it, on a machine without a GPU.

``torchrun --standalone --nproc-per-node 8 benchmarks/megatron_lm_by_torchrun.py CHECKOUT FLAGS...`` is
``torchrun ... CHECKOUT/pretrain_gpt.py FLAGS...`` with CUDA's calls answered by the CPU: every rank imports
for itself, nothing is forked, watched or measured.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    checkout, *words = sys.argv[1:]
    # This repository first: a checkout has a package tasks, too.
    sys.path[:1] = [str(REPOSITORY), checkout]
    from tasks.ranks import cuda_on_cpu, portable_math

    cuda_on_cpu.install()
    portable_math.install()
    from tasks.ranks import megatron_lm

    cuda_on_cpu.finish_install()
    megatron_lm.serve_this_machine()
    program = str(Path(checkout, megatron_lm.PROGRAM))
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()

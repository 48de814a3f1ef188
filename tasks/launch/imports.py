"""Import once what all ranks share, in the process that forks them: torch, megatron, the training program.

Importing costs seconds in every process; a fork shares its parent's modules. CUDA is never initialised here:
a forked process cannot use the CUDA of its parent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.launch.trainer import OURS, TrainerUnderTest
from tasks.util.exits import HANG
from tasks.util.files import REPOSITORY
from tasks.util.processes import end_with_parent

# Every rank would otherwise import these itself.
_SHARED_MODULES = (
    "multiprocessing.managers",  # megatron's asynchronous checkpoint writer
    "torch._dynamo",  # megatron's fused functions
    "torch._inductor.config",  # deterministic mode sets an option of the compiler, too
    "torch.distributed.launcher.api",
    "torch.utils.tensorboard",
)


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Settings that imports depend on. ``env_vars`` must be set before they begin: torch reads them once."""

    device: str  # "cpu" or "cuda"
    ranks_per_gpu: int = 0
    trainer: TrainerUnderTest = OURS
    env_vars: dict[str, str] = field(default_factory=dict)


BYTECODE = REPOSITORY / "data" / "bytecode"
IMPORT_TIMEOUT_S = 600.0  # cold, from a slow disk, it takes a minute
_done: list[ImportSettings] = []


def preload(wanted: ImportSettings) -> None:
    """Import everything; on a CPU, put the stand-in for CUDA in force. A second time, nothing is left to do.

    Raises:
        CannotRun: a library for the GPU is missing or too old.
        RuntimeError: this process has already imported for other settings, which cannot be undone.
    """
    if _done:
        if _done[0] != wanted:
            raise RuntimeError(f"this process has imported torch for {_done[0]}, not for {wanted}")
        return
    keep_bytecode()
    if wanted.device == "cpu" and bytecode_is_missing() and not sys.dont_write_bytecode:
        _compile_elsewhere(wanted)
    _import_in_time(wanted)
    _done.append(wanted)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages shared with the ranks


def _compile_elsewhere(wanted: ImportSettings) -> None:
    """Import everything in a process of its own, for the bytecode that this leaves behind.

    Memory used for compiling stays with a process, and on a CPU a rank's memory includes pages shared with
    the process that forked it: the first ``regress`` of an environment had 6 to 8 % more than later ones.
    """
    parent, child = os.getpid(), os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == HANG:
            os._exit(HANG)  # the child has printed its stack
        return
    end_with_parent(parent=parent)
    with contextlib.suppress(BaseException):  # reported by the process that needs the imports
        _import_in_time(wanted)
    os._exit(0)


def _import_in_time(wanted: ImportSettings) -> None:
    with time_limit(IMPORT_TIMEOUT_S, "importing torch and megatron"):
        _import_all(wanted)


def _import_all(wanted: ImportSettings) -> None:
    warnings.filterwarnings("ignore", module=r"(megatron|transformer_engine)\b.*")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that a CPU host lacks CUDA
    if wanted.device == "cpu":
        from tasks.ranks import cuda_on_cpu, portable_math

        cuda_on_cpu.install()
        portable_math.install()
    else:
        from tasks.machine import cudnn, nccl

        nccl.preload_library(ranks_per_gpu=wanted.ranks_per_gpu)
        cudnn.preload_library()
    for name in _SHARED_MODULES:
        importlib.import_module(name)
    _import_trainer(wanted.trainer, wanted.device)
    import torch

    if wanted.device == "cpu":
        cuda_on_cpu.finish_install()
    elif wanted.trainer.own:
        sys.modules["tasks.ranks.warm_up"].import_compilers()
    if wanted.device == "cuda" and torch.cuda.is_initialized():
        raise RuntimeError("CUDA was initialised in the process that forks the ranks")


def _import_trainer(trainer: TrainerUnderTest, device: str) -> None:
    """Import the program under test; not Megatron-LM on a GPU, where some of its modules initialise CUDA."""
    if trainer.checkout is not None:
        _find_checkout_first(trainer.checkout)
    if trainer.own:
        importlib.import_module("tasks.ranks.pretrain")
    elif device == "cpu":
        from tasks.ranks import megatron_lm

        megatron_lm.preload(trainer.checkout)


def _find_checkout_first(checkout: Path) -> None:
    """Have a checkout's modules found before the wheel's, and its bytecode kept elsewhere."""
    if any(name == "megatron" or name.startswith("megatron.") for name in sys.modules):
        raise RuntimeError("megatron was imported before the checkout could be put in front of the wheel")
    sys.path.insert(1, str(checkout))  # behind this repository: a checkout has a package tasks, too
    sys.pycache_prefix = str(BYTECODE)
    os.environ["PYTHONPYCACHEPREFIX"] = str(BYTECODE)  # for spawned processes, as checkpoint workers on GPUs


def keep_bytecode(package: str = "torch", folder: Path = BYTECODE) -> bool:
    """Make this process keep bytecode in ``folder`` when ``package`` has none and may get none beside it.

    Container images often set ``PYTHONDONTWRITEBYTECODE=1`` and are installed without bytecode: every process
    then compiles torch and megatron again, 10 s of the 18 s of imports on a host with an H100. Nothing is
    written beside the packages, as the environment variable demands. Returns True when it is done.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix or not bytecode_is_missing(package):
        return False
    sys.pycache_prefix = str(folder)
    sys.dont_write_bytecode = False
    return True


def bytecode_is_missing(package: str = "torch") -> bool:
    """True when ``package`` is installed and not compiled."""
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.origin) and not Path(importlib.util.cache_from_source(spec.origin)).is_file()


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End the process with ``HANG`` when the block takes longer, and print where this thread stands.

    No rank exists yet, so the watchdog has nothing to watch.
    """
    timer = threading.Timer(seconds, _end, (seconds, what, threading.get_ident()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(seconds: float, what: str, thread: int) -> None:
    stack = "".join(traceback.format_stack(sys._current_frames()[thread]))
    print(
        f"error: {what} has not ended after {seconds:.0f} s; it stands at\n{stack}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HANG)


def new_random_state() -> None:
    """Reseed the default generators: a fork would draw the same numbers as its siblings, and two phases that
    should be seeded and are not would look identical.
    """
    import numpy
    import torch

    torch.default_generator.seed()
    numpy.random.seed()

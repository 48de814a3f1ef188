"""Megatron-LM's own training loop in our ranks: a checkout's ``pretrain_gpt.py``, or the wheel's loop.

No file of Megatron-LM is edited. Four functions of its loop are wrapped, for the progress board and for the
digests of the saved and loaded state. Calls that need hardware missing here are served by stand-ins
(docs/megatron_lm.md).
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from megatron.core.datasets import utils as dataset_utils
from megatron.training import get_args, training

from tasks.ranks import checkpoint, state
from tasks.util.progress import ProgressBoard

WATCHED = ("train_step", "training_log", "save_checkpoint", "load_checkpoint")
_HELPERS = "megatron.core.datasets.helpers_cpp"


def run(
    argv: Sequence[str],
    *,
    evidence: Path,
    rank_plugins: Sequence[Path] = (),
    board: ProgressBoard | None = None,
    checkout: Path | None = None,
    **_: Any,  # attempt and checkpoint identity, which only our own trainer uses
) -> None:
    """Train with Megatron-LM's command line ``argv``, as one rank of an elastic agent's group.

    ``checkout``: its ``pretrain_gpt.py`` is run; None runs the loop of the installed wheel.

    Raises:
        RuntimeError: Megatron-LM exited with a code other than 0, or lacks a function that is watched.
        Exception: anything that Megatron-LM raises.
    """
    serve_this_machine()
    Watch(evidence, board).install(training)
    for plugin in rank_plugins:
        runpy.run_path(str(plugin), run_name="rank_plugin")
    program = checkout / "pretrain_gpt.py" if checkout else Path(__file__).with_name("megatron_wheel.py")
    sys.argv = [str(program), *argv]
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as stop:  # how it ends at --exit-interval
        if stop.code not in (None, 0):
            raise RuntimeError(f"{program.name} ended with exit code {stop.code}") from stop


def preload(checkout: Path | None) -> None:
    """Import in the process that forks the ranks what the program imports; nothing is run."""
    _use_built_helpers()
    if checkout is not None:
        importlib.import_module("pretrain_gpt")
    else:
        from tasks.ranks import megatron_wheel  # noqa: F401


def serve_this_machine() -> None:
    """Answer what Megatron-LM asks for and this machine does not have."""
    _use_built_helpers()
    dataset_utils.compile_helpers = lambda: None  # they are built, and would be written into the checkout
    devices = torch.cuda.device_count()
    if torch.cuda.is_available():
        set_device = torch.cuda.set_device
        # Megatron-LM gives every local rank a GPU of its own; here several may share one.
        torch.cuda.set_device = lambda device: set_device(_mapped(device, devices))
    else:
        torch.utils.data.DataLoader.__init__ = _loader_of_the_cpu(torch.utils.data.DataLoader.__init__)
        training.initialize_megatron = functools.partial(training.initialize_megatron, allow_no_cuda=True)
        # It has fused functions compiled for random tensors. Here nothing is compiled, and there is one
        # random generator: moved by that, it gives other position embeddings than those of the seed.
        training.set_jit_fusion_options = lambda **_: None


def _mapped(device: Any, devices: int) -> Any:
    return device % devices if isinstance(device, int) else device


def _loader_of_the_cpu(init: Callable[..., None]) -> Callable[..., None]:
    """No pinned memory; and its seed from a generator of its own.

    A loader draws a seed when it begins, after the random states were loaded. Where dropout uses another
    generator (CUDA's) that changes nothing; on the CPU it would move the one generator that there is.
    """

    @functools.wraps(init)
    def make(loader: Any, *args: Any, **keywords: Any) -> None:
        keywords["pin_memory"] = False
        if keywords.get("generator") is None:
            keywords["generator"] = torch.Generator().manual_seed(0)
        init(loader, *args, **keywords)

    return make


def _use_built_helpers() -> None:
    """The wheel's compiled dataset helpers: a checkout holds their source alone, and is not to be written."""
    if importlib.util.find_spec(_HELPERS) is not None:
        return
    name = _HELPERS.replace(".", os.sep)
    for folder in sys.path:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(folder or ".", name + suffix)
            if path.is_file():
                sys.modules[_HELPERS] = _load_extension(path)
                return
    raise RuntimeError(f"no compiled {_HELPERS} on this machine: install the pinned megatron-core wheel")


def _load_extension(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_HELPERS, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Watch:
    """Sees Megatron-LM's loop pass through four of its functions: shows progress, writes evidence."""

    def __init__(self, evidence: Path, board: ProgressBoard | None) -> None:
        self._evidence = evidence
        self._board = board
        self._iteration = 0
        self._seconds = {"load": 0.0, "save": 0.0}

    def install(self, module: Any) -> None:
        """Wrap the watched functions of ``megatron.training.training``.

        Raises:
            RuntimeError: names the functions that this Megatron-LM lacks.
        """
        missing = [name for name in WATCHED if not callable(getattr(module, name, None))]
        if missing:
            raise RuntimeError(
                f"this Megatron-LM's megatron.training.training has no {', '.join(missing)}: its loop"
                " cannot be watched, so neither a hang nor a restart could be judged"
            )
        for name in WATCHED:
            setattr(module, name, functools.partial(getattr(self, f"_{name}"), getattr(module, name)))

    def _note(self, activity: str, loss: float = float("nan")) -> None:
        if self._board is not None:
            rank = int(os.environ["RANK"])
            self._board.note(rank, process_id=os.getpid(), step=self._iteration, activity=activity, loss=loss)

    def _train_step(self, original: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        self._note("forward and backward")
        answer = original(*args, **keywords)
        self._iteration += 1
        self._note("logging")
        return answer

    def _training_log(self, original: Callable[..., Any], loss_dict: Any, *args: Any, **keywords: Any) -> Any:
        loss = loss_dict.get("lm loss")
        answer = original(loss_dict, *args, **keywords)
        self._note("logging", float("nan") if loss is None else float(loss))
        return answer

    def _save_checkpoint(
        self,
        original: Callable[..., Any],
        iteration: int,
        model: Any,
        optimizer: Any,
        scheduler: Any,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        self._note("saving checkpoint")
        begin = time.monotonic()
        self._write_evidence("saved", iteration, model, optimizer, scheduler)
        answer = original(iteration, model, optimizer, scheduler, *args, **keywords)
        self._seconds["save"] += time.monotonic() - begin
        state.write_evidence(self._evidence, "seconds", iteration, get_args(), self._seconds)
        self._note("logging")
        return answer

    def _load_checkpoint(
        self,
        original: Callable[..., Any],
        model: Any,
        optimizer: Any,
        scheduler: Any,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        self._note("loading checkpoint")
        begin = time.monotonic()
        checkpoint.allocate_adam_state(optimizer)
        answer = original(model, optimizer, scheduler, *args, **keywords)
        self._iteration = answer[0]
        if self._iteration:
            checkpoint.restore_adam_steps(optimizer)
            self._seconds["load"] += time.monotonic() - begin
            self._write_evidence("loaded", self._iteration, model, optimizer, scheduler)
            state.write_evidence(self._evidence, "seconds", self._iteration, get_args(), self._seconds)
        self._note("starting")
        return answer

    def _write_evidence(self, kind: str, iteration: int, model: Any, optimizer: Any, scheduler: Any) -> None:
        args = get_args()
        digests = state.state_digests(model, optimizer, scheduler, [], args.consumed_train_samples)
        del digests["next_batch"]  # Megatron-LM's iterators cannot be asked for it without taking it
        state.write_evidence(self._evidence, kind, iteration, args, digests)

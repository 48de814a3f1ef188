"""Megatron-LM's training loop, made up of functions that note how they were called, watched and served."""

from __future__ import annotations

import json
import math
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tasks.util.progress import ProgressBoard

RANK = 1


def _loop() -> tuple[types.ModuleType, types.ModuleType]:
    """A module ``megatron.training.training`` without functions to watch, and the module that watches it."""
    os.environ["RANK"] = str(RANK)
    training, package = types.ModuleType("megatron.training.training"), types.ModuleType("megatron.training")
    package.get_args = lambda: SimpleNamespace(rank=RANK, consumed_train_samples=24)
    package.training = training
    training.initialize_megatron = training.set_jit_fusion_options = lambda **_: None
    sys.modules |= {"megatron.training": package, "megatron.training.training": training}
    from tasks.ranks import megatron_lm

    return training, megatron_lm


def _raised(action: Callable[[], object]) -> str:
    try:
        action()
    except RuntimeError as error:
        return str(error)
    return ""


def lacks_functions(folder: str) -> dict[str, Any]:
    """The error of a loop that lacks functions, and whether it was touched."""
    training, megatron_lm = _loop()
    training.train_step, training.save_checkpoint = print, "no function"
    error = _raised(lambda: megatron_lm.Watch(Path(folder), None).install(training))
    return {"error": error, "untouched": training.train_step is print}


class _Watched:
    """The four functions of the loop, which note what they were called with and what is to be seen then."""

    def __init__(self, folder: Path) -> None:
        self.training, megatron_lm = _loop()
        self.board, self.evidence, self.calls = ProgressBoard(2), folder / "evidence", []
        self.parameter = torch.nn.Parameter(torch.ones(3))
        self.adam = torch.optim.AdamW([self.parameter], lr=0.1)
        self.optimizer = SimpleNamespace(optimizer=self.adam)
        self.model = [torch.nn.Linear(2, 2)]
        self.scheduler = SimpleNamespace(state_dict=lambda: {"num_steps": 24})
        self.first = 0
        self.training.train_step = self._noting("train_step", lambda: "what it answers")
        self.training.training_log = self._noting("training_log", lambda: True)
        self.training.save_checkpoint = self._noting("save_checkpoint", lambda: None)
        self.training.load_checkpoint = self._noting("load_checkpoint", self._load)
        megatron_lm.Watch(self.evidence, self.board).install(self.training)

    def row(self) -> list[Any]:
        """This rank's progress: step, activity, whether it is this process, loss."""
        noted = self.board.rows()[RANK]
        loss = None if math.isnan(noted.loss) else noted.loss
        return [noted.step, noted.activity, noted.process_id == os.getpid(), loss]

    def _noting(self, name: str, answer: Callable[[], object]) -> Callable[..., object]:
        def function(*arguments: object, **keywords: object) -> object:
            seen = {"row": self.row(), "files": sorted(path.name for path in self.evidence.glob("*"))}
            seen["adam"] = sorted(self.adam.state[self.parameter]) if self.adam.state else None
            seen["arguments"] = [len(arguments), sorted(keywords)]
            self.calls.append([name, seen])
            return answer()

        return function

    def _load(self) -> tuple[int, int]:
        if self.first:  # as the distributed optimizer does: the count comes back with the group alone
            self.adam.param_groups[0]["step"] = self.first
        return self.first, 17

    def story(self, first: int) -> dict[str, Any]:
        """Load, train a step, log twice, save: answers, progress after each, calls, Adam's steps."""
        self.first = first
        parts = (self.model, self.optimizer, self.scheduler)
        loop = self.training
        steps: list[Callable[[], object]] = [
            lambda: loop.load_checkpoint(*parts, strict=True),
            lambda: loop.train_step("forward step", "data", iteration=first),
            lambda: loop.training_log({"lm loss": torch.tensor(2.5)}, {}, report_memory_flag=False),
            lambda: loop.training_log({}, {}),
            lambda: loop.save_checkpoint(first + 1, *parts, 99, context={}),
        ]
        answers, after = [], []
        for step in steps:
            answers.append(step())
            after.append(self.row())
        calls, self.calls = self.calls, []
        count = float(self.adam.state[self.parameter]["step"])
        return {"answers": answers, "after": after, "calls": calls, "steps": count}


def stories(folder: str) -> dict[str, Any]:
    """A training from the start, one restarted after iteration 3, and the evidence that both have written."""
    watched = _Watched(Path(folder))
    told: dict[str, Any] = {"from the start": watched.story(0), "restarted": watched.story(3)}
    files = sorted(watched.evidence.glob("*"))
    return told | {"written": {path.name: json.loads(path.read_text()) for path in files}}


def served() -> dict[str, Any]:
    """Substitutes that the loop gets on this machine for a GPU."""
    training, megatron_lm = _loop()
    initialised: list[dict[str, Any]] = []
    training.initialize_megatron = lambda **keywords: initialised.append(keywords)
    training.set_jit_fusion_options = lambda **keywords: torch.rand(3)
    megatron_lm.serve_this_machine()
    state = torch.get_rng_state()
    training.set_jit_fusion_options(tp_size=1)
    training.initialize_megatron(store=None)
    rows = torch.utils.data.DataLoader(list(range(6)), batch_size=2, pin_memory=True)
    batches = [batch.tolist() for batch in rows]
    unmoved = torch.equal(state, torch.get_rng_state())
    own = torch.Generator().manual_seed(7)
    return {
        "initialised": initialised,
        "batches": batches,
        "pinned": rows.pin_memory,
        "random state is unmoved": unmoved,
        "keeps a generator": torch.utils.data.DataLoader([1], generator=own).generator is own,
    }


def devices_of_four_gpus() -> list[int | str]:
    """Devices that ranks 0 and 5 are mapped to, and one that is named."""
    _, megatron_lm = _loop()
    return [megatron_lm._mapped(device, 4) for device in (0, 5, "cuda:5")]


def helpers(folder: str) -> dict[str, Any]:
    """Compiled helpers, when a checkout in front of the wheel has none, and without a wheel."""
    _, megatron_lm = _loop()
    from megatron.core import datasets

    name, wheel = "megatron.core.datasets.helpers_cpp", list(datasets.__path__)
    sys.modules.pop(name, None)
    datasets.__path__ = [folder]
    megatron_lm._use_built_helpers()
    module = sys.modules.pop(name)
    of_wheel = Path(module.__file__).parent.samefile(wheel[0])
    sys.path.clear()
    missing = _raised(megatron_lm._use_built_helpers)
    return {"of the wheel": of_wheel, "usable": hasattr(module, "build_mapping"), "missing": missing}


def run(folder: str, program: str) -> dict[str, Any]:
    """The error of a program that is run with a plugin, and what both have noted."""
    training, megatron_lm = _loop()
    for name in megatron_lm.WATCHED:
        setattr(training, name, lambda *_, **__: None)
    order: list[Any] = []
    sys.modules["order"] = SimpleNamespace(order=order)
    checkout = Path(folder)
    plugin = checkout / "plugin.py"
    plugin.write_text(
        "import order\nfrom megatron.training import training\n"
        "order.order.append(type(training.train_step).__name__)"
    )
    (checkout / "pretrain_gpt.py").write_text(program)
    options = {"rank_plugins": [plugin], "checkout": checkout, "attempt": 0}
    arguments = ["--seed", "1"]
    error = _raised(lambda: megatron_lm.run(arguments, evidence=checkout / "evidence", **options))
    return {"error": error, "order": order}

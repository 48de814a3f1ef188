"""The trainer under test: ours, Megatron-LM's own loop from the installed wheel, or a checkout's.

Changes to Megatron-LM's behaviour are made from outside, in the ranks: no file of a checkout is written, and
its bytecode is kept elsewhere.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cases.metrics import METRICS, metric_named
from tasks.machine import platforms
from tasks.util.exits import UsageError

if TYPE_CHECKING:  # NumPy is not needed to read a command line
    from tasks.records.card import Card

OWN, MEGATRON = "own", "megatron"
PROGRAM = "pretrain_gpt.py"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMED_COMMIT_LENGTH = 12
# Text that tells one age of Megatron-LM from another, and the files of its megatron package that may hold it.
_STRATEGY, _STRATEGY_FILES = "async_strategy", ("training/arguments.py", "training/config/training_config.py")
_END_APART = "_vocab_size_without_eod"
_TOKENIZER_FILES = ("core/tokenizers/text/libraries/null_tokenizer.py", "training/tokenizer/tokenizer.py")


@dataclass(frozen=True, kw_only=True)
class TrainerUnderTest:
    """The program under test. ``name`` keeps its golden cards apart; our own program has none."""

    loop: str = OWN
    name: str = ""
    version: str = ""  # the checkout's commit, or the wheel's version
    checkout: Path | None = None

    @property
    def own(self) -> bool:
        return self.loop == OWN

    def facts(self) -> dict[str, str]:
        """Facts for the fingerprint; none for our own program, whose commit is there already."""
        return {} if self.own else {"subject": self.name, "megatron-lm": self.version}

    def measured(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        """The metrics that this program writes. Megatron-LM knows nothing of our own."""
        return tuple(name for name in metrics if self.own or not metric_named(name).ours)

    def judged(self, actual: Card) -> Card:
        """The metrics that have a rule here; Megatron-LM logs more, such as the batch size."""
        if self.own:
            return actual
        known = {name: metric for name, metric in actual.metrics.items() if name in METRICS}
        return replace(actual, metrics=known)

    def extra_flags(self, model_args: Mapping[str, object], device: str) -> list[str]:
        """Flags that this machine or our text needs, to be appended to those of the case."""
        if self.own:
            return []
        flags = {}
        if device == "cpu":
            flags["--num-workers"] = "0"  # processes that load data would outnumber the cores
        chosen = not model_args.get("--async-save") or "--async-strategy" in model_args
        if not chosen and not _resiliency_package() and self._has(_STRATEGY, _STRATEGY_FILES):
            flags["--async-strategy"] = "mcore"  # the default is that package's
        null_tokenizer = model_args.get("--tokenizer-type") == "NullTokenizer"
        if null_tokenizer and not self._has(_END_APART, _TOKENIZER_FILES):
            # It counts the end-of-document token in --vocab-size; the case and older versions do not.
            flags["--vocab-size"] = str(int(model_args["--vocab-size"]) + 1)
        if model_args.get("--dist-ckpt-strictness") == "raise_all":
            # Megatron-LM saves the state of its rerun machine and asks for it back only after a fault: the
            # key that nobody asked for would end every restart. The digests of what was loaded are judged.
            flags["--dist-ckpt-strictness"] = "raise_unexpected"
        return [word for flag_and_value in flags.items() for word in flag_and_value]

    def _has(self, text: str, files: tuple[str, ...]) -> bool:
        """True when one of these files of its ``megatron`` package holds the text; nothing is imported."""
        folder = self.checkout / "megatron" if self.checkout else _wheel_folder()
        return any(text in (folder / file).read_text() for file in files if (folder / file).is_file())

    def program(self) -> Callable[..., None]:
        """The program that a rank runs; imports it, and with it torch and megatron."""
        if self.own:
            from tasks.ranks import pretrain

            return pretrain.run
        from tasks.ranks import megatron_lm

        return functools.partial(megatron_lm.run, checkout=self.checkout)


OURS = TrainerUnderTest()
OPTIONS = ("megatron_lm", "trainer", "subject")  # of add_options, by their names in a namespace


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags that choose the program under test."""
    parser.add_argument(
        "--megatron-lm",
        metavar="PATH",
        type=Path,
        help=f"test this checkout of Megatron-LM: its {PROGRAM} and its megatron package",
    )
    parser.add_argument(
        "--trainer",
        choices=(OWN, MEGATRON),
        help="whose training loop: ours (default), or that of the installed megatron-core wheel",
    )
    parser.add_argument(
        "--subject",
        metavar="NAME",
        help="keep golden cards apart by this name (default: the checkout's commit)",
    )


def choose(options: argparse.Namespace) -> TrainerUnderTest:
    """The trainer that the command line asks for.

    Raises:
        UsageError: no checkout there, flags that exclude each other, a wheel without ``megatron.training``.
    """
    if options.subject is not None and not _NAME.fullmatch(options.subject):
        raise UsageError(f"--subject {options.subject}: letters, digits, '.', '_' and '-' make a name")
    if options.megatron_lm is not None:
        if options.trainer == OWN:
            raise UsageError("--megatron-lm and --trainer own: a checkout runs with its own training loop")
        return _checkout(options.megatron_lm, options.subject)
    if options.trainer == MEGATRON:
        return _wheel(options.subject)
    if options.subject is not None:
        raise UsageError("--subject: only with --megatron-lm PATH or --trainer megatron")
    return OURS


def _checkout(path: Path, name: str | None) -> TrainerUnderTest:
    for part in (PROGRAM, "megatron/core/__init__.py", "megatron/training/training.py"):
        if not (path / part).is_file():
            raise UsageError(f"--megatron-lm {path}: is no checkout of Megatron-LM, it has no {part}")
    path = path.resolve()
    commit = platforms.git_commit(path)
    if commit == "unknown" and name is None:
        raise UsageError(f"--megatron-lm {path}: git knows no commit of it; give it a name: --subject NAME")
    short = commit[:_NAMED_COMMIT_LENGTH] + ("-dirty" if commit.endswith("-dirty") else "")
    return TrainerUnderTest(loop=MEGATRON, name=name or short, version=commit, checkout=path)


def _wheel(name: str | None) -> TrainerUnderTest:
    version = platforms.installed_version("megatron-core")
    if not (_wheel_folder() / "training" / "training.py").is_file():
        raise UsageError(
            f"--trainer megatron: megatron-core {version} carries no megatron.training; use Python 3.12 or"
            " later (the dev environment), or give a checkout: --megatron-lm PATH"
        )
    return TrainerUnderTest(loop=MEGATRON, name=name or f"megatron-core-{version}", version=str(version))


def _wheel_folder() -> Path:
    """The ``megatron`` of the installed wheel; it is not imported."""
    found: Any = importlib.util.find_spec("megatron")
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0] if places else os.devnull)


def _resiliency_package() -> bool:
    return importlib.util.find_spec("nvidia_resiliency_ext") is not None

"""A test case as one platform runs it: its settings, its command line and its digest."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import flags
from tasks.cases.overlays import Overridden
from tasks.util.exits import UsageError

_NAME_IN_VALUE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text that an installed package brings along: every file of it with this suffix, in a fixed order."""

    package: str
    version: str
    suffix: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Changes of the restart from the training before. ``ranks``: None for as many."""

    model_args: dict[str, object]
    ranks: int | None


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Ranks that are killed with SIGKILL once every rank has completed and logged ``after_step``."""

    after_step: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test case as one platform runs it.

    ``model_args`` has flags with their dashes as keys; ``golden_case`` is the case whose golden cards hold
    for this one, mostly itself; ``kills`` come one after the other, each in an attempt of its own;
    ``digest`` is that of the training, see ``digest_of``, whatever the restart changes.
    """

    name: str
    path: Path
    env_vars: dict[str, str]
    model_args: dict[str, object]
    test_type: str
    metrics: tuple[str, ...]
    corpus: Corpus | None
    digest: str
    golden_case: str
    world_size: int  # ranks
    kills: tuple[Kill, ...] = ()
    restart: Restart | None = None
    checkpoint: str | None = None  # of type frozen-resume: a folder, relative to the repository
    overridden: tuple[Overridden, ...] = ()

    def argv(self) -> list[str]:
        """Megatron's command line: True gives a bare flag, False and null nothing, a list several words."""
        argv: list[str] = []
        for flag, value in self.model_args.items():
            if value is None or value is False:
                continue
            argv.append(flag)
            if value is not True:
                items = value if isinstance(value, list) else [value]
                argv.extend(repr(item) if isinstance(item, float) else str(item) for item in items)
        return argv

    @functools.cached_property
    def parsed(self) -> flags.Parsed:
        """The command line as our training program reads it, parsed once."""
        return flags.parse(self.argv(), world_size=self.world_size)

    @property
    def arguments(self) -> argparse.Namespace:
        """The arguments of our training program.

        Raises:
            UsageError: flags that it does not support.
        """
        return self.parsed.accepted(f"{self.path}: ")

    def resolved(self) -> dict[str, object]:
        """The case as JSON for a run's ``case.json``."""
        return {
            "name": self.name,
            "env_vars": self.env_vars,
            "model_args": self.model_args,
            "test_type": self.test_type,
            "metrics": list(self.metrics),
            "corpus": dataclasses.asdict(self.corpus) if self.corpus else None,
            "restart": dataclasses.asdict(self.restart) if self.restart else None,
            "kills": [dataclasses.asdict(kill) for kill in self.kills],
            "digest": self.digest,
        }

    def last_iteration(self) -> int:
        """The end of a phase: ``--train-iters``, or before that ``--exit-interval``."""
        return last_iteration(self.model_args)

    def restarted(self) -> Case:
        """The case as its restart runs it."""
        if self.restart is None:
            return self
        model_args = {**self.model_args, **self.restart.model_args}
        ranks = self.restart.ranks or self.world_size
        return dataclasses.replace(self, model_args=model_args, world_size=ranks)

    def names_needed(self) -> tuple[str, ...]:
        """The ``${NAMES}`` that ``substitute`` has to be given, sorted."""
        texts = [
            text for value in (*self.model_args.values(), *self.env_vars.values()) for text in _texts(value)
        ]
        return tuple(sorted({name for text in texts for name in _NAME_IN_VALUE.findall(text)}))

    def substitute(self, names: Mapping[str, str]) -> Case:
        """A copy with ``${NAME}`` replaced from ``names`` alone, once: what was put in is not read again.

        Raises:
            UsageError: names that the case uses and ``names`` lacks, all of them.
        """
        unset = [name for name in self.names_needed() if name not in names]
        if unset:
            listed = ", ".join("${" + name + "}" for name in unset)
            raise UsageError(f"{self.path}: not set: {listed}; give each a value (export it before the run)")
        return dataclasses.replace(
            self,
            model_args={flag: _put_in(value, names) for flag, value in self.model_args.items()},
            env_vars={name: str(_put_in(value, names)) for name, value in self.env_vars.items()},
        )


def last_iteration(model_args: Mapping[str, object]) -> int:
    """The last iteration of a phase with these flags."""
    train_iters, exit_interval = int(model_args["--train-iters"]), model_args.get("--exit-interval")
    return min(train_iters, int(exit_interval)) if exit_interval else train_iters


def digest_of(model_args: Mapping[str, object], env_vars: Mapping[str, str]) -> str:
    """SHA-256 over flags and environment variables, before ``${NAMES}`` are put in.

    Left out: flags without influence, the metrics (looking does not change what is computed), what the
    restart changes (a golden card is of the training before it) and the corpus, whose own digest is recorded
    beside this one.
    """
    influential = {
        flag: value
        for flag, value in model_args.items()
        if flags.influences(flag) and value is not None and value is not False
    }
    content = json.dumps({"model_args": influential, "env_vars": dict(env_vars)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _texts(value: object) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _put_in(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [_put_in(item, names) for item in value]
    if isinstance(value, str):
        return _NAME_IN_VALUE.sub(lambda match: names[match.group(1)], value)
    return value

"""A test case on one platform: its settings, its command line and its digest."""

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
    """Training text: all files of an installed package with this suffix, in a fixed order."""

    package: str
    version: str
    suffix: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Changed settings of the restart. ``ranks``: None for as many as before."""

    model_args: dict[str, object]
    ranks: int | None


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Ranks to kill with SIGKILL once all ranks have completed and logged ``after_step``."""

    after_step: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test case on one platform.

    Attributes:
        model_args: values by flag, with its dashes.
        golden_case: the case whose golden cards this one uses, mostly itself.
        kills: in order, each in an attempt of its own.
        digest: of the training without its restart, see ``digest_of``.
        checkpoint: folder of a frozen-resume, relative to the repository.
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
    checkpoint: str | None = None
    overridden: tuple[Overridden, ...] = ()

    def argv(self) -> list[str]:
        """Megatron's command line: True gives a bare flag, False and null nothing, a list several values."""
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
        """The command line, parsed once for our training program."""
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
        """The last iteration of a phase: the smaller of ``--train-iters`` and ``--exit-interval``."""
        return last_iteration(self.model_args)

    def restarted(self) -> Case:
        """The case with the changes of its restart."""
        if self.restart is None:
            return self
        model_args = {**self.model_args, **self.restart.model_args}
        ranks = self.restart.ranks or self.world_size
        return dataclasses.replace(self, model_args=model_args, world_size=ranks)

    def names_needed(self) -> tuple[str, ...]:
        """The ``${NAMES}`` that ``substitute`` needs, sorted."""
        values = [*self.model_args.values(), *self.env_vars.values()]
        items = [item for value in values for item in (value if isinstance(value, list) else [value])]
        texts = [item for item in items if isinstance(item, str)]
        return tuple(sorted({name for text in texts for name in _NAME_IN_VALUE.findall(text)}))

    def substitute(self, names: Mapping[str, str]) -> Case:
        """A copy with each ``${NAME}`` replaced from ``names``; replaced text is not read again.

        Raises:
            UsageError: ``names`` lacks some; the message has all of them.
        """
        unset = [name for name in self.names_needed() if name not in names]
        if unset:
            listed = ", ".join("${" + name + "}" for name in unset)
            raise UsageError(f"{self.path}: not set: {listed}; give each a value (export it before the run)")
        return dataclasses.replace(
            self,
            model_args={flag: _replaced(value, names) for flag, value in self.model_args.items()},
            env_vars={name: str(_replaced(value, names)) for name, value in self.env_vars.items()},
        )


def last_iteration(model_args: Mapping[str, object]) -> int:
    """The last iteration of a phase with these flags."""
    train_iters, exit_interval = int(model_args["--train-iters"]), model_args.get("--exit-interval")
    return min(train_iters, int(exit_interval)) if exit_interval else train_iters


def digest_of(model_args: Mapping[str, object], env_vars: Mapping[str, str]) -> str:
    """SHA-256 of flags and environment variables, before ``${NAMES}`` are replaced.

    Skips flags without influence, metrics (they do not change the computation), changes of the restart (a
    golden card is of the training before it) and the corpus, whose digest is recorded separately.
    """
    influential = {
        flag: value
        for flag, value in model_args.items()
        if flags.influences(flag) and value is not None and value is not False
    }
    content = json.dumps({"model_args": influential, "env_vars": dict(env_vars)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _replaced(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [_replaced(item, names) for item in value]
    if isinstance(value, str):
        return _NAME_IN_VALUE.sub(lambda match: names[match.group(1)], value)
    return value

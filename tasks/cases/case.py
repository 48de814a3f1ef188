"""A test case: read from its folder, checked, and laid over for a platform."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import flag_rules, megatron_lm_case, quarantine, schema, yaml_reader
from tasks.cases.names import case_names
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY

CASE_FILE = "model_config.yaml"

# Flags that say where things lie, how long they may take or what is printed, never what is computed.
# They are left out of the digest, so that changing one does not make a golden card look stale.
FLAGS_WITHOUT_INFLUENCE = frozenset(
    {
        "--data-cache-path",
        "--distributed-timeout-minutes",
        "--exit-duration-in-mins",
        "--exit-interval",
        "--load",
        "--log-timers-to-tensorboard",
        "--num-workers",
        "--save",
        "--tensorboard-dir",
        "--timing-log-level",
        "--timing-log-option",
    }
)

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
    """How the restart differs from the training before. ``ranks``: None for as many."""

    model_args: dict[str, object]
    ranks: int | None


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Ranks that are killed with SIGKILL once every rank has completed and logged ``after_step``."""

    after_step: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test case as one platform runs it. ``model_args`` has flags with their dashes as keys;
    ``golden_case`` is the case whose golden cards hold for it, mostly itself; ``kills`` come one after the
    other, each in an attempt of its own.
    """

    name: str
    path: Path
    env_vars: dict[str, str]
    model_args: dict[str, object]
    test_type: str
    metrics: tuple[str, ...]
    corpus: Corpus | None
    content_digest: str
    golden_case: str
    kills: tuple[Kill, ...] = ()
    restart: Restart | None = None
    checkpoint: str | None = None  # of type frozen-resume: a folder, relative to the repository

    def flags(self) -> list[str]:
        """Megatron's command line: True gives a bare flag, False and null nothing, a list several words."""
        words: list[str] = []
        for flag, value in self.model_args.items():
            if value is None or value is False:
                continue
            words.append(flag)
            if value is not True:
                words.extend(_word(item) for item in (value if isinstance(value, list) else [value]))
        return words

    def digest(self) -> str:
        """SHA-256 over flags and environment variables, before ``${NAMES}`` are put in.

        Left out: ``FLAGS_WITHOUT_INFLUENCE``, the metrics (looking does not change what is computed), what
        the restart changes (a golden card is of the training before it) and the corpus, whose own digest is
        recorded beside this one.
        """
        return self.content_digest

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
            "digest": self.digest(),
        }

    def last_iteration(self) -> int:
        """Where a phase ends: at ``--train-iters``, or before at a multiple of ``--exit-interval``."""
        return last_iteration(self.model_args)

    def restarted(self) -> Case:
        """The case as its restart runs it."""
        changed = self.restart.model_args if self.restart else {}
        return dataclasses.replace(self, model_args={**self.model_args, **changed})

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


def list_cases(root: Path = REPOSITORY) -> list[str]:
    """Names of the cases below ``root``, sorted."""
    return case_names(root)


def golden_case(name: str, root: Path = REPOSITORY) -> str:
    """The case whose golden cards hold for case ``name``.

    Raises:
        UsageError: no such case, or it names one that does not exist.
    """
    return _golden_case(_find(name, root), read_content(name, root), root)


def read_content(name: str, root: Path = REPOSITORY) -> dict[str, object]:
    """The content of a case's file over what it inherits; values are not checked.

    Raises:
        UsageError: no such case, or a file that cannot be read.
    """
    return _read(_find(name, root), root)


def load_case(
    name_or_path: str | Path,
    *,
    platform_name: str,
    root: Path = REPOSITORY,
    overrides: Mapping[str, str] | None = None,
    world_size: int = 8,
) -> Case:
    """Read a case, lay its platform's entries and the overrides over it, and check the result.

    Raises:
        UsageError: no such case, or a file with errors; all errors of a file are in one message.
    """
    path = _find(name_or_path, root)
    return _checked(path, _read(path, root), platform_name, overrides or {}, world_size, root=root)


def load_upstream_case(
    path: Path,
    *,
    platform_name: str,
    overrides: Mapping[str, str] | None = None,
    world_size: int = 8,
    ours: bool = True,
) -> Case:
    """A case file of Megatron-LM's functional tests, as it is; on a CPU with the flags that one needs.

    ``ours``: for our training program, so put into its words and held to its rules.

    Raises:
        UsageError: as ``load_case``.
    """
    path = path / CASE_FILE if path.is_dir() else path
    content = megatron_lm_case.read(path).content
    if ours:
        content["MODEL_ARGS"] = megatron_lm_case.for_our_trainer(content["MODEL_ARGS"])
    return _checked(path, content, platform_name, overrides or {}, world_size, ruled=ours)


def _checked(
    path: Path,
    content: Mapping[str, object],
    platform_name: str,
    overrides: Mapping[str, str],
    world_size: int,
    *,
    ruled: bool = True,
    root: Path = REPOSITORY,
) -> Case:
    errors = schema.check_shape(content)
    if quarantine.KEY in content:
        errors += quarantine.faults(content[quarantine.KEY], datetime.date.today())
    if errors:
        raise _errors(path, errors)
    model_args, env_vars = _laid_over(content, platform_name)
    model_args.update(read_overrides(overrides))
    test_type = str(content.get("TEST_TYPE", "regular"))
    restart = _restart(content)
    errors = []
    if ruled:
        errors = flag_rules.check_values(model_args, test_type=test_type, world_size=world_size)
        errors += flag_rules.check_data(model_args, content.get("CORPUS"))
    if ruled and restart and not errors:
        ranks = restart.ranks or world_size
        if ranks > world_size:
            errors = [f"RESTART.RANKS: {ranks} ranks, {platform_name} has {world_size}"]
        found = flag_rules.check_values(
            {**model_args, **restart.model_args}, test_type=test_type, world_size=ranks
        )
        errors += [f"RESTART: {error}" for error in found]
    kills = content.get("CRASH") or []
    if kills and not errors:
        last, interval = last_iteration(model_args), int(model_args["--save-interval"])
        errors = schema.check_kills(kills, last=last, interval=interval, ranks=world_size)
    if errors:
        raise _errors(path, [f"{error} (on {platform_name})" for error in errors])
    corpus = content.get("CORPUS")
    return Case(
        name=path.parent.name,
        path=path,
        env_vars=env_vars,
        model_args=model_args,
        test_type=test_type,
        metrics=tuple(content["METRICS"]),
        corpus=Corpus(**corpus) if corpus else None,
        content_digest=_digest(model_args, env_vars),
        restart=restart,
        checkpoint=content.get("CHECKPOINT"),
        golden_case=_golden_case(path, content, root),
        kills=tuple(Kill(after_step=kill["after_step"], ranks=tuple(kill["ranks"])) for kill in kills),
    )


def read_overrides(overrides: Mapping[str, str]) -> dict[str, object]:
    """``{"train-iters": "20"}`` as ``{"--train-iters": 20}``; dashes in front may be left out."""
    read: dict[str, object] = {}
    for name, text in overrides.items():
        flag = "--" + name.lstrip("-")
        if not schema.FLAG.fullmatch(flag):
            raise UsageError(
                f"--set {name}={text}: {flag} is no flag; write for example --set train-iters=20"
            )
        read[flag] = yaml_reader.scalar(text)
    return read


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """``["train-iters=20"]`` (the values of ``--set``) as a mapping. A flag alone means true."""
    parsed: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name.strip("-"):
            raise UsageError(f"--set {setting}: no flag before '='; write for example --set train-iters=20")
        parsed[name] = value if equals else "true"
    return parsed


def _find(name_or_path: str | Path, root: Path) -> Path:
    text = str(name_or_path)
    given = Path(text)
    candidates = [root / "test_cases" / text / CASE_FILE] if os.sep not in text else []
    if os.sep in text or given.suffix in {".yaml", ".yml"}:
        candidates += [given / CASE_FILE if given.is_dir() else given]
    for candidate in candidates:
        if os.path.lexists(candidate):
            return candidate
    known = list_cases(root)
    close = difflib.get_close_matches(text, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(f"there is no case {text!r}.{hint} Cases: {', '.join(known) or 'none'}")


def _read(path: Path, root: Path, heirs: tuple[Path, ...] = ()) -> dict[str, object]:
    """The content of a case file over that of the case which it inherits from, if any."""
    content = yaml_reader.read_mapping(path)
    if "INHERIT" not in content:
        return content
    name = content.pop("INHERIT")
    if name not in list_cases(root):
        hint = schema.did_you_mean(str(name), list_cases(root))
        raise UsageError(f"{path}: INHERIT: there is no case {name!r}. {hint}")
    base = root / "test_cases" / str(name) / CASE_FILE
    if base in (path, *heirs):
        raise UsageError(f"{path}: INHERIT: {name} inherits from this case itself")
    inherited = _read(base, root, (path, *heirs))
    inherited.pop(quarantine.KEY, None)  # it is of that case alone
    return _merged(inherited, content)


def _golden_case(path: Path, content: Mapping[str, object], root: Path) -> str:
    name = content.get("GOLDEN_CARD") or path.parent.name
    if "GOLDEN_CARD" in content and name not in list_cases(root):
        hint = schema.did_you_mean(str(name), list_cases(root))
        raise UsageError(f"{path}: GOLDEN_CARD: there is no case {name!r}. {hint}")
    return str(name)


def last_iteration(model_args: Mapping[str, object]) -> int:
    """Where a phase with these flags ends."""
    train_iters, exit_interval = int(model_args["--train-iters"]), model_args.get("--exit-interval")
    return min(train_iters, int(exit_interval)) if exit_interval else train_iters


def _merged(base: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """``own`` over ``base``, mappings entry by entry."""
    merged = dict(base)
    for key, value in own.items():
        inherited = merged.get(key)
        both = isinstance(inherited, dict) and isinstance(value, dict)
        merged[key] = _merged(inherited, value) if both else value
    return merged


def _laid_over(content: Mapping[str, object], platform_name: str) -> tuple[dict[str, object], dict[str, str]]:
    """The base under the overlays that match the platform: patterns (``gpu1_*``) first, its own name last."""
    platforms = content.get("PLATFORMS") or {}
    matching = [key for key in platforms if fnmatch.fnmatchcase(platform_name, key)]
    layers = [content, *(platforms[key] for key in sorted(matching, key=lambda key: key == platform_name))]
    model_args: dict[str, object] = {}
    env_vars: dict[str, object] = {}
    for layer in layers:
        model_args.update(layer.get("MODEL_ARGS") or {})
        env_vars.update(layer.get("ENV_VARS") or {})
    return model_args, {name: str(value) for name, value in env_vars.items() if value is not None}


def _restart(content: Mapping[str, object]) -> Restart | None:
    entry = content.get("RESTART")
    if not entry:
        return None
    return Restart(model_args=dict(entry.get("MODEL_ARGS") or {}), ranks=entry.get("RANKS"))


def _digest(model_args: Mapping[str, object], env_vars: Mapping[str, str]) -> str:
    influential = {
        flag: value
        for flag, value in model_args.items()
        if flag not in FLAGS_WITHOUT_INFLUENCE and value is not None and value is not False
    }
    content = json.dumps({"model_args": influential, "env_vars": dict(env_vars)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _errors(path: Path, errors: list[str]) -> UsageError:
    if len(errors) == 1:
        return UsageError(f"{path}: {errors[0]}")
    return UsageError("\n  ".join([f"{path}: {len(errors)} errors:", *errors]))


def _texts(value: object) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _put_in(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [_put_in(item, names) for item in value]
    if isinstance(value, str):
        return _NAME_IN_VALUE.sub(lambda match: names[match.group(1)], value)
    return value


def _word(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)

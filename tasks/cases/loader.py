"""Find and load a case: its file over its base's, the overlays of a platform, and all checks."""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks.cases import flag_rules, flags, megatron_lm_case, overlays, quarantine, schema, yaml_reader
from tasks.cases.case import Case, Corpus, Kill, Restart, digest_of
from tasks.cases.names import CASE_FILE, case_names, file_of
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY
from tasks.util.suggestions import did_you_mean


def golden_case(name: str, root: Path = REPOSITORY) -> str:
    """The case whose golden cards case ``name`` uses.

    Raises:
        UsageError: there is no such case, or its GOLDEN_CARD names none.
    """
    return _golden_case(_find(name, root), read_content(name, root), root)


def read_content(name: str, root: Path = REPOSITORY) -> dict[str, object]:
    """The content of a case's file, merged over its base's; values are not checked.

    Raises:
        UsageError: there is no such case, or a file cannot be read.
    """
    return merged(_chain(_find(name, root), root))


def load_case(
    name_or_path: str | Path,
    *,
    platform_name: str,
    root: Path = REPOSITORY,
    overrides: Mapping[str, str] | None = None,
    world_size: int = 8,
) -> Case:
    """Read a case, apply its platform's entries and the overrides, and check the result.

    Raises:
        UsageError: there is no such case, or its file has errors; one message has them all.
    """
    path = _find(name_or_path, root)
    chain = _chain(path, root)
    content = merged(chain)
    _refuse(path, _shape_errors(content))
    given = read_overrides(overrides or {})
    case = _case(
        path,
        content,
        platform_name,
        given,
        world_size=world_size,
        golden_case=_golden_case(path, content, root),
        overridden=overlays.overridden(chain, content, platform_name, given=given),
    )
    _check_flags(case, content, platform_name, given)
    return case


def load_upstream_case(
    path: Path,
    *,
    platform_name: str,
    overrides: Mapping[str, str] | None = None,
    world_size: int = 8,
    ours: bool = True,
) -> Case:
    """Load a case file of Megatron-LM's functional tests; on a CPU with the flags that a CPU needs.

    ``ours``: translate the flags for our training program and check its rules.

    Raises:
        UsageError: the file has errors; one message has them all.
    """
    path = path / CASE_FILE if path.is_dir() else path
    content = megatron_lm_case.read(path).content
    if ours:
        content["MODEL_ARGS"] = megatron_lm_case.for_our_trainer(content["MODEL_ARGS"])
    _refuse(path, _shape_errors(content))
    given = read_overrides(overrides or {})
    case = _case(path, content, platform_name, given, world_size=world_size, golden_case=path.parent.name)
    if ours:
        _check_flags(case, content, platform_name, given)
    else:
        _refuse(path, flags.broken_divisors(case.model_args))
    return case


def read_overrides(overrides: Mapping[str, str]) -> dict[str, object]:
    """``{"train-iters": "20"}`` as ``{"--train-iters": 20}``; leading dashes are optional."""
    read: dict[str, object] = {}
    for name, text in overrides.items():
        flag = "--" + name.lstrip("-")
        if not schema.FLAG.fullmatch(flag):
            raise UsageError(f"--set {name}={text}: {flag} is no flag; for example: --set train-iters=20")
        read[flag] = yaml_reader.scalar(text)
    return read


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """The values of ``--set``, such as ``["train-iters=20"]``, as a mapping. A flag alone means true."""
    parsed: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name.strip("-"):
            raise UsageError(f"--set {setting}: no flag before '='; for example: --set train-iters=20")
        parsed[name] = value if equals else "true"
    return parsed


def _case(
    path: Path, content: Mapping[str, object], platform_name: str, given: Mapping[str, object], **more: object
) -> Case:
    """The case from a file's content of checked shape; ``given``: flags of the command line."""
    model_args, env_vars = overlays.laid_over(content, platform_name)
    model_args.update(given)
    corpus, restart, kills = content.get("CORPUS"), content.get("RESTART"), content.get("CRASH") or []
    changed = dict(restart.get("MODEL_ARGS") or {}) if restart else {}
    return Case(
        name=path.parent.name,
        path=path,
        env_vars=env_vars,
        model_args=model_args,
        test_type=str(content.get("TEST_TYPE", "regular")),
        metrics=tuple(content["METRICS"]),
        corpus=Corpus(**corpus) if corpus else None,
        digest=digest_of(model_args, env_vars),
        restart=Restart(model_args=changed, ranks=restart.get("RANKS")) if restart else None,
        checkpoint=content.get("CHECKPOINT"),
        kills=tuple(Kill(after_step=kill["after_step"], ranks=tuple(kill["ranks"])) for kill in kills),
        **more,
    )


def _shape_errors(content: Mapping[str, object]) -> list[str]:
    errors = schema.check_shape(content)
    if quarantine.KEY in content:
        errors += quarantine.faults(content[quarantine.KEY], datetime.date.today())
    return errors


def _check_flags(
    case: Case, content: Mapping[str, object], platform_name: str, given: Mapping[str, object]
) -> None:
    """Check value ranges on all platforms, then the rules on this one.

    Raises:
        UsageError: values out of range, or broken rules.
    """
    _refuse(case.path, schema.check_values(content) + schema.check_flags(given, where=""))
    _refuse(case.path, [f"{error} (on {platform_name})" for error in _broken_rules(case, platform_name)])


def _broken_rules(case: Case, platform_name: str) -> list[str]:
    errors = [
        *case.parsed.broken,
        *flag_rules.check_resume(case.model_args, case.test_type),
        *flag_rules.check_data(case.model_args, case.corpus),
    ]
    if case.restart and not errors:
        restarted = case.restarted()
        if restarted.world_size > case.world_size:
            return [f"RESTART.RANKS: {restarted.world_size} ranks, {platform_name} has {case.world_size}"]
        resume = flag_rules.check_resume(restarted.model_args, case.test_type)
        errors = [f"RESTART: {error}" for error in (*restarted.parsed.broken, *resume)]
    if case.kills and not errors:
        last, interval = case.last_iteration(), int(case.model_args["--save-interval"])
        errors = schema.check_kills(case.kills, last=last, interval=interval, ranks=case.world_size)
    return errors


def _refuse(path: Path, errors: Sequence[str]) -> None:
    if len(errors) == 1:
        raise UsageError(f"{path}: {errors[0]}")
    if errors:
        raise UsageError("\n  ".join([f"{path}: {len(errors)} errors:", *errors]))


def _find(name_or_path: str | Path, root: Path) -> Path:
    text = str(name_or_path)
    given = Path(text)
    candidates = [file_of(text, root)] if os.sep not in text else []
    if os.sep in text or given.suffix in {".yaml", ".yml"}:
        candidates += [given / CASE_FILE if given.is_dir() else given]
    for candidate in candidates:
        if os.path.lexists(candidate):
            return candidate
    raise UsageError(f"there is no case {text!r}. {did_you_mean(text, case_names(root), listed='Cases')}")


def _chain(path: Path, root: Path) -> list[tuple[str, dict[str, object]]]:
    """Name and own content of a case and of its bases, the case first."""
    chain: list[tuple[str, dict[str, object]]] = []
    seen: list[Path] = []
    while True:
        content = yaml_reader.read_mapping(path)
        if seen:
            content.pop(quarantine.KEY, None)  # not inherited
        seen.append(path)
        chain.append((path.parent.name, content))
        if "INHERIT" not in content:
            return chain
        name = _existing_case(path, "INHERIT", content.pop("INHERIT"), root)
        base = file_of(name, root)
        if base in seen:
            raise UsageError(f"{path}: INHERIT: {name} inherits from this case itself")
        path = base


def _golden_case(path: Path, content: Mapping[str, object], root: Path) -> str:
    if "GOLDEN_CARD" not in content:
        return path.parent.name
    return _existing_case(path, "GOLDEN_CARD", content["GOLDEN_CARD"] or path.parent.name, root)


def _existing_case(path: Path, key: str, name: object, root: Path) -> str:
    known = case_names(root)
    if name not in known:
        raise UsageError(f"{path}: {key}: there is no case {name!r}. {did_you_mean(str(name), known)}")
    return str(name)


def merged(chain: Sequence[tuple[str, dict[str, object]]]) -> dict[str, object]:
    """The content of a case merged over its bases'."""
    return functools.reduce(_over, [content for _, content in reversed(chain)])


def _over(base: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """``own`` over ``base``; mappings are merged entry by entry."""
    merged = dict(base)
    for key, value in own.items():
        inherited = merged.get(key)
        both = isinstance(inherited, dict) and isinstance(value, dict)
        merged[key] = _over(inherited, value) if both else value
    return merged

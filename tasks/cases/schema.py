"""Rules for the keys and single values of a case file; rules between flags are in ``flag_rules``.

Each check returns all its errors, as lines that name the field and the rule.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from tasks.cases import flags, overlays
from tasks.cases.case import Kill
from tasks.cases.metrics import METRICS
from tasks.util.suggestions import did_you_mean

TEST_TYPES = ("regular", "ckpt-resume", "crash-resume", "frozen-resume")
FLAG = re.compile(r"--[a-z0-9][a-z0-9_-]*")

_KEYS = (*overlays.KEYS, "TEST_TYPE", "METRICS", "CORPUS", "CRASH", "RESTART", "CHECKPOINT")
_KEYS += ("GOLDEN_CARD", "PLATFORMS", "QUARANTINE")
_KILL_KEYS = ("after_step", "ranks")
_RESTART_KEYS = ("MODEL_ARGS", "RANKS")
_CORPUS_KEYS = ("package", "version", "suffix", "sha256")
_ENVIRONMENT_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLATFORM = re.compile(r"(?:cpu|gpu[1248]|dgx)_[a-z0-9_*?]+")
_RANK = flags.Number(whole=True, least=0)
_CPU_PLATFORMS = ("cpu_x86_64", "cpu_aarch64")


def check_shape(content: Mapping[str, object]) -> list[str]:
    """Errors in keys and types of a whole file, to be checked before anything else."""
    known = ("INHERIT", *_KEYS)  # the loader removes INHERIT
    errors = [f"{key}: unknown key. {did_you_mean(key, known)}" for key in content if key not in _KEYS]
    if "MODEL_ARGS" not in content:
        errors.append("MODEL_ARGS: is missing; it holds Megatron's flags")
    errors += _check_layer(content, where="")
    test_type = content.get("TEST_TYPE")
    if test_type not in TEST_TYPES:
        why = "is missing." if test_type is None else f"{test_type!r} is none."
        errors.append(f"TEST_TYPE: {why} {did_you_mean(str(test_type), TEST_TYPES)}")
    errors += _check_metrics(content.get("METRICS"))
    if content.get("CORPUS") is not None:
        errors += _check_corpus(content["CORPUS"])
    errors += _check_crash(content)
    if "GOLDEN_CARD" in content and not (isinstance(content["GOLDEN_CARD"], str) and content["GOLDEN_CARD"]):
        errors.append("GOLDEN_CARD: must be the name of the case whose golden cards this one uses")
    errors += _check_platforms(content.get("PLATFORMS"))
    errors += _check_checkpoint(content.get("CHECKPOINT"), test_type)
    if content.get("RESTART") is not None:
        errors += _check_restart(content["RESTART"], test_type)
    return errors


def check_values(content: Mapping[str, object]) -> list[str]:
    """Errors in types and ranges of all flags, overridden ones included; the shape must be checked."""
    platforms = content.get("PLATFORMS") or {}
    layers = {"": content, **{f"PLATFORMS.{name}.": layer for name, layer in platforms.items()}}
    layers["RESTART."] = content.get("RESTART") or {}
    return [
        error
        for where, layer in layers.items()
        for error in check_flags(layer.get("MODEL_ARGS") or {}, where=f"{where}MODEL_ARGS.")
    ]


def check_flags(model_args: Mapping[str, object], *, where: str) -> list[str]:
    """Errors in types and ranges of flags."""
    found = ((flag, flags.value_error(flag, value)) for flag, value in model_args.items())
    return [f"{where}{flag}: {error}" for flag, error in found if error]


def _unknown_keys(where: str, entry: Mapping[str, object], known: Iterable[str]) -> list[str]:
    return [f"{where}{key}: unknown key. {did_you_mean(key, known)}" for key in entry if key not in known]


def _check_layer(layer: Mapping[str, object], *, where: str) -> list[str]:
    errors = []
    for key, names, check in (("MODEL_ARGS", "flags", _check_flag), ("ENV_VARS", "names", _check_variable)):
        entries = {} if layer.get(key) is None else layer[key]
        if not isinstance(entries, dict):
            errors.append(f"{where}{key}: must be a mapping of {names} to values")
            continue
        errors += [error for entry in entries.items() for error in check(*entry, where=where)]
    return errors


def _check_flag(flag: str, value: object, *, where: str) -> list[str]:
    field = f"{where}MODEL_ARGS.{flag}"
    if not FLAG.fullmatch(flag):
        meant = f"--{flag.lstrip('-').lower()}"
        return [f"{field}: a flag is two dashes and lower-case words. Did you mean {meant}?"]
    if value == []:
        return [f"{field}: an empty list is no value: null removes the flag"]
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) or (item is None and isinstance(value, list)) for item in items):
        return [f"{field}: must be a number, text, true, false, null, or a list of these"]
    return [f"{field}: {error}" for item in items if (error := _broken_name(item))]


def _check_variable(name: str, value: object, *, where: str) -> list[str]:
    field = f"{where}ENV_VARS.{name}"
    if not _ENVIRONMENT_VARIABLE.fullmatch(name):
        return [f"{field}: is no name of an environment variable"]
    if isinstance(value, bool):
        return [f'{field}: {str(value).lower()} is ambiguous here: write "1", "0" or the word in quotes']
    if isinstance(value, float):
        return [f"{field}: {value} is a number, but a variable is text: put it in quotes"]
    if isinstance(value, (dict, list)):
        return [f"{field}: must be one whole number or text"]
    return [f"{field}: {error}"] if (error := _broken_name(value)) else []


def _broken_name(value: object) -> str | None:
    """The error for a ``${`` that is not ``${NAME}``, or None."""
    if isinstance(value, str) and "${" in re.sub(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", "", value):
        return f"{value!r} has a '${{' that is no ${{NAME}}; no other shell syntax is evaluated"
    return None


def _check_metrics(metrics: object) -> list[str]:
    if not isinstance(metrics, list) or not metrics:
        return [f"METRICS: must be a list of the metrics to compare. Known: {', '.join(METRICS)}."]
    unknown = [name for name in metrics if name not in METRICS]
    errors = [f"METRICS: {name!r} is unknown. {did_you_mean(str(name), METRICS)}" for name in unknown]
    repeated = sorted({str(name) for name in metrics if metrics.count(name) > 1})
    return errors + [f"METRICS: {name!r} is listed more than once" for name in repeated]


def _check_corpus(corpus: object) -> list[str]:
    if not isinstance(corpus, dict):
        return [f"CORPUS: must be a mapping of {', '.join(_CORPUS_KEYS)}"]
    errors = _unknown_keys("CORPUS.", corpus, _CORPUS_KEYS)
    for key in _CORPUS_KEYS:
        if key not in corpus:
            errors.append(f"CORPUS.{key}: is missing")
        elif not isinstance(corpus[key], str):
            errors.append(f"CORPUS.{key}: {corpus[key]!r} must be text: put it in quotes")
    digest = corpus.get("sha256")
    if isinstance(digest, str) and not re.fullmatch(r"[0-9a-f]{64}", digest):
        errors.append("CORPUS.sha256: must be 64 hexadecimal digits, in lower case")
    return errors


def _check_crash(content: Mapping[str, object]) -> list[str]:
    kills, crashes = content.get("CRASH"), content.get("TEST_TYPE") == "crash-resume"
    if kills is None:
        return ["CRASH: is missing; it lists the ranks that TEST_TYPE crash-resume kills"] if crashes else []
    if not crashes:
        return ["CRASH: only with TEST_TYPE crash-resume; nothing is killed otherwise"]
    if not isinstance(kills, list) or not kills:
        return ["CRASH: must be a list of kills, for example [{after_step: 73, ranks: [2]}]"]
    return [error for index, kill in enumerate(kills) for error in _check_kill(f"CRASH[{index}]", kill)]


def _check_kill(field: str, kill: object) -> list[str]:
    if not isinstance(kill, dict) or set(kill) != set(_KILL_KEYS):
        return [f"{field}: must be a mapping of {' and '.join(_KILL_KEYS)}"]
    errors = []
    if not flags.COUNT.contains(kill["after_step"]):
        errors.append(f"{field}.after_step: {kill['after_step']!r} must be {flags.COUNT}")
    ranks = kill["ranks"]
    whole = isinstance(ranks, list) and all(_RANK.contains(rank) for rank in ranks)
    if not whole or not ranks or len(set(ranks)) != len(ranks):
        errors.append(f"{field}.ranks: {ranks!r} must be a list of different ranks, the first is 0")
    return errors


def _check_platforms(platforms: object) -> list[str]:
    if platforms is None:
        return []
    if not isinstance(platforms, dict):
        return ["PLATFORMS: must be a mapping of platform names to their MODEL_ARGS and ENV_VARS"]
    errors = []
    for name, layer in platforms.items():
        no_cpu = name.startswith("cpu_") and not fnmatch.filter(_CPU_PLATFORMS, name)
        if no_cpu or not _PLATFORM.fullmatch(name):
            known = "cpu_x86_64, gpu1_h100, gpu1_*, dgx_a100"
            errors.append(f"PLATFORMS.{name}: is no platform; names look like {known}")
        if not isinstance(layer, dict):
            errors.append(f"PLATFORMS.{name}: must be a mapping of {' and '.join(overlays.KEYS)}")
            continue
        errors += _unknown_keys(f"PLATFORMS.{name}.", layer, overlays.KEYS)
        errors += _check_layer(layer, where=f"PLATFORMS.{name}.")
    return errors


def _check_checkpoint(checkpoint: object, test_type: object) -> list[str]:
    if test_type != "frozen-resume":
        return [] if checkpoint is None else [f"CHECKPOINT: only of TEST_TYPE frozen-resume, not {test_type}"]
    if not isinstance(checkpoint, str) or not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", checkpoint):
        return [
            "CHECKPOINT: must be a folder below the repository that holds the checkpoint to continue from"
        ]
    return []


def _check_restart(restart: object, test_type: object) -> list[str]:
    if not isinstance(restart, dict):
        return [f"RESTART: must be a mapping of {' and '.join(_RESTART_KEYS)}"]
    errors = _unknown_keys("RESTART.", restart, _RESTART_KEYS)
    ranks = restart.get("RANKS")
    if ranks is not None and not flags.COUNT.contains(ranks):
        errors.append(f"RESTART.RANKS: {ranks!r} must be {flags.COUNT}")
    if test_type != "ckpt-resume":
        errors.append(f"RESTART: TEST_TYPE {test_type} has no restart in other processes; see ckpt-resume")
    return errors + _check_layer({"MODEL_ARGS": restart.get("MODEL_ARGS")}, where="RESTART.")


def check_kills(kills: Iterable[Kill], *, last: int, interval: int, ranks: int) -> list[str]:
    """Errors in ``CRASH`` for a run of ``ranks`` ranks to iteration ``last``, saved every ``interval``."""
    errors = []
    for index, kill in enumerate(kills):
        if not interval < kill.after_step < last:
            errors.append(
                f"CRASH[{index}].after_step: {kill.after_step} must be above {interval} (--save-interval),"
                f" below {last}, its last step: a checkpoint to restart from, a step left to train"
            )
        if max(kill.ranks) >= ranks:
            errors.append(f"CRASH[{index}].ranks: there is no rank {max(kill.ranks)}; the run has {ranks}")
    return errors

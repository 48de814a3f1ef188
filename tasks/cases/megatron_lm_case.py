"""Read a case file of Megatron-LM's functional tests, which has other keys and test types than ours.

Source of keys and meanings: Megatron-LM, ``tests/functional_tests/shell_test_utils`` (August 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.cases import yaml_reader
from tasks.cases.metrics import METRICS
from tasks.util.exits import UsageError
from tasks.util.files import mapping
from tasks.util.suggestions import did_you_mean

# Flags that a CPU needs; a case of ours has them in its PLATFORMS.
CPU_FLAGS = {
    "--transformer-impl": "local",
    "--no-persist-layer-norm": True,
    "--no-masked-softmax-fusion": True,
    "--distributed-backend": "gloo",
    "--disable-gloo-process-groups": True,
}
DEFAULT_METRICS = ("lm loss", "num-zeros")  # Megatron-LM's, for a file without METRICS
GPT2_TOKENS = 50256  # without the end-of-document token
RESUMING = ("ckpt-resume",)
TRAINED = ("regular", "release", *RESUMING)
FROZEN = ("frozen-start", "frozen-resume")  # begin with a checkpoint that only NVIDIA's test machines have
IGNORED_KEYS = ("LAUNCHER", "NOTES", "N_REPEAT")  # for Megatron-LM's test scripts, not its training program


@dataclass(frozen=True, kw_only=True)
class UpstreamCase:
    """``content``: in the form of our case files. ``mode``: pretraining, inference or rl. ``remarks``: a line
    for each ignored entry of the file."""

    path: Path
    content: dict[str, object]
    mode: str
    test_type: str
    remarks: tuple[str, ...]


def read(path: Path) -> UpstreamCase:
    """Read a case file of Megatron-LM.

    Raises:
        UsageError: the file cannot be read, is no YAML, or has no MODEL_ARGS.
    """
    file, repeated = _read_as_they_do(path)
    model_args = file.get("MODEL_ARGS")
    if not isinstance(model_args, dict):
        raise UsageError(f"{path}: MODEL_ARGS: is missing, or is no mapping of flags to values")
    if not isinstance(file.get("METRICS", []), list | None):
        raise UsageError(f"{path}: METRICS: must be a list of names")
    mode, test_type = str(file.get("MODE") or "pretraining"), str(file.get("TEST_TYPE") or "regular")
    metrics, unknown = _metrics(file.get("METRICS"))
    known = ("MODEL_ARGS", "ENV_VARS", "TEST_TYPE", "METRICS", "MODE", *IGNORED_KEYS)
    remarks = [repeated] if repeated else []
    remarks += [f"{key}: not done here" for key in file if key not in known]
    remarks += [f"METRICS: {name!r} is not measured here" for name in unknown]
    variables = mapping(file.get("ENV_VARS")).items()
    content = {
        "MODEL_ARGS": {flag: _plain(value) for flag, value in model_args.items()},
        "ENV_VARS": {name: _variable(value) for name, value in variables if value is not None},
        "TEST_TYPE": test_type if test_type in RESUMING else "regular",
        "METRICS": metrics,
        "PLATFORMS": {"cpu_*": {"MODEL_ARGS": CPU_FLAGS}},
    }
    return UpstreamCase(path=path, content=content, mode=mode, test_type=test_type, remarks=tuple(remarks))


def refuse_other_types(upstream: UpstreamCase) -> None:
    """Refuse test types that cannot be run here.

    Raises:
        UsageError: the type cannot be run here.
    """
    if upstream.test_type in FROZEN:
        raise UsageError(
            f"{upstream.path}: TEST_TYPE {upstream.test_type} begins with a checkpoint that only NVIDIA's"
            " machines have: run a copy of type regular, from its beginning"
        )
    if upstream.test_type not in TRAINED:
        hint = did_you_mean(upstream.test_type, TRAINED)
        raise UsageError(f"{upstream.path}: TEST_TYPE: {upstream.test_type!r} is not run here. {hint}")


def for_our_trainer(model_args: Mapping[str, object]) -> dict[str, object]:
    """The flags for our training program, with the same meaning.

    It does not tokenize, so only a tokenizer's vocabulary size counts, and it always checks strictly that a
    checkpoint is complete.
    """
    flags = dict(model_args)
    if flags.get("--tokenizer-type", "GPT2BPETokenizer") == "GPT2BPETokenizer" and "--vocab-file" in flags:
        flags.pop("--vocab-file")
        flags.pop("--merge-file", None)
        flags |= {"--tokenizer-type": "NullTokenizer", "--vocab-size": GPT2_TOKENS}
    if "--dist-ckpt-strictness" in flags:
        flags["--dist-ckpt-strictness"] = "raise_all"
    return flags


class _LastOneHolds(yaml_reader.StrictLoader):
    """The last value of a repeated key holds, as for Megatron-LM's reader."""


_LastOneHolds.add_constructor("tag:yaml.org,2002:map", yaml.SafeLoader.construct_yaml_map)


def _read_as_they_do(path: Path) -> tuple[dict[str, object], str]:
    """The content, and the error that our own reader reports, or an empty text."""
    try:
        return yaml_reader.read_mapping(path), ""
    except UsageError as error:
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LastOneHolds)
        except (OSError, ValueError, yaml.YAMLError):
            raise error from None
        if not isinstance(content, dict):
            raise
        return content, f"{str(error).removeprefix(str(path)).lstrip(', :')} (the last one holds)"


def _metrics(listed: object) -> tuple[list[str], list[str]]:
    """The listed metrics that are measured here (Megatron-LM's default, when none is), and the others."""
    names = [str(name) for name in listed] if isinstance(listed, list) else list(DEFAULT_METRICS)
    judged = [name for name in dict.fromkeys(names) if name in METRICS]
    return judged or list(DEFAULT_METRICS), [name for name in names if name not in METRICS]


def _plain(value: object) -> object:
    """A flag's value; text with blanks as a list, since Megatron-LM's shell splits it."""
    return value.split() if isinstance(value, str) and " " in value.strip() else value


def _variable(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

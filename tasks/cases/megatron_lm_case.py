"""A case file of Megatron-LM's functional tests, read as it is: other keys, other test types, no METRICS.

Source of the keys and their meaning: Megatron-LM, ``tests/functional_tests/shell_test_utils`` (August 2026).
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

# What a CPU needs of any case; a case of ours says the same in its PLATFORMS.
CPU_FLAGS = {
    "--transformer-impl": "local",
    "--no-persist-layer-norm": True,
    "--no-masked-softmax-fusion": True,
    "--distributed-backend": "gloo",
    "--disable-gloo-process-groups": True,
}
DEFAULT_METRICS = ("lm loss", "num-zeros")  # what Megatron-LM compares where a file names nothing
GPT2_WORDS = 50256  # of its vocabulary, without the token that ends a document
RESUMING = ("ckpt-resume",)
TRAINED = ("regular", "release", *RESUMING)
# They begin with a checkpoint that was made beforehand, and of which only NVIDIA's test machines have a copy.
FROZEN = ("frozen-start", "frozen-resume")
# A phase of such a test is told what these say, not Megatron-LM; nothing here depends on them.
IGNORED_KEYS = ("LAUNCHER", "NOTES", "N_REPEAT")


@dataclass(frozen=True, kw_only=True)
class UpstreamCase:
    """``content``: in the form of our case files. ``mode``: pretraining, inference, rl. ``remarks``: what of
    the file has no meaning here, a line each."""

    path: Path
    content: dict[str, object]
    mode: str
    test_type: str
    remarks: tuple[str, ...]


def read(path: Path) -> UpstreamCase:
    """Read a case file of Megatron-LM.

    Raises:
        UsageError: it cannot be read, is no YAML, or has no MODEL_ARGS.
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
    content = {
        "MODEL_ARGS": {flag: _plain(value) for flag, value in model_args.items()},
        "ENV_VARS": {
            name: _variable(value)
            for name, value in mapping(file.get("ENV_VARS")).items()
            if value is not None
        },
        "TEST_TYPE": test_type if test_type in RESUMING else "regular",
        "METRICS": metrics,
        "PLATFORMS": {"cpu_*": {"MODEL_ARGS": CPU_FLAGS}},
    }
    return UpstreamCase(path=path, content=content, mode=mode, test_type=test_type, remarks=tuple(remarks))


def refuse_other_types(upstream: UpstreamCase) -> None:
    """Refuse types that would be trained here as another one.

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
    """The flags as our training program understands them, with the same meaning.

    It tokenizes nothing: of a tokenizer only the size of its vocabulary counts. And it is never less strict
    about what a checkpoint holds.
    """
    flags = dict(model_args)
    if flags.get("--tokenizer-type", "GPT2BPETokenizer") == "GPT2BPETokenizer" and "--vocab-file" in flags:
        flags.pop("--vocab-file")
        flags.pop("--merge-file", None)
        flags |= {"--tokenizer-type": "NullTokenizer", "--vocab-size": GPT2_WORDS}
    if "--dist-ckpt-strictness" in flags:
        flags["--dist-ckpt-strictness"] = "raise_all"
    return flags


class _LastOneHolds(yaml_reader.StrictLoader):
    """Of a key that stands twice the last value holds, as for Megatron-LM's reader."""


_LastOneHolds.add_constructor("tag:yaml.org,2002:map", yaml.SafeLoader.construct_yaml_map)


def _read_as_they_do(path: Path) -> tuple[dict[str, object], str]:
    """The content, and what our own reader would refuse, or an empty text."""
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
    """Those that are judged here (Megatron-LM's default, when none is), and the others."""
    names = [str(name) for name in listed] if isinstance(listed, list) else list(DEFAULT_METRICS)
    judged = [name for name in dict.fromkeys(names) if name in METRICS]
    return judged or list(DEFAULT_METRICS), [name for name in names if name not in METRICS]


def _plain(value: object) -> object:
    """A flag's value as a number, text, or a list of these. Their shell splits text at blanks."""
    if isinstance(value, str) and " " in value.strip():
        return value.split()
    return value


def _variable(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

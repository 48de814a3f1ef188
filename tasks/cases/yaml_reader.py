"""A strict YAML reader: duplicate keys are errors, and scalars have the types of YAML 1.2."""

from __future__ import annotations

import copy
import functools
import math
import re
from pathlib import Path
from typing import ClassVar

import yaml

from tasks.util.exits import UsageError


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader with the scalars of YAML 1.2's core schema.

    YAML 1.1 reads ``1e-2`` as text, ``on`` as true and ``1:30`` as ninety.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}


def _resolve(tag: str, pattern: str, first_characters: str) -> None:
    StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first_characters)
    )


_resolve("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("null", r"^(?:~|null|Null|NULL|)$", "~nN\0")
StrictLoader.yaml_implicit_resolvers.setdefault("", list(StrictLoader.yaml_implicit_resolvers["\0"]))
_resolve("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789")
_resolve(
    "float",
    r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$",
    "-+.0123456789",
)
_resolve("merge", r"^<<$", "<")


def _error(message: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict:
    first_lines: dict[object, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise _error(f"the key {key!r} is not text: put it in quotes", key_node)
        if key in first_lines:
            raise _error(f"the key {key} stands here and on line {first_lines[key]}: keep one", key_node)
        first_lines[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_READERS = {"int": int, "float": float, "bool": lambda text: {"true": True, "false": False}[text.lower()]}


def _plain(loader: StrictLoader, node: yaml.ScalarNode) -> object:
    """Convert a scalar.

    Raises:
        ConstructorError: text of another kind, or a number that is too large.
    """
    text, kind = loader.construct_scalar(node), node.tag.rpartition(":")[2]
    try:
        value = _READERS[kind](text)
        if abs(value) < (math.inf if kind == "float" else 2**63):
            return value
    except (ValueError, KeyError):
        pass
    raise _error(f"{text[:40]!r} is no usable {kind}", node)


def _refused(_: StrictLoader, node: yaml.Node) -> object:
    raise _error(f"{node.tag}: values are numbers, text, true, false, null and lists", node)


StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
for _kind_of_value in _READERS:
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind_of_value}", _plain)
for _kind_of_value in ("timestamp", "binary", "set", "omap", "pairs"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind_of_value}", _refused)


def scalar(text: str) -> object:
    """A single value, read as in a file: ``"20"`` is 20, ``"true"`` is True, most else is text."""
    try:
        value = yaml.load(text, Loader=StrictLoader)
    except (yaml.YAMLError, RecursionError):
        return text
    return text if isinstance(value, (dict, list)) else value


@functools.lru_cache(maxsize=64)  # each heir reads the file of its base: 6 ms
def _parsed(text: str) -> object:
    return yaml.load(text, Loader=StrictLoader)


def read_mapping(path: Path) -> dict[str, object]:
    """Read a file that holds a mapping.

    Raises:
        UsageError: the file cannot be read, is no YAML, has a duplicate key, or holds no mapping.
    """
    try:
        content = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is no YAML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: lists or mappings are nested too deeply") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        found = {"NoneType": "nothing", "list": "a list", "str": "text"}.get(kind, f"one {kind}")
        raise UsageError(f"{path}: holds {found} where a mapping with MODEL_ARGS is expected")
    return content

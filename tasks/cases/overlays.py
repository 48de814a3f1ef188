"""Overlays: entries of ``PLATFORMS`` that override a case's flags and variables on one platform."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.util.files import mapping

KEYS = ("MODEL_ARGS", "ENV_VARS")
Content = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """A value of a case without effect, overridden by an inherited entry of ``PLATFORMS``."""

    name: str  # a flag, or an environment variable
    value: object
    stated_in: str
    effective: object
    effective_in: str

    def __str__(self) -> str:
        value, instead = json.dumps(self.value), json.dumps(self.effective)
        return f"{self.name}: {value} of {self.stated_in} has no effect: {self.effective_in} sets {instead}"


def laid_over(content: Content, platform_name: str) -> tuple[dict[str, object], dict[str, str]]:
    """Flags and environment variables of a case on a platform."""
    model_args: dict[str, object] = {}
    env_vars: dict[str, object] = {}
    for _, layer in _layers(content, platform_name):
        model_args.update(layer.get("MODEL_ARGS") or {})
        env_vars.update(layer.get("ENV_VARS") or {})
    return model_args, {name: str(value) for name, value in env_vars.items() if value is not None}


def overridden(
    chain: Sequence[tuple[str, Content]], content: Content, platform_name: str, *, given: Collection[str]
) -> tuple[Overridden, ...]:
    """Overridden values of a case and its bases on a platform.

    ``chain``: name and own content of the case and of its bases, the case first; ``content``: all of them
    merged; ``given``: flags of the command line, which no entry overrides.
    """
    found = []
    for key in KEYS:
        statements: dict[str, list[tuple[int, str, object]]] = {}
        for name, *statement in _statements(chain, content, platform_name, key):
            statements.setdefault(name, []).append(tuple(statement))
        for name, (*earlier, (base, effective_in, effective)) in statements.items():
            found += [
                Overridden(
                    name=name, value=value, stated_in=where, effective=effective, effective_in=effective_in
                )
                for heir, where, value in earlier
                if heir < base and value != effective and name not in given
            ]
    return tuple(found)


def _layers(content: Content, platform_name: str) -> list[tuple[str, Content]]:
    """The case's own values, then the overlays for the platform: patterns (``gpu1_*``), its name last."""
    platforms = content.get("PLATFORMS") or {}
    matching = [name for name in platforms if fnmatch.fnmatchcase(platform_name, name)]
    ordered = sorted(matching, key=lambda name: name == platform_name)
    return [("", content), *((name, platforms[name]) for name in ordered)]


def _statements(
    chain: Sequence[tuple[str, Content]], content: Content, platform_name: str, key: str
) -> Iterator[tuple[str, int, str, object]]:
    """Name, place in the chain, section and value of each entry, the weakest layer first."""
    for platform, layer in _layers(content, platform_name):
        for name, value in (layer.get(key) or {}).items():
            place = next(i for i, (_, own) in enumerate(chain) if name in _stated(own, platform, key))
            case = chain[place][0]
            yield name, place, f"{case}, PLATFORMS.{platform}" if platform else case, value


def _stated(own: Content, platform: str, key: str) -> Content:
    layer = mapping(mapping(own.get("PLATFORMS")).get(platform)) if platform else own
    return mapping(layer.get(key))

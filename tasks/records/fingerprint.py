"""The fingerprint: facts that a result depends on, recorded with every run and card, and compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.cases.case import Case
from tasks.machine.platforms import (
    Platform,
    detect,
    environment,
    git_commit,
    installed_version,
    python_version,
    read_processor,
)

FINGERPRINT_PACKAGES = (
    "megatron-core",
    "numpy",
    "torch",
    "transformer-engine",
    "nvidia-cudnn-cu13",
    "nvidia-nccl-cu13",
)


def fingerprint(case: Case, corpus_sha256: str, *, platform: Platform | None = None) -> dict[str, str]:
    """Facts that a result depends on, for a run and for its golden card."""
    platform = platform or detect()
    facts = {
        "environment": environment(),
        "platform": platform.name,
        "python": python_version(),
        **{package: version for package in FINGERPRINT_PACKAGES if (version := installed_version(package))},
        "cpu": read_processor().model,
        "case": case.digest,
        "corpus": corpus_sha256,
        "commit": git_commit(),
    }
    if platform.gpus:
        facts["gpu"] = f"{len(platform.gpus)} x {platform.gpus[0].name}"
        facts["driver"] = platform.gpus[0].driver
        facts["ranks per gpu"] = str(platform.ranks_per_gpu)
        from tasks.machine import cudnn, nccl

        facts["nccl"] = nccl.text(nccl.version(nccl.library()))
        if (home := cudnn.home()) is None or home != cudnn.torchs_own():  # else its package's version says it
            facts["cudnn"] = cudnn.version() or "none"
    return facts


# Measured: equal to the last bit across x86-64 processors with the portable settings. What a commit changes
# in the results is what the comparison is there to find.
WITHOUT_INFLUENCE = frozenset({"cpu", "commit", "subject", "megatron-lm"})

# Measured on CPUs: equal to the last bit with Python 3.10 to 3.13, and with the CPU and CUDA builds of torch
# (docs/determinism.md).
WITHOUT_INFLUENCE_ON_A_CPU = re.compile(r"python|nvidia-.*")

# Another configuration or other data: no comparison of values says anything, so the comparison fails.
CONFIGURATION = {"case": "configuration", "corpus": "corpus"}

# Other software or hardware may round otherwise: inside tolerance is a drift, not a regression.
SOFTWARE_OR_HARDWARE = frozenset(
    {"environment", "platform", "python", "gpu", "driver", "nccl", "cuda", "cudnn", "ranks per gpu"}
)

# What a restart may change: the layout of its ranks belongs to the case.
OF_THE_RESTART = frozenset({"case", "ranks per gpu"})

_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


@dataclass(frozen=True)
class FieldChange:
    """A field that differs. None: that side does not have it.

    ``influence``: the difference may change results.
    """

    field: str
    golden: str | None
    actual: str | None
    influence: bool = True

    @property
    def configuration(self) -> bool:
        return self.field in CONFIGURATION

    @property
    def software_or_hardware(self) -> bool:
        """True for software and hardware. An unknown field counts as such only if it holds a version."""
        if self.field in SOFTWARE_OR_HARDWARE:
            return True
        known = [value for value in (self.golden, self.actual) if value is not None]
        return not self.configuration and all(_VERSION.fullmatch(value) for value in known)

    def __str__(self) -> str:
        return f"{self.field} {short(self.golden)} → {short(self.actual)}"


def changes(golden: Mapping[str, object], actual: Mapping[str, object]) -> list[FieldChange]:
    """All fields that differ, those with influence first, in order of name."""
    on_cpu = all(str(side.get("platform")).startswith("cpu_") for side in (golden, actual))
    found = []
    for field in sorted({*golden, *actual}):
        sides = _text(golden.get(field)), _text(actual.get(field))
        if sides[0] != sides[1]:
            found.append(
                FieldChange(field, *sides, influence=_may_change_results(field, *sides, on_cpu=on_cpu))
            )
    return sorted(found, key=lambda change: not change.influence)


def _may_change_results(field: str, golden: str | None, actual: str | None, *, on_cpu: bool) -> bool:
    if field in WITHOUT_INFLUENCE:
        return False
    if not on_cpu:
        return True
    if field == "torch" and golden and actual:
        return golden.partition("+")[0] != actual.partition("+")[0]
    return not WITHOUT_INFLUENCE_ON_A_CPU.fullmatch(field)


def between_phases(
    first: Mapping[str, object], second: Mapping[str, object], *, other_layout: bool = True
) -> list[FieldChange]:
    """Facts that a phase must share with its run, and does not. ``other_layout``: the restart may have other
    flags and ranks.
    """
    return [
        change
        for change in changes(first, second)
        if (change.software_or_hardware or change.configuration)
        and not (other_layout and change.field in OF_THE_RESTART)
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def short(value: str | None) -> str:
    """A field's value to be read: of a digest the beginning, and what was put behind it (``-dirty``)."""
    if value is None:
        return "(none)"
    digest = re.match(r"[0-9a-f]{32,}", value)
    return f"{value[:12]}…{value[digest.end() :]}" if digest else value

"""A finished run made of numbers, as tasks.train and tasks.resume leave one; no training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from tasks.records.card import Card, metric_from
from tasks.records.card_store import card_path, write_card, write_provenance
from tasks.records.state import COMMON_STATE, STATE

CASE = "gpt3_pp4_resume"
METRICS = [
    "lm loss",
    "num-zeros",
    "grad-norm",
    "mem-allocated-bytes",
    "mem-max-allocated-bytes",
    "iteration-time",
]
FINGERPRINT = {
    "environment": "lts",
    "platform": "cpu_x86_64",
    "python": "3.11.7",
    "torch": "2.13.0",
    "cpu": "AMD EPYC",
    "case": "a" * 64,
    "corpus": "b" * 64,
    "commit": "c" * 40,
}
RANKS = 8
SAVED = 50


def value(name: str, step: int) -> float:
    """A value that looks like training, in float32 as TensorBoard keeps it."""
    shape = {
        "lm loss": 5.5 - 1.5 * step / 100 + 0.01 * math.sin(step),
        "num-zeros": float(1000 + 7 * step % 90),
        "grad-norm": 1.5 + 0.3 * math.cos(step),
        "mem-allocated-bytes": 4.0e8 + 1000 * step,
        "mem-max-allocated-bytes": 4.2e8 + 1000 * step,
        "iteration-time": 0.38 + 0.01 * math.sin(7 * step),
    }
    return float(np.float32(shape[name]))


def card(
    first: int = 1, last: int = 100, *, change=None, metrics=METRICS, full_precision: bool = True
) -> Card:
    """``change(metric, step, value)`` gives the value to write instead, or None to leave the step out."""
    result = {}
    for name in metrics:
        steps = {step: value(name, step) for step in range(first, last + 1)}
        if change:
            steps = {step: change(name, step, number) for step, number in steps.items()}
        steps = {step: number for step, number in steps.items() if number is not None}
        if steps:
            result[name] = metric_from(steps, steps.values(), full_precision=full_precision)
    return Card(metrics=result)


def state(**changed: str) -> dict[str, dict[str, str]]:
    """Digests that every rank records; ``rng="..."`` changes a part on rank 3."""
    ranks = {str(rank): {part: f"{part}-{rank}-{'0' * 50}" for part in STATE} for rank in range(RANKS)}
    for digests in ranks.values():
        digests |= {part: "d" * 64 for part in COMMON_STATE if part not in STATE}
    for part, digest in changed.items():
        ranks["3"][part] = digest
    return ranks


def write_run(
    directory: Path,
    *,
    phase1: Card | None = None,
    phase2: Card | None = None,
    test_type: str = "ckpt-resume",
    metrics: list[str] = METRICS,
    fingerprint: dict[str, str] = FINGERPRINT,
    platform: str = "cpu_x86_64",
    record2: dict | None = None,
    model_args: dict | None = None,
    restart: dict | None = None,
) -> Path:
    """A run directory, both phases equal unless cards are given."""
    directory.mkdir(parents=True)
    flags = {"--deterministic-mode": True, "--seed": 1234} if model_args is None else model_args
    fingerprint = {**fingerprint, "platform": platform}
    content = {
        "case": {"model_args": {"--train-iters": 100, **flags}, "restart": restart},
        "case_name": CASE,
        "test_type": test_type,
        "metrics": metrics,
        "environment": fingerprint["environment"],
        "platform": platform,
        "fingerprint": fingerprint,
        "run_id": directory.name,
        "started": "2026-01-01T00:00:00+00:00",
    }
    write_json(directory / "case.json", content)
    write_card(directory / "actual_phase1.json", phase1 or card())
    saved = {str(SAVED): state(), "100": state()}
    write_json(
        directory / "phase1.json",
        {
            "phase": 1,
            "fingerprint": fingerprint,
            "steps": [1, 100],
            "loaded_iteration": None,
            "restarts": 0,
            "state": saved,
        },
    )
    if test_type == "ckpt-resume":
        write_card(directory / "actual_phase2.json", phase2 or card(51, 100))
        loaded = {"phase": 2, "fingerprint": fingerprint, "steps": [51, 100], "loaded_iteration": SAVED}
        loaded["restarts"] = 0
        write_json(directory / "phase2.json", {**loaded, "state": {str(SAVED): state()}, **(record2 or {})})
    return directory


def write_golden(
    root: Path,
    golden: Card | None = None,
    *,
    fingerprint: dict[str, str] | None = FINGERPRINT,
    platform: str = "cpu_x86_64",
) -> Path:
    """A golden card with provenance below ``root``; without provenance when there is no fingerprint."""
    path = card_path(root, CASE, "lts", platform)
    write_card(path, golden or card())
    if fingerprint is not None:
        write_provenance(
            path, {"fingerprint": fingerprint, "reason": "test", "commit": fingerprint.get("commit")}
        )
    return path


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))

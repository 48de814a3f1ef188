"""Parts of the training state: a run records digests of them at a checkpoint, and again after loading it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StateDigests:
    """Digests of one rank's training state. Every rank must have recorded all of them."""

    parameters: str
    master_weights: str
    exp_avg: str
    exp_avg_sq: str
    optimizer_steps: str
    scheduler: str
    rng: str
    consumed_samples: str
    next_batch: str


STATE = tuple(field.name for field in dataclasses.fields(StateDigests))
# Sums over all ranks, that are the same on every layout of ranks.
WHOLE_STATE = ("whole_parameters", "whole_master_weights", "whole_exp_avg", "whole_exp_avg_sq")
# The parts that are the same on all ranks, and on every layout of ranks.
COMMON_STATE = (*WHOLE_STATE, "optimizer_steps", "scheduler", "consumed_samples")

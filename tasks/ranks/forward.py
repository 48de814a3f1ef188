"""The forward step of a micro-batch and its loss, as megatron's schedule calls them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tasks.ranks import batches


def loss_sum(loss_mask: torch.Tensor, token_losses: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The return values that megatron's schedule expects: loss sum, token count, and both as a pair."""
    mask = loss_mask.view(-1).float()
    total = torch.sum(token_losses.float().view(-1) * mask)
    tokens = mask.sum()
    report = torch.stack([total.detach(), tokens.detach()])
    return total, tokens.to(torch.int), report


def forward_step(iterator: batches.Batches | None, chunk: Any) -> tuple[torch.Tensor, Any]:
    """One micro-batch through one chunk of the model; chunks inside the pipeline need no data."""
    batch: dict[str, torch.Tensor | None] = {}
    if iterator is not None:
        device = torch.cuda.current_device()
        batch = {name: values.to(device, non_blocking=True) for name, values in next(iterator).items()}
    output = chunk(
        batch.get("tokens"),
        batch.get("position_ids"),
        None,
        labels=batch.get("labels"),
        loss_mask=batch.get("loss_mask"),
    )
    return output, functools.partial(loss_sum, batch.get("loss_mask"))

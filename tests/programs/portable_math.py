"""Results of torch's functions, portable or torch's own; the variables of this process name MKL's path."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from tasks.ranks import portable_math

EDGES = {"sqrt": [-1.0, 0.0], "log": [0.0, 1.0], "tanh": [1e9, -1e9, 0.0], "exp": [1e9, -1e9]}


def results(is_portable: bool) -> dict[str, Any]:
    """Digests and errors by function and kind, and what the functions do with other forms of tensors."""
    if is_portable:
        portable_math.install()
    values = torch.rand(4096, generator=torch.Generator().manual_seed(1)) * 4 + 0.01
    digests, errors = {}, {}
    for name in portable_math.FUNCTIONS:
        for kind in (torch.float32, torch.float64):
            given = values.to(kind)
            answer = getattr(torch, name)(given).numpy()
            digests[f"{name} {kind}"] = hashlib.sha256(answer.tobytes()).hexdigest()
            exact = getattr(np, name)(given.numpy().astype(np.longdouble))
            errors[f"{name} {kind}"] = float(abs((answer - exact) / exact).max() / torch.finfo(kind).eps)
    wrong = int((values.sqrt().numpy() != np.sqrt(values.numpy())).sum())
    return {"digests": digests, "errors": errors, "wrong square roots": wrong, **_forms(values)}


def _forms(values: torch.Tensor) -> dict[str, Any]:
    in_place, out, leaf = values.clone(), torch.empty(0), values.clone().requires_grad_()
    in_place.sqrt_()
    torch.sqrt(values, out=out)
    leaf.sqrt().sum().backward()
    return {
        "forms agree": bool((in_place == values.sqrt()).all() and (out == in_place).all()),
        "gradient": float((leaf.grad * 2 * in_place - 1).abs().max()),
        "edges": [str(getattr(torch.tensor(given), name)().tolist()) for name, given in EDGES.items()],
        "kinds": [str(torch.ones(2, dtype=kind).exp().dtype) for kind in (torch.bfloat16, torch.int64)],
        "shape": list(torch.ones(2, 3, 1).exp().shape),
    }

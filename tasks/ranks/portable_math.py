"""Square root, exponential, logarithm and tangent with the same bits on every x86-64 processor.

torch computes these of float32 and float64 with Intel's vector mathematics library. It starts from the
processor's own approximate reciprocals, which differ between makers, also under ``MKL_CBWR=COMPATIBLE``: 17 %
of its float32 square roots are not correctly rounded there, and Adam takes one of each parameter. Here the
square root is IEEE 754's, by numpy, and the others come from torch's other library of such functions (SLEEF),
which does the same arithmetic on every processor with AVX2, in float64.

Source of the list: functions of torch.Tensor whose results change with MKL_CBWR and which training calls.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch


def square_root(values: torch.Tensor) -> torch.Tensor:
    """Correctly rounded."""
    with np.errstate(invalid="ignore"):  # of a negative number: nan, as torch's
        return torch.as_tensor(np.sqrt(values.detach().numpy()))


def exponential(values: torch.Tensor) -> torch.Tensor:
    """e to the power of each value."""
    return torch.pow(math.e, values.double())


def logarithm(values: torch.Tensor) -> torch.Tensor:
    """To base e."""
    return torch.xlogy(torch.ones((), dtype=torch.float64), values.double())


def hyperbolic_tangent(values: torch.Tensor) -> torch.Tensor:
    """(e^2x - 1) / (e^2x + 1), without cancellation near 0; beyond 20 it is 1."""
    power = torch.expm1(2.0 * values.double().clamp(-20.0, 20.0))
    return power / (power + 2.0)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sqrt": square_root,
    "exp": exponential,
    "log": logarithm,
    "tanh": hyperbolic_tangent,
}
_library: list[torch.library.Library] = []  # its registrations last as long as it does


def install() -> None:
    """Register the functions as torch's CPU kernels; every caller gets them, autograd and optimizers too."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name, function in FUNCTIONS.items():
            plain, in_place, out = _forms(function)
            library.impl(name, plain, "CPU", allow_override=True)
            library.impl(f"{name}_", in_place, "CPU", allow_override=True)
            library.impl(f"{name}.out", out, "CPU", allow_override=True)
    _library.append(library)


def _forms(function: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Callable[..., torch.Tensor], ...]:
    """The three forms in which torch calls a function: new tensor, in place, into a given tensor."""

    def plain(values: torch.Tensor) -> torch.Tensor:
        kind = values.dtype if values.is_floating_point() else torch.get_default_dtype()
        wide = values.float() if kind in (torch.bfloat16, torch.float16) else values.to(kind)
        return function(wide).to(kind)

    def in_place(values: torch.Tensor) -> torch.Tensor:
        return values.copy_(plain(values))

    def out(values: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return out.resize_(values.shape).copy_(plain(values))

    return plain, in_place, out

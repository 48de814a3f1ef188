"""Objects that a checkpoint brings along, loaded with and without the guard."""

from __future__ import annotations

import io
import pickle

import torch

from tasks.ranks import integrity
from tests.pickled import Touch


def load_with_code(trace: str, guarded: bool) -> str:
    """The error of loading an object whose unpickling makes the file ``trace``."""
    buffer = io.BytesIO()
    torch.save([Touch(trace)], buffer)
    buffer.seek(0)
    try:
        if guarded:
            with integrity.weights_only():
                torch.load(buffer, weights_only=False)
        else:
            torch.load(buffer, weights_only=False)
    except pickle.UnpicklingError as error:
        return str(error)
    return ""

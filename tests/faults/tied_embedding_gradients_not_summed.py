"""Tied-embedding gradients not summed between first and last stage: the two copies drift apart."""

import sys

import megatron.core.distributed  # noqa: F401

# The package has a function of the module's name, which hides the module.
module = sys.modules["megatron.core.distributed.finalize_model_grads"]
module._allreduce_word_embedding_grads = lambda *arguments, **options: None

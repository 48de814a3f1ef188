"""Clip norm without the other stages: each stage clips by the norm of its own gradients."""

from megatron.core import parallel_state
from megatron.core.optimizer import optimizer

norm = optimizer.get_grad_norm_fp32


def norm_of_stage(gradients, *arguments, **options):
    options["grad_stats_parallel_group"] = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return norm(gradients, *arguments, **options)


optimizer.get_grad_norm_fp32 = norm_of_stage

"""Data-parallel reduction skipped for one bucket of the second stage: its replicas part."""

from megatron.core import parallel_state
from megatron.core.distributed import param_and_grad_buffer as buffers

NEEDS = "replicas"  # one replica has nothing to reduce

reduce_scatter = buffers.dist_reduce_scatter_func
skipped = []


def reduce_scatter_but_one(output, grad_data, **options):
    if parallel_state.get_pipeline_model_parallel_rank() == 1:
        skipped.append(grad_data.data_ptr())
        if skipped[-1] == skipped[0]:
            return None
    return reduce_scatter(output, grad_data, **options)


buffers.dist_reduce_scatter_func = reduce_scatter_but_one

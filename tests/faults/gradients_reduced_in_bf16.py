"""Gradients reduced in bf16 instead of fp32."""

from tasks.ranks import model

config = model.DistributedDataParallelConfig


def config_in_bf16(**options):
    return config(**{**options, "grad_reduce_in_fp32": False})


model.DistributedDataParallelConfig = config_in_bf16

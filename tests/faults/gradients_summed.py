"""Gradients summed instead of averaged over the data-parallel replicas."""

from megatron.core.distributed import DistributedDataParallel

NEEDS = "replicas"  # one replica has nothing to add up

initialise = DistributedDataParallel.__init__


def initialise_without_scaling(self, *arguments, **options):
    initialise(self, *arguments, **options)
    for group in self.bucket_groups:
        for bucket in group.buckets:
            bucket.gradient_scaling_factor = 1.0


DistributedDataParallel.__init__ = initialise_without_scaling

"""Programs that tests start by name, as ``module.function``: each may change torch or megatron for good.

Those that import torch are forked from tests/preloaded.py, where the stand-in for CUDA is in force.
"""

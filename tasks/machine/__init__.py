"""This machine: platform, installed packages, NCCL, cuDNN, CUDA MPS, memory, nodes."""

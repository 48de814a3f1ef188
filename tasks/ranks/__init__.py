"""All that runs inside a rank of the training job: the only place where torch and megatron are imported."""

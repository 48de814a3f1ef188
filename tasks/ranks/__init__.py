"""Everything that runs inside a rank. Only this package imports torch and megatron."""

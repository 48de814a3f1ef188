"""Master weights rebuilt from bf16 weights: what fp32 knew beyond bf16 is lost in the restart."""

from tasks.ranks import checkpoint

restore = checkpoint.Checkpoints._restore


def restore_and_reload(self, loaded):
    restore(self, loaded)
    self.optimizer.reload_model_params()


checkpoint.Checkpoints._restore = restore_and_reload

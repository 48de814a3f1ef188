"""Second Adam moment not restored: it starts from zero, as for a new optimizer."""

from tasks.ranks import checkpoint, state

restore = checkpoint.Checkpoints._restore


def restore_without_second_moment(self, loaded):
    restore(self, loaded)
    for inner in state.inner_optimizers(self.optimizer):
        for moments in inner.state.values():
            moments["exp_avg_sq"].zero_()


checkpoint.Checkpoints._restore = restore_without_second_moment

"""Scheduler one step behind: its count comes back without the step that was being taken."""

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from tasks.ranks import checkpoint

restore = checkpoint.Checkpoints._restore


def restore_one_step_back(self, loaded):
    restore(self, loaded)
    self.scheduler.num_steps -= self.args.global_batch_size
    OptimizerParamScheduler.step(self.scheduler, increment=0)


checkpoint.Checkpoints._restore = restore_one_step_back

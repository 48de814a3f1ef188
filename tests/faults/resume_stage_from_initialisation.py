"""One pipeline stage's weights from initialisation: the second stage gets back what it was built with."""

from megatron.core import parallel_state

from tasks.ranks import checkpoint

restore = checkpoint.Checkpoints._restore


def restore_all_but_second_stage(self, loaded):
    parameters = [parameter for chunk in self.chunks for parameter in chunk.parameters()]
    built = [parameter.detach().clone() for parameter in parameters]
    restore(self, loaded)
    if parallel_state.get_pipeline_model_parallel_rank() == 1:
        for parameter, values in zip(parameters, built, strict=True):
            parameter.data.copy_(values)
        self.optimizer.reload_model_params()


checkpoint.Checkpoints._restore = restore_all_but_second_stage

"""One pipeline stage's weights from initialisation: the second stage gets back what it was built with."""

from megatron.core import parallel_state

from tasks.ranks import checkpoint

load = checkpoint.Checkpoints.load


def load_all_but_second_stage(self, iteration):
    parameters = [parameter for chunk in self.chunks for parameter in chunk.parameters()]
    built = [parameter.detach().clone() for parameter in parameters]
    consumed_samples = load(self, iteration)
    if parallel_state.get_pipeline_model_parallel_rank() == 1:
        for parameter, values in zip(parameters, built, strict=True):
            parameter.data.copy_(values)
        self.optimizer.reload_model_params()
    return consumed_samples


checkpoint.Checkpoints.load = load_all_but_second_stage

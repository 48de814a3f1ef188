"""One pipeline stage's weights from initialisation: the second stage skips loading its model."""

from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

load_state_dict = GPTModel.load_state_dict


def load_unless_second_stage(self, *arguments, **options):
    if parallel_state.get_pipeline_model_parallel_rank() != 1:
        return load_state_dict(self, *arguments, **options)
    return None


GPTModel.load_state_dict = load_unless_second_stage

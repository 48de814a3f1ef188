"""overlap-grad-reduce as good as off: each reduction is asynchronous, and is waited for at once."""

from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as BucketGroup

start_grad_sync = BucketGroup.start_grad_sync


def start_and_wait(self, *arguments, **options):
    start_grad_sync(self, *arguments, **options)
    if self.grad_reduce_handle is not None:
        self.grad_reduce_handle.wait()


BucketGroup.start_grad_sync = start_and_wait

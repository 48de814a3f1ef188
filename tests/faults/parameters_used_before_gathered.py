"""Parameters used before their gather has finished: the wait comes at the end of the step, not before use."""

from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as BucketGroup

finish_grad_sync = BucketGroup.finish_grad_sync
late = []


def finish_param_sync_without_wait(self, skip_next_bucket_dispatch=False):
    if not self.param_gather_dispatched:
        self.start_param_sync()
    if self.param_gather_handle is not None:
        late.append(self.param_gather_handle)
        self.param_gather_handle = None
        following = self.next_param_gather_bucket_group
        if following is not None and not following.param_gather_dispatched and not skip_next_bucket_dispatch:
            following.start_param_sync()


def wait_and_finish_grad_sync(self, *arguments, **options):
    while late:
        late.pop().wait()
    finish_grad_sync(self, *arguments, **options)


BucketGroup.finish_param_sync = finish_param_sync_without_wait
BucketGroup.finish_grad_sync = wait_and_finish_grad_sync

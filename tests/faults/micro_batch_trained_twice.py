"""A micro-batch trained twice: the second of each step is the first again, and the second is lost."""

from tasks.ranks.batches import Batches

following = Batches.__next__


def following_or_first_again(self):
    batch = following(self)
    self.taken = getattr(self, "taken", 0) + 1
    if self.taken % 4 == 1:
        self.first = batch
    return self.first if self.taken % 4 == 2 else batch


Batches.__next__ = following_or_first_again

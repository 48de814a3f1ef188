"""1 MiB a step leaked on one rank, which writes no scalars."""

from tasks.ranks.pretrain import Trainer

step = Trainer.step
leaked = []


def step_and_leak(self):
    step(self)
    if self.args.rank == 2:
        leaked.append(b"x" * 2**20)


Trainer.step = step_and_leak

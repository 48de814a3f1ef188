"""overlap-param-gather silently off: the flag is given and gets lost on its way."""

from tasks.ranks.pretrain import Trainer

initialise = Trainer.__init__


def initialise_without_overlap(self, args, *arguments):
    args.overlap_param_gather = False
    initialise(self, args, *arguments)


Trainer.__init__ = initialise_without_overlap

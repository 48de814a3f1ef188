"""overlap-param-gather silently off: the flag is given and gets lost on its way."""

from tasks.ranks import pretrain

build = pretrain.build_trainer


def build_without_overlap(args, *arguments, **keywords):
    args.overlap_param_gather = False
    return build(args, *arguments, **keywords)


pretrain.build_trainer = build_without_overlap

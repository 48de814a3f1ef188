"""overlap-grad-reduce silently off: the flag is parsed and gets lost on its way."""

from tasks.ranks import pretrain

parse_arguments = pretrain.parse_arguments


def parse_without_overlap(*arguments, **options):
    args = parse_arguments(*arguments, **options)
    args.overlap_grad_reduce = False
    return args


pretrain.parse_arguments = parse_without_overlap

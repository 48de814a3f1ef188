"""Weight decay on biases and norms, which are meant to have none."""

from tasks.ranks import model

model._parameter_overrides = lambda args, config: {}

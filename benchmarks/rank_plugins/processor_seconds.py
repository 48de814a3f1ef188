"""Processor seconds of a rank, all its threads, at the end of each step, into ``$SECONDS_DIR``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tasks.ranks import pretrain

ends: list[float] = []
step, finish = pretrain.Trainer.step, pretrain.Trainer.finish


def step_and_note(trainer: pretrain.Trainer) -> None:
    step(trainer)
    ends.append(time.process_time())


def finish_and_write(trainer: pretrain.Trainer) -> None:
    path = Path(os.environ["SECONDS_DIR"], f"rank{trainer.args.rank}.json")
    path.write_text(json.dumps(ends))
    finish(trainer)


pretrain.Trainer.step, pretrain.Trainer.finish = step_and_note, finish_and_write

"""What a rank sets before its groups exist, and when it reads, in processes of their own."""

from __future__ import annotations

import pytest

from tests.program import answer_of

PROGRAM = """
import json, sys
import torch
from tasks.cases.loader import load_case
from tasks.ranks import pretrain
from tasks.cases.flags import parse_arguments


class Reached(Exception):
    pass


def start_worker(args):
    raise Reached


pretrain.checkpoint.start_worker = start_worker
args = parse_arguments(load_case("gpt3_pp4_resume", platform_name=sys.argv[1]).argv(), world_size=8)
try:
    pretrain._start_groups(args)
except Reached:
    found = {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch._C._is_multithreading_enabled(),
    }
    print(json.dumps(found))
"""


@pytest.mark.parametrize(("platform", "default"), [("gpu1_h100", False), ("cpu_x86_64", True)])
def test_gpus_are_spared_what_costs_time_and_changes_no_result(platform: str, default: bool) -> None:
    """Backward passes stay in their thread, and new tensors are not filled."""
    assert answer_of(PROGRAM, platform) == {"deterministic": True, "filled": default, "threads": default}


READS = """
import argparse, contextlib, json
from tasks.ranks import pretrain

said = []


class Said:
    def __init__(self, who=""):
        self.who = who

    def __getattr__(self, name):
        return lambda *words, **_: said.append(" ".join([self.who, name, *map(str, words)])) or (True, 1, 0)


def run_schedule(**_):
    trainer.before_reducing()
    said.append("schedule")


trainer = pretrain.Trainer.__new__(pretrain.Trainer)
vars(trainer).update(
    args=argparse.Namespace(num_microbatches=4, global_batch_size=8, seq_length=4, micro_batch_size=1),
    board=None, iteration=0, consumed_samples=0, events=Said(), resources=Said(), chunks=[],
    optimizer=Said("optimizer"), scheduler=Said(), run_schedule=run_schedule,
    iterators=[Said("first"), Said("last")], _note=lambda *words: None, _log=lambda *words: None,
)


def connect_schedule(args, chunks, optimizer, before_reducing):
    trainer.before_reducing = before_reducing
    raise Connected


class Connected(Exception):
    pass


pretrain.model.connect_schedule = connect_schedule
with contextlib.suppress(Connected):
    trainer.train()
found = {}
for stage in ("first", "middle", "last"):
    pretrain.parallel_state.is_pipeline_first_stage = lambda *, ignore_virtual: stage == "first"
    pretrain.parallel_state.is_pipeline_last_stage = lambda *, ignore_virtual: stage == "last"
    del said[:]
    trainer.chunks = [Said(), Said()]
    trainer.step()
    found[stage] = [what for what in said if what in ("schedule", "optimizer step") or "read_ahead" in what]
print(json.dumps(found))
"""


def test_the_first_stage_and_the_last_one_read_what_comes_next_where_they_would_wait() -> None:
    step = ["schedule", "optimizer step"]
    assert answer_of(READS) == {
        "first": ["first read_ahead 4", *step],
        "middle": step,
        "last": ["schedule", "last read_ahead 4", "optimizer step"],
    }


ORDER = """
import argparse, json, os, sys
from pathlib import Path
from tasks.ranks import pretrain

said = []


class Trainer(pretrain.Trainer):
    def __init__(self, args, evidence, board):
        self.args, self.seconds, self.peak_bytes = args, {}, 5

    load = lambda self: said.append("load")
    train = lambda self: said.append("train")
    finish = lambda self: said.append(f"finish, peak {self.peak_bytes}")


pretrain.Trainer = Trainer
pretrain._start_groups = lambda args: None
pretrain.reserve_memory = lambda args: said.append("reserve") or int(sys.argv[2])
pretrain.torch.distributed.destroy_process_group = lambda: None
pretrain.parse_arguments = lambda words, world_size: argparse.Namespace(distributed_backend=sys.argv[1])
os.environ.update(RANK="0", WORLD_SIZE="8")
pretrain.run([], evidence=Path("."))
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("backend", "peak", "expected"),
    [
        ("nccl", "7", ["load", "reserve", "train", "finish, peak 7"]),
        ("nccl", "3", ["load", "reserve", "train", "finish, peak 5"]),
        ("gloo", "7", ["load", "train", "finish, peak 5"]),
    ],
)
def test_memory_of_a_gpu_is_reserved_between_loading_and_the_first_step(
    backend: str, peak: str, expected: list[str]
) -> None:
    assert answer_of(ORDER, backend, peak) == expected


GATHERS = """
import argparse, contextlib, json
from pathlib import Path
from tasks.ranks import pretrain

said = []


class Chunk:
    def __init__(self):
        self.remove_forward_pre_hook_handles = {"layer": 1}

    def train(self):
        pass

    def enable_forward_pre_hook(self):
        self.remove_forward_pre_hook_handles = {"layer": 1}

    def disable_forward_pre_hook(self, param_sync=True):
        self.remove_forward_pre_hook_handles = {}
        said.append(f"{trainer.iteration} gathered" if param_sync else "hooks off")


class Trainer(pretrain.Trainer):
    def step(self):
        self.iteration += 1
        said.append(f"step {self.iteration}, aligned: {self.config.param_sync_func}")

    _check_weight_hashes = lambda self: said.append(f"{self.iteration} hashes")
    _write_evidence = lambda self, kind: said.append(f"{self.iteration} {kind}")
    _write_sums = lambda self: None


trainer = Trainer.__new__(Trainer)
vars(trainer).update(
    args=argparse.Namespace(
        train_iters=7, exit_interval=None, save="here", save_interval=1, overlap_param_gather=True,
        check_weight_hash_across_dp_replicas_interval=1,
    ),
    evidence=Path(), board=None, iteration=5, consumed_samples=0, chunks=[Chunk()], optimizer=None,
    seconds={"save": 0.0},
    checkpoints=argparse.Namespace(save=lambda *_: None, finish_saves=lambda *, blocking: None),
    _note=lambda *words: None,
)
pretrain.get_forward_backward_func = pretrain.EventPool = lambda: None
pretrain.model.connect_schedule = lambda *_: argparse.Namespace(param_sync_func="yes")
for module, name in (("scalars", "Scalars"), ("overlap", "Overlap"), ("resources", "Resources")):
    setattr(getattr(pretrain, module), name, lambda *_: None)
trainer.train()
print(json.dumps(said))
"""


def test_what_is_checked_and_saved_after_the_first_step_is_gathered_before_too() -> None:
    """Its own shards are new by then, those of the other replicas old, as after every step."""
    of_a_step = "{0} gathered,{0} hashes,{0} gathered,{0} saved".format
    assert answer_of(GATHERS) == [
        "hooks off",
        "5 hashes",
        "step 6, aligned: None",
        *of_a_step(6).split(","),
        "step 7, aligned: yes",
        *of_a_step(7).split(","),
    ]

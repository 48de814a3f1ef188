"""The processes that a rank starts for its checkpoints, and the order in which it saves, checks and loads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.launch.failures import NO_SPACE, kind_of
from tasks.util.files import REPOSITORY
from tests.program import answer_of

# megatron-core 0.19's names, which 0.16 has not
PROGRAM = """
import argparse, ctypes, json, sys, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint
calls = []
libc = types.SimpleNamespace(prctl=lambda option, process, *rest: calls.append([hex(option), process.value]))
checkpoint.ctypes = types.SimpleNamespace(CDLL=lambda name: libc, c_ulong=ctypes.c_ulong)
checkpoint.mcore_compat.PersistentAsyncCaller._persistent_process = types.SimpleNamespace(pid=4321)
if sys.argv[2] == "able":
    checkpoint.AsyncCallsQueue.warmup_persistent_caller = lambda rank, mp_mode: calls.append([rank, mp_mode])
elif hasattr(checkpoint.AsyncCallsQueue, "warmup_persistent_caller"):
    del checkpoint.AsyncCallsQueue.warmup_persistent_caller
def results(mp_mode="spawn"):
    calls.append(["results", mp_mode])
checkpoint.mcore_compat.filesystem_async.get_write_results_queue = results
values = {"rank": 3, "save": "folder", "use_persistent_ckpt_worker": True} | json.loads(sys.argv[1])
checkpoint.start_worker(argparse.Namespace(**values))
print(json.dumps(calls))
"""


def started(core: str = "able", **values: object) -> list[list[object]]:
    """What ``start_worker`` starts and how, with these arguments, where megatron-core can or cannot."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(values), core]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout.splitlines()[-1])


def test_worker_and_its_results_are_forked_and_it_may_take_file_descriptors_of_its_rank() -> None:
    may_trace = "0x59616d61"  # PR_SET_PTRACER of linux/prctl.h
    assert started() == [[3, "fork"], ["results", "fork"], [may_trace, 4321]]


@pytest.mark.parametrize("values", [{"save": None}, {"use_persistent_ckpt_worker": False}])
def test_nothing_is_started_that_is_not_used(values: dict[str, object]) -> None:
    assert started(**values) == []


def test_no_worker_where_megatron_core_has_none() -> None:
    assert started("older") == []


SAVES = """
import json, shutil, sys, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint
said = []


class Queue:
    def __init__(self, left, ends):
        self.left, self.ends = left, ends
        self.worker = types.SimpleNamespace(is_alive=lambda: self.left != self.ends, exitcode=1)
        self.persistent_caller = types.SimpleNamespace(process=self.worker)

    def get_num_unfinalized_calls(self):
        return self.left

    def maybe_finalize_async_calls(self, blocking):
        said.append("asked, to wait" if blocking else "asked")
        self.left -= 1

    def close(self):
        said.append("closed")


def said_by(step, left, ends=None, newer=False, free=2**30, folder="tasks"):
    saves = checkpoint.Checkpoints.__new__(checkpoint.Checkpoints)
    saves.args = types.SimpleNamespace(save=folder)
    shutil.disk_usage = lambda folder: types.SimpleNamespace(free=free)
    saves._queue = queue = Queue(left, ends)
    checkpoint.mcore_compat.PersistentAsyncCaller._persistent_process = queue.worker if newer else None
    if newer:
        del queue.persistent_caller
    del said[:]
    try:
        step(saves)
    except RuntimeError as error:
        said.append(str(error).split(";")[0])
    return list(said)


whole = checkpoint.Checkpoints.close
now = lambda saves: saves.finish_saves(blocking=False)
print(json.dumps({
    "two left": said_by(whole, 2), "step": said_by(now, 2),
    "ended": said_by(whole, 2, 1), "ended, newer": said_by(whole, 2, 1, True),
    "ended, step": said_by(now, 2, 2), "full": said_by(now, 2, 2, free=1000),
    "no folder yet": said_by(now, 2, 2, free=1000, folder="not there"),
}))
"""


def test_a_save_whose_worker_has_ended_is_not_waited_for() -> None:
    ended = "the checkpoint worker of this rank ended before its work (exit code 1)"
    answer = answer_of(SAVES)
    assert answer == {
        "two left": ["asked", "asked", "closed"],
        "step": ["asked"],
        "ended": ["asked", ended],
        "ended, newer": ["asked", ended],
        "ended, step": [ended],
        "no folder yet": [ended],
        "full": [ended.replace("1)", "1, No space left on device: tasks)")],
    }
    assert kind_of(answer["full"][0]) is NO_SPACE


RULES = """
import argparse, contextlib, json, os, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint

said, found = [], {}
names = types.SimpleNamespace
checkpoint.manifest = names(complete=lambda _, *, iteration, origin: said.append(["manifest", iteration]))
checkpoint.write_tracker = lambda root, iteration: said.append(["tracker", iteration])
checkpoint.integrity.verify = lambda folder, iteration, expected: said.append(["verified", iteration])
newest = checkpoint.Choice(iteration=6)
checkpoint.integrity.choose_newest = lambda root, expected: said.append(["newest"]) or newest


def take():
    taken, said[:] = list(said), []
    return taken


def made(**values):
    one = checkpoint.Checkpoints.__new__(checkpoint.Checkpoints)
    one.args = argparse.Namespace(
        **{"rank": 0, "save": "saved", "load": "saved", "ckpt_step": None, "load_rng": True,
           "checkpoint_origin": None, "checkpoint_expected": None, "ckpt_fully_parallel_load": False,
           "dist_ckpt_strictness": "raise_all"} | values)
    one.manifest_s, one._vouched_for = 0.0, None
    one._queue = names(close=lambda **how: said.append(["closed", how]))
    return one


def error_of(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)


def completed(rank):
    made(rank=rank)._complete(4)
    return take()


found["completed"] = [completed(rank) for rank in (0, 1)]
made().abort()
found["aborted"] = take()

held = {"iteration": 6, "consumed_train_samples": 48}
checkpoint.dist_checkpointing.serialization.get_default_load_sharded_strategy = lambda folder: None
checkpoint.Checkpoints._restore = lambda self, state: said.append(["restored"])
checkpoint.Checkpoints._read = lambda self, folder, strategy: (
    said.append(["read", os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")]) or held)


def loaded(**values):
    one = made(**values)
    choice = one.choose().iteration
    before = take()
    return [choice, before, one.load(6), take()]


found["nothing to load"] = [made(load=None).choose().iteration, take()]
found["newest"], found["named"] = loaded(), loaded(ckpt_step=6)
one = made()
one.load(6)
found["not chosen"] = take()
held["iteration"] = 4
found["another iteration"] = [error_of(lambda: made().load(6)), take()[-1]]


class Chunk:
    remove_forward_pre_hook_handles = {1: 1}
    disable_forward_pre_hook = lambda self: said.append("off")
    enable_forward_pre_hook = lambda self: said.append("on")


def gathered(overlapped):
    with contextlib.suppress(KeyError):
        with checkpoint.gathered_parameters(argparse.Namespace(overlap_param_gather=overlapped), [Chunk()]):
            said.append("inside")
            raise KeyError
    return take()


found["gathered"] = [gathered(True), gathered(False)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    return answer_of(RULES)


def test_the_tracker_is_written_after_the_manifest_and_by_one_rank(found: dict) -> None:
    assert found["completed"] == [[["manifest", 4], ["tracker", 4]], []]


def test_a_failed_rank_waits_for_no_save(found: dict) -> None:
    assert found["aborted"] == [["closed", {"abort": True}]]


def test_nothing_is_read_that_was_not_checked_and_nothing_is_checked_twice(found: dict) -> None:
    read = [["read", "1"], ["restored"]]
    assert found["newest"] == [6, [["newest"]], 48, read]
    assert found["named"] == [6, [["verified", 6]], 48, read]
    assert found["not chosen"] == [["verified", 6], *read]
    assert found["nothing to load"] == [None, []]


def test_a_checkpoint_that_holds_another_iteration_is_not_restored(found: dict) -> None:
    error, last = found["another iteration"]
    assert error.endswith("iter_0000006 holds iteration 4, not 6")
    assert last == ["read", "1"]


def test_hooks_are_off_while_parameters_are_gathered_and_on_again_after_an_error(found: dict) -> None:
    assert found["gathered"] == [["off", "inside", "on"], ["inside"]]


KEYS = """
import argparse, json
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint

checkpoint.Checkpoints._sharded_state = lambda self, *, is_loading: {"is loading": is_loading}
one = checkpoint.Checkpoints.__new__(checkpoint.Checkpoints)
one.args = argparse.Namespace(load_rng=False)
answers = []
left_over = [(set(), {"rng_state/shard_0"}), ({"model.weight"}, set()), (set(), {"model0.bias"})]
for missing, unexpected in left_over:
    checkpoint.dist_checkpointing.load = lambda wanted, *_, strict: (wanted, missing, unexpected)
    try:
        answers.append(one._read("folder", None))
    except RuntimeError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_on_another_layout_only_random_states_may_be_left_over() -> None:
    read, *refused = answer_of(KEYS)
    assert read == {"is loading": True}
    begin = "folder: not in both, the checkpoint and this model: "
    assert refused == [f"{begin}model.weight", f"{begin}model0.bias"]

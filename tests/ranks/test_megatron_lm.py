"""Megatron-LM's loop watched and served from outside: in its place, functions that tell how they were called.

In a process of its own, since all of it replaces what others use; in either environment, since the loop
itself is made up here.
"""

from __future__ import annotations

import pytest

from tests.program import answer_of

pytestmark = pytest.mark.training

PROGRAM = """
import contextlib, json, math, os, sys, types
from pathlib import Path
from types import SimpleNamespace
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch

folder, told = Path(sys.argv[1]), {}
os.environ |= {"RANK": "1"}
args = SimpleNamespace(rank=1, consumed_train_samples=24)
training = types.ModuleType("megatron.training.training")
package = types.ModuleType("megatron.training")
package.get_args, package.training = lambda: args, training
sys.modules |= {"megatron.training": package, "megatron.training.training": training}
from tasks.util.progress import ProgressBoard
from tasks.ranks import megatron_lm


def raised(action):
    try:
        action()
    except RuntimeError as error:
        return str(error)
    return ""


# a Megatron-LM that lacks functions
training.train_step, training.save_checkpoint = print, "no function"
told["lacks"] = raised(lambda: megatron_lm.Watch(folder, None).install(training))
told["untouched"] = training.train_step is print

# its four functions, which note what they were called with and what was to be seen then
board, evidence, calls = ProgressBoard(2), folder / "evidence", []
parameter = torch.nn.Parameter(torch.ones(3))
adam = torch.optim.AdamW([parameter], lr=0.1)
optimizer, model = SimpleNamespace(optimizer=adam), [torch.nn.Linear(2, 2)]
scheduler = SimpleNamespace(state_dict=lambda: {"num_steps": 24})
loads = []


def row():
    noted = board.rows()[1]
    loss = None if math.isnan(noted.loss) else noted.loss
    return [noted.step, noted.activity, noted.process_id == os.getpid(), loss]


def called(name, answer):
    def function(*words, **keywords):
        seen = {"row": row(), "files": sorted(path.name for path in evidence.glob("*"))}
        seen["adam"] = sorted(adam.state[parameter]) if adam.state else None
        seen["words"] = [len(words), sorted(keywords)]
        calls.append([name, seen])
        return answer() if callable(answer) else answer
    return function


def load():
    iteration = loads.pop(0)
    if iteration:  # as the distributed optimizer does: the count comes back with the group alone
        adam.param_groups[0]["step"] = iteration
    return iteration, 17


training.train_step = called("train_step", "what it answers")
training.training_log = called("training_log", True)
training.save_checkpoint = called("save_checkpoint", None)
training.load_checkpoint = called("load_checkpoint", load)
megatron_lm.Watch(evidence, board).install(training)


def story(first):
    loads.append(first)
    answers = [training.load_checkpoint(model, optimizer, scheduler, strict=True)]
    after = [row()]
    answers.append(training.train_step("forward step", "data", iteration=first))
    after.append(row())
    answers.append(training.training_log({"lm loss": torch.tensor(2.5)}, {}, report_memory_flag=False))
    after.append(row())
    answers.append(training.training_log({}, {}))
    after.append(row())
    answers.append(training.save_checkpoint(first + 1, model, optimizer, scheduler, 99, context={}))
    after.append(row())
    happened, calls[:] = list(calls), []
    return {"answers": answers, "after": after, "calls": happened}


told["from the start"] = story(0)
told["steps from the start"] = float(adam.state[parameter]["step"])
told["restarted"] = story(3)
told["steps restarted"] = float(adam.state[parameter]["step"])
told["written"] = {path.name: json.loads(path.read_text()) for path in sorted(evidence.glob("*"))}

# what the machine lacks
initialised, compiled = [], []
training.initialize_megatron = lambda **keywords: initialised.append(keywords)
training.set_jit_fusion_options = lambda **keywords: torch.rand(3)
megatron_lm.serve_this_machine()
state = torch.get_rng_state()
training.set_jit_fusion_options(tp_size=1)
training.initialize_megatron(store=None)
rows = torch.utils.data.DataLoader(list(range(6)), batch_size=2, pin_memory=True)
batches = [batch.tolist() for batch in rows]
told["serves"] = [initialised, batches, rows.pin_memory, torch.equal(state, torch.get_rng_state())]
own = torch.Generator().manual_seed(7)
told["keeps a generator"] = torch.utils.data.DataLoader([1], generator=own).generator is own
told["devices"] = [megatron_lm._mapped(device, 4) for device in (0, 5, "cuda:5")]

# the compiled helpers of a wheel, when a checkout in front of it has none
import megatron.core.datasets as datasets
from importlib.machinery import EXTENSION_SUFFIXES
name, wheel = "megatron.core.datasets.helpers_cpp", list(datasets.__path__)
sys.modules.pop(name, None)
datasets.__path__ = [str(folder)]
megatron_lm._use_built_helpers()
helpers = sys.modules[name]
told["helpers"] = [Path(helpers.__file__).parent.samefile(wheel[0]), hasattr(helpers, "build_mapping")]
del sys.modules[name]
kept, sys.path[:] = list(sys.path), []
told["no helpers"] = raised(megatron_lm._use_built_helpers)
sys.path[:] = kept
datasets.__path__ = wheel

# a program that is run
for name in megatron_lm.WATCHED:
    setattr(training, name, lambda *_, **__: None)
order = []
sys.modules["order"] = SimpleNamespace(order=order)
plugin = folder / "plugin.py"
plugin.write_text(
    "import order\\nfrom megatron.training import training\\n"
    "order.order.append(type(training.train_step).__name__)"
)


def run(text):
    (folder / "pretrain_gpt.py").write_text(text)
    options = {"evidence": evidence, "rank_plugins": [plugin], "checkout": folder, "attempt": 0}
    return raised(lambda: megatron_lm.run(["--seed", "1"], **options))


told["ends"] = run("import sys, order; order.order.append([__name__, *sys.argv[1:]])")
told["order"] = list(order)
told["ends at an interval"] = run("raise SystemExit(0)")
told["ends without a code"] = run("raise SystemExit")
told["fails"] = run("raise SystemExit(3)")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return answer_of(PROGRAM, str(tmp_path_factory.mktemp("loop")))


def names(calls: list) -> list[str]:
    return [name for name, _ in calls]


def test_a_loop_that_lacks_functions_is_refused_before_anything_is_wrapped(told: dict) -> None:
    assert "has no training_log, save_checkpoint, load_checkpoint:" in told["lacks"]
    assert told["untouched"]


@pytest.mark.parametrize(("story", "first"), [("from the start", 0), ("restarted", 3)])
def test_the_loop_is_called_as_before_and_answers_as_before(told: dict, story: str, first: int) -> None:
    calls, answers = told[story]["calls"], told[story]["answers"]
    assert names(calls) == [
        "load_checkpoint",
        "train_step",
        "training_log",
        "training_log",
        "save_checkpoint",
    ]
    assert [seen["words"] for _, seen in calls] == [
        [3, ["strict"]],
        [2, ["iteration"]],
        [2, ["report_memory_flag"]],
        [2, []],
        [5, ["context"]],
    ]
    assert answers == [[first, 17], "what it answers", True, True, None]


@pytest.mark.parametrize(("story", "first"), [("from the start", 0), ("restarted", 3)])
def test_the_board_shows_what_a_hang_would_be_in(told: dict, story: str, first: int) -> None:
    during = [seen["row"][:3] for _, seen in told[story]["calls"]]
    assert during[1:] == [
        [first, "forward and backward", True],
        [first + 1, "logging", True],
        [first + 1, "logging", True],
        [first + 1, "saving checkpoint", True],
    ]
    assert during[0][1:] == ["loading checkpoint", True]
    assert [row[:2] for row in told[story]["after"]] == [[first, "starting"], *[[first + 1, "logging"]] * 4]


def test_the_loss_is_shown_by_the_rank_that_has_it(told: dict) -> None:
    assert [row[3] for row in told["from the start"]["after"]] == [None, None, 2.5, None, None]


def test_adam_has_a_state_before_the_load_and_its_steps_after_it(told: dict) -> None:
    for story in ("from the start", "restarted"):
        assert told[story]["calls"][0][1]["adam"] == ["exp_avg", "exp_avg_sq", "step"]
    assert told["steps from the start"] == 0.0
    assert told["steps restarted"] == 3.0


def test_digests_are_of_what_is_saved_and_of_what_was_loaded(told: dict) -> None:
    first, restarted = told["from the start"]["calls"], told["restarted"]["calls"]
    assert first[3][1]["files"] == [], "nothing was loaded"
    assert first[4][1]["files"] == ["saved_0000001_rank1.json"], (
        "before it is saved: the save changes nothing"
    )
    assert "loaded_0000003_rank1.json" not in restarted[0][1]["files"]
    assert "loaded_0000003_rank1.json" in restarted[1][1]["files"]
    written = told["written"]
    assert sorted(written) == [
        "loaded_0000003_rank1.json",
        "saved_0000001_rank1.json",
        "saved_0000004_rank1.json",
        "seconds_0000001_rank1.json",
        "seconds_0000003_rank1.json",
        "seconds_0000004_rank1.json",
    ]
    saved, loaded = written["saved_0000001_rank1.json"], written["loaded_0000003_rank1.json"]
    assert "next_batch" not in saved
    assert saved["consumed_samples"] == "24"
    assert saved["optimizer_steps"] != loaded["optimizer_steps"]
    assert saved["parameters"] == loaded["parameters"]
    assert set(written["seconds_0000004_rank1.json"]) == {"load", "save"}


def test_a_cpu_needs_no_cuda_and_moves_no_random_generator(told: dict) -> None:
    initialised, batches, pinned, unmoved = told["serves"]
    assert initialised == [{"store": None, "allow_no_cuda": True}]
    assert batches == [[0, 1], [2, 3], [4, 5]]
    assert pinned is False
    assert unmoved, "neither by a loader's seed nor by the warm-up of fused functions"
    assert told["keeps a generator"]


def test_local_ranks_share_the_gpus(told: dict) -> None:
    assert told["devices"] == [0, 1, "cuda:5"]


def test_a_checkout_without_compiled_helpers_gets_those_of_the_wheel(told: dict) -> None:
    assert told["helpers"] == [True, True]
    assert "install the pinned megatron-core wheel" in told["no helpers"]


def test_a_program_is_run_as_main_after_the_plugins_which_see_it_watched(told: dict) -> None:
    assert told["order"] == ["partial", ["__main__", "--seed", "1"]]


def test_only_an_exit_code_other_than_0_is_a_failure(told: dict) -> None:
    assert [told[name] for name in ("ends", "ends at an interval", "ends without a code")] == ["", "", ""]
    assert told["fails"] == "pretrain_gpt.py ended with exit code 3"

"""What is imported before ranks are forked, and where it is compiled."""

from __future__ import annotations

import pytest

from tests.program import answer_of
from tests.util.test_exits import child_ends_with_its_killed_parent

IMPORTS = """
import json, os, sys, tempfile, time
from tasks.launch import bytecode, imports

seen = tempfile.TemporaryFile("w+")


def import_all(wanted):
    print(wanted.device, "here" if os.getpid() == parent else "elsewhere", file=seen, flush=True)
    {inside}


parent = os.getpid()
imports._import_all = import_all
bytecode.is_missing = lambda: {missing}
bytecode.keep = lambda: None
sys.dont_write_bytecode = {dont_write}
"""
RUNS = """
try:
    imports.preload(imports.ImportSettings(device={device!r}))
except ImportError as error:
    print(error, file=seen, flush=True)
seen.seek(0)
print(json.dumps(seen.read().splitlines()))
"""
TWICE = """
import gc
for _ in range(2):
    imports.preload(imports.ImportSettings(device="cpu"))
seen.seek(0)
print(json.dumps([seen.read().splitlines(), gc.get_freeze_count() > 1000]))
"""
HANGS = """
imports.preload(imports.ImportSettings(device="cpu"))
"""


def imported(
    device: str, *, missing: bool = True, dont_write: bool = False, inside: str = "pass"
) -> list[str]:
    program = IMPORTS.format(missing=missing, dont_write=dont_write, inside=inside)
    return answer_of(program + RUNS.format(device=device))


def test_what_is_not_compiled_is_imported_elsewhere_first() -> None:
    """So that the ranks of the first run share no more memory with their parent than those of later ones."""
    assert imported("cpu") == ["cpu elsewhere", "cpu here"]


@pytest.mark.parametrize(
    ("device", "there"),
    [("cpu", {"missing": False}), ("cpu", {"dont_write": True}), ("cuda", {})],
    ids=["compiled", "not to be kept", "a GPU's memory is its allocator's"],
)
def test_nothing_is_imported_twice_where_that_gains_nothing(device: str, there: dict[str, bool]) -> None:
    assert imported(device, **there) == [f"{device} here"]


def test_what_is_imported_stays_shared_and_is_not_imported_again() -> None:
    program = IMPORTS.format(missing=False, dont_write=False, inside="pass")
    imports, frozen = answer_of(program + TWICE)
    assert imports == ["cpu here"]
    assert frozen, "a collection would copy what the ranks share"


def test_an_error_is_told_once_by_the_process_that_needs_the_import() -> None:
    wrong = "raise ImportError('no torch')"
    assert imported("cpu", inside=wrong) == ["cpu elsewhere", "cpu here", "no torch"]


def test_a_killed_parent_takes_along_what_compiles() -> None:
    slow = "print('ready', flush=True); time.sleep(60)"
    program = IMPORTS.format(missing=True, dont_write=False, inside=slow) + HANGS
    assert child_ends_with_its_killed_parent(program)


ON_A_GPU = """
import json, sys, types
from tasks.machine import cudnn, nccl
from tasks.launch import imports

initialized, calls = json.loads(sys.argv[1]), []
nccl.put_in_front = lambda *, ranks_per_gpu: calls.append(["nccl", ranks_per_gpu])
cudnn.put_in_front = lambda: calls.append(["cudnn"])
cuda = types.SimpleNamespace(is_initialized=lambda: initialized)
sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
imports._SHARED_MODULES = ()
subject = types.SimpleNamespace(own=False, preload=lambda device: calls.append([device]))
try:
    imports._import_all(imports.ImportSettings(device="cuda", ranks_per_gpu=4, trainer=subject))
except RuntimeError as error:
    calls.append(str(error))
print(json.dumps(calls))
"""


@pytest.mark.parametrize("initialized", [False, True])
def test_a_process_whose_cuda_is_initialised_forks_no_ranks(initialized: bool) -> None:
    refused = ["CUDA was initialised in the process that forks the ranks"] if initialized else []
    told = answer_of(ON_A_GPU, str(initialized).lower())
    assert told == [["nccl", 4], ["cudnn"], ["cuda"], *refused], "libraries before what loads others"

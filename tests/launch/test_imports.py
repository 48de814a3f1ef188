"""Imports before ranks are forked, and the process that compiles them."""

from __future__ import annotations

import pytest

from tests.program import child_ends_with_its_killed_parent, started_anew


def imported(device: str, *, missing: bool = True, dont_write: bool = False) -> list[str]:
    """The processes that import; in a new process, for each imports once."""
    finished = started_anew("imports.imported", device, missing, dont_write)
    assert finished.exit_code == 0, finished.stderr
    return finished.answer


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
    answer = started_anew("imports.imported_twice").answer
    assert answer["imports"] == ["cpu here"]
    assert answer["frozen"], "a collection would copy what the ranks share"


def test_an_error_is_reported_once_by_the_process_that_needs_the_import() -> None:
    expected = ["cpu elsewhere", "cpu here", "no torch"]
    assert started_anew("imports.import_that_fails").answer == expected


def test_a_killed_parent_takes_along_what_compiles() -> None:
    assert child_ends_with_its_killed_parent("imports.import_without_end")


@pytest.mark.parametrize("initialized", [False, True])
def test_a_process_whose_cuda_is_initialised_forks_no_ranks(initialized: bool) -> None:
    refused = ["CUDA was initialised in the process that forks the ranks"] if initialized else []
    calls = started_anew("imports.imported_on_a_gpu", initialized).answer
    assert calls == [["nccl", 4], ["cudnn"], ["cuda"], *refused], "libraries before what loads others"


def test_a_checkout_is_found_before_the_wheel_and_no_bytecode_is_written_into_it() -> None:
    behind_this_repository = 1
    found = started_anew("imports.checkout_in_front", "megatronics").answer
    assert found == [behind_this_repository, True, True]


@pytest.mark.parametrize("imported", ["megatron", "megatron.core"])
def test_no_checkout_is_found_first_once_megatron_is_imported(imported: str) -> None:
    refused = ["megatron was imported before the checkout could be put in front of the wheel", False]
    assert started_anew("imports.checkout_in_front", imported).answer == refused

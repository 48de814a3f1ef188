"""The stand-in for CUDA. It changes torch for good: what installs it takes a new process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import answer_of, started_anew


def test_every_name_in_the_table_exists_in_the_pinned_torch_and_has_a_reason() -> None:
    finished = started_anew("stand_in.table")  # torch as it is without the stand-in
    assert finished.exit_code == 0, finished.stderr
    names = finished.answer.pop("all")
    assert finished.answer == {"not in torch": [], "without a reason": [], "twice": []}
    assert len(names) > 40


def test_a_name_that_torch_no_longer_has_stops_the_installation() -> None:
    finished = started_anew("stand_in.install_without_a_name")
    assert finished.exit_code != 0
    assert "empty_cache" in finished.stderr


def test_packages_with_kernels_for_gpus_alone_are_not_taken(tmp_path: Path) -> None:
    for package in ("transformer_engine", "apex"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("__version__ = '2.20.2'")
    finished = started_anew("stand_in.finds_transformer_engine", str(tmp_path))
    assert finished.answer is False, finished.stderr


def test_it_refuses_a_cuda_host() -> None:
    finished = started_anew("stand_in.install_on_a_cuda_host")
    assert finished.exit_code != 0
    assert "must not be installed on a CUDA host" in finished.stderr


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("torch.ones(2, device='cuda').device", "cpu"),
        ("torch.zeros(2, device=torch.cuda.current_device()).cuda().device", "cpu"),
        ("torch.ones(2).to('cuda').device", "cpu"),
        ("torch.ones(2, dtype=torch.bfloat16).type()", "torch.cuda.BFloat16Tensor"),
        ("torch.ones(2).type(torch.float64).dtype", "torch.float64"),
        ("torch.cuda.memory_stats()['allocated_bytes.all.current'] > 10**6", "True"),
        ("torch.cuda.memory_stats()['allocated_bytes.all.peak'] > 10**6", "True"),
        ("torch.cuda.memory_stats_as_nested_dict()['allocated_bytes']['all']['peak'] > 10**6", "True"),
        ("10**6 < torch.cuda.memory_allocated() <= torch.cuda.max_memory_allocated()", "True"),
        ("10**6 < torch.cuda.memory_reserved() <= torch.cuda.max_memory_reserved()", "True"),
    ],
)
def test_what_asks_for_cuda_gets_the_cpu(expression: str, value: str) -> None:
    assert answer_of("stand_in.value_of", expression) == value


def test_memory_is_what_the_process_has_beyond_its_imports() -> None:
    after_imports, with_more = answer_of("stand_in.allocated_bytes")
    assert after_imports < 2**25
    assert 2**26 <= with_more < 2**26 + 2**25


def test_device_random_states_are_the_cpus() -> None:
    assert answer_of("stand_in.draws_again_after_a_restore")


def test_staging_for_a_checkpoint_copies() -> None:
    assert answer_of("stand_in.staged_before_a_change") == [1.0, 1.0, 1.0]


def test_pages_of_files_are_no_memory_of_the_process() -> None:
    growth = answer_of("stand_in.resident_growth_bytes")
    assert growth["file"] < 2**22
    assert 2**26 <= growth["own"] < 2**26 + 2**22
    assert growth["peak above"] > 2**25

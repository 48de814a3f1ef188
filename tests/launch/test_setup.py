"""What a phase is to run, from its command line, and what is refused before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
from collections import namedtuple
from pathlib import Path

import pytest

from tasks.cases import corpus
from tasks.cases.case import load_case
from tasks.launch import setup
from tasks.launch.options import add_phase_arguments
from tasks.launch.setup import named_data, understood
from tasks.launch.trainer import OURS
from tasks.machine import gpu_memory, platforms
from tasks.machine.nodes import ALONE, Nodes
from tasks.util.exits import CannotRun, UsageError
from tests.launch.test_phase import RESHARD, setup_of
from tests.machine.test_gpu_memory import H100

CRASHING, CALM = "gpt3_pp4_crash_resume", "gpt3_pp4_resume"


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    built = corpus.Built(prefix=Path("/corpus/text"), sha256="a" * 64, documents=1, sequences=1, tokens=1)
    monkeypatch.setattr(setup, "find_data", lambda case, path: built)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_phase_arguments(parser)
    return parser.parse_args([*words, "--run-dir", "runs/mine"])


def several(count: int) -> Nodes:
    return Nodes(count=count, rank=0, endpoint="127.0.0.1:29400")


@pytest.mark.parametrize(
    ("words", "restarts"),
    [
        ([CALM], 0),
        ([CRASHING], 1),
        ([CRASHING, "--max-restarts", "0"], 0),
        ([CRASHING, "--max-restarts", "3"], 3),
        ([CALM, "--max-restarts", "2"], 2),
    ],
)
def test_ranks_are_started_again_once_a_kill_or_as_often_as_was_said(words: list[str], restarts: int) -> None:
    assert setup.prepare(parsed(*words)).max_restarts == restarts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-restarts", "-1"], "--max-restarts -1: must be at least 0"),
        (["--retries", "-1"], "--retries -1: must be at least 0"),
        (["--hang-timeout", "-2"], "--hang-timeout -2.0: must be more than 0"),
        (["--hang-timeout", "nan"], "--hang-timeout nan: must be more than 0"),
        (["--case-file", "elsewhere.yaml"], "give one case"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        setup.prepare(parsed(CALM, *words))


def test_there_must_be_a_case() -> None:
    with pytest.raises(UsageError, match="give one case"):
        setup.prepare(parsed())


def test_ranks_are_killed_on_one_machine_alone() -> None:
    with pytest.raises(UsageError, match="kills ranks of one machine"):
        setup.prepare(parsed(CRASHING), several(2))
    assert setup.prepare(parsed(CALM), several(2)).fingerprint["nodes"] == "2"
    assert "nodes" not in setup.prepare(parsed(CALM), ALONE).fingerprint


def test_nodes_must_share_out_the_ranks_of_the_restart_too() -> None:
    trained = setup_of(RESHARD)
    assert dataclasses.replace(trained, nodes=several(4)).restarted().platform.world_size == 4
    with pytest.raises(UsageError, match="--nnodes 8: does not divide the restart's 4 ranks"):
        dataclasses.replace(trained, nodes=several(8)).restarted()


def test_ranks_of_all_nodes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="1, 2, 4 or 8 nodes"):
        setup.prepare(parsed(CALM), several(3))


@pytest.mark.parametrize("restarts", [False, True])
def test_what_does_not_fit_on_the_gpus_is_refused(monkeypatch: pytest.MonkeyPatch, restarts: bool) -> None:
    monkeypatch.setattr(platforms, "detect", lambda: platforms.gpu_platform((H100,)))
    monkeypatch.setattr(gpu_memory, "free_mib", lambda uuids: dict.fromkeys(uuids, 81000))
    made = setup.prepare(parsed(CALM))
    assert made.platform.ranks_per_gpu == 8
    monkeypatch.setattr(gpu_memory, "free_mib", lambda uuids: dict.fromkeys(uuids, 5000))
    with pytest.raises(CannotRun, match="5000 of 81559 MiB are free"):
        made.restarted() if restarts else setup.prepare(parsed(CALM))


@pytest.mark.parametrize(("free", "refused"), [(256 * 2**20, False), (256 * 2**20 - 1, True)])
def test_a_run_needs_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: bool) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 9, free))
    if refused:
        with pytest.raises(CannotRun, match="a run needs 256"):
            setup.check_space(tmp_path / "run")
    else:
        setup.check_space(tmp_path / "run")
        assert (tmp_path / "run").is_dir()


def test_the_data_set_of_the_flags_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_PATH", "/data")
    case = load_case("gpt3_pp4_resume_common_pile", platform_name="cpu_x86_64")
    assert named_data(case).is_relative_to(Path("/data/text/common_pile"))
    for named in (None, ["0.3", "a", "0.7", "b"], True):
        other = dataclasses.replace(case, model_args={**case.model_args, "--data-path": named})
        with pytest.raises(UsageError, match="is not the prefix of one data set"):
            named_data(other)


def test_what_our_program_does_not_understand_is_told_with_its_file() -> None:
    case = load_case("gpt3_pp4", platform_name="cpu_x86_64", overrides={"bf16": "no"})
    with pytest.raises(UsageError, match=r"gpt3_pp4/model_config.yaml: Megatron flags: --bf16: 'no' is more"):
        understood(case, platforms.detect(), OURS)

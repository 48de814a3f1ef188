"""Setup of a phase from its command line, and errors that are found before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from tasks.cases import corpus
from tasks.cases.loader import load_case
from tasks.launch import setup
from tasks.launch.options import add_phase_arguments
from tasks.launch.setup import named_data, understood
from tasks.launch.trainer import MEGATRON, OURS, TrainerUnderTest
from tasks.machine import gpu_memory, platforms
from tasks.machine.nodes import ALONE, Nodes
from tasks.util.exits import CannotRun, UsageError
from tests.machines import H100
from tests.setups import RESHARD, setup_of

CRASHING, CALM = "gpt3_pp4_crash_resume", "gpt3_pp4_resume"
THEIRS = TrainerUnderTest(loop=MEGATRON, name="stub", version="1")


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    built = corpus.Built(prefix=Path("/corpus/text"), sha256="a" * 64, documents=1, sequences=1, tokens=1)
    monkeypatch.setattr(setup, "find_data", lambda case, path: built)


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_phase_arguments(parser)
    return parser.parse_args([*argv, "--run-dir", "runs/mine"])


def several(count: int) -> Nodes:
    return Nodes(count=count, rank=0, endpoint="127.0.0.1:29400")


@pytest.mark.parametrize(
    ("argv", "restarts"),
    [
        ([CALM], 0),
        ([CRASHING], 1),
        ([CRASHING, "--max-restarts", "0"], 0),
        ([CRASHING, "--max-restarts", "3"], 3),
        ([CALM, "--max-restarts", "2"], 2),
    ],
)
def test_ranks_are_started_again_once_a_kill_or_as_often_as_asked(argv: list[str], restarts: int) -> None:
    assert setup.prepare(parsed(*argv)).max_restarts == restarts


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-restarts", "-1"], "--max-restarts -1: must be at least 0"),
        (["--retries", "-1"], "--retries -1: must be at least 0"),
        (["--hang-timeout", "-2"], "--hang-timeout -2.0: must be more than 0"),
        (["--hang-timeout", "nan"], "--hang-timeout nan: must be more than 0"),
        (["--case-file", "elsewhere.yaml"], "give one case"),
    ],
)
def test_options_that_make_no_sense_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        setup.prepare(parsed(CALM, *argv))


def test_a_machine_without_loopback_is_refused_before_ranks_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> None:
        raise CannotRun("no loopback")

    monkeypatch.setattr(setup, "check_loopback", unreachable)
    with pytest.raises(CannotRun, match="no loopback"):
        setup.prepare(parsed(CALM))
    assert setup.prepare(parsed(CALM), several(2)).platform.world_size == 8


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


def test_a_run_needs_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.check_shared_memory()
    usage = namedtuple("usage", "total used free")
    small = {Path("/dev/shm"): usage(2**20, 0, 2**20)}
    monkeypatch.setattr("shutil.disk_usage", lambda path: small.get(path, usage(2**40, 0, 2**40)))
    with pytest.raises(CannotRun, match=r"^/dev/shm: 1\.0 MiB free, a run needs 16: enlarge it \(mount -o"):
        setup.check_space(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(CannotRun, match="mount -t tmpfs tmpfs"):
        setup.check_shared_memory(tmp_path / "missing")


def test_the_data_set_of_the_flags_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_PATH", "/data")
    case = load_case("gpt3_pp4_resume_common_pile", platform_name="cpu_x86_64")
    assert named_data(case).is_relative_to(Path("/data/text/common_pile"))
    for named in (None, ["0.3", "a", "0.7", "b"], True):
        other = dataclasses.replace(case, model_args={**case.model_args, "--data-path": named})
        with pytest.raises(UsageError, match="is not the prefix of one data set"):
            named_data(other)


def test_flags_that_our_program_does_not_support_are_reported_with_their_file() -> None:
    case = load_case("gpt3_pp4", platform_name="cpu_x86_64", overrides={"optimizer": "sgd"})
    with pytest.raises(UsageError, match=r"model_config\.yaml: Megatron flags: --optimizer: 'sgd' is"):
        understood(case, platforms.detect(), OURS)
    assert understood(case, platforms.detect(), THEIRS) is None


def test_a_cpu_needs_its_flags() -> None:
    case = load_case("gpt3_pp4", platform_name="dgx_h100")
    with pytest.raises(
        UsageError, match=r"a CPU needs --distributed-backend gloo.*: give it under PLATFORMS"
    ):
        understood(case, platforms.detect(), OURS)
    assert understood(case, platforms.detect(), THEIRS) is case.arguments


@pytest.mark.parametrize(
    "size",
    [
        "micro-batch-size",
        "global-batch-size",
        "num-attention-heads",
        "num-layers",
        "pipeline-model-parallel-size",
        "tensor-model-parallel-size",
        "context-parallel-size",
        "num-layers-per-virtual-pipeline-stage",
        "make-vocab-size-divisible-by",
    ],
)
def test_a_checkout_cannot_divide_by_0_either(tmp_path: Path, size: str) -> None:
    for file in ("pretrain_gpt.py", "megatron/core/__init__.py", "megatron/training/training.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    case = load_case(CALM, platform_name="cpu_x86_64")
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"MODEL_ARGS": case.model_args}))
    argv = ["--case-file", str(tmp_path), "--megatron-lm", str(tmp_path), "--subject", "stub"]
    assert setup.prepare(parsed(*argv)).case.world_size == 8
    with pytest.raises(UsageError, match=f"--{size}: 0 must be a whole number of at least 1"):
        setup.prepare(parsed(*argv, "--set", f"{size}=0"))


def test_values_without_effect_are_reported_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "heir" / "model_config.yaml"
    file.parent.mkdir()
    file.write_text(f"INHERIT: {CALM}\nMODEL_ARGS: {{--hidden-size: 64}}\n")
    setup.prepare(parsed(str(file)))
    line = f"note: --hidden-size: 64 of heir has no effect: {CALM}, PLATFORMS.cpu_x86_64 sets 16\n"
    assert line in capsys.readouterr().out

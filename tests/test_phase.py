"""What a phase is launched with, without launching it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from tasks import corpus, nodes, phase, preparation
from tasks.case import load_case
from tasks.exits import TrainingFailed
from tasks.platforms import Gpu, Platform
from tasks.subject import MEGATRON, OURS, Subject

RESHARD = "gpt3_pp4_resume_reshard_pp4_dp1"
LOOP = Subject(trainer=MEGATRON, name="megatron-core-0.19.2", version="0.19.2")


def setup(case: str, gpus: int = 0, **options: object) -> preparation.Setup:
    """A case on eight ranks of the CPU, or of so many GPUs."""
    platform = Platform(
        name=f"gpu{gpus}_h100" if gpus else "cpu_x86_64",
        device="cuda" if gpus else "cpu",
        gpus=tuple(
            Gpu(
                index=index,
                uuid=f"GPU-{index}",
                name="NVIDIA H100",
                memory_mib=81559,
                compute_capability=9.0,
                driver="580.1",
            )
            for index in range(gpus)
        ),
        world_size=8,
        ranks_per_gpu=8 // gpus if gpus else 0,
        env_vars={},
        notes=(),
    )
    return preparation.Setup(
        case=load_case(case, platform_name=platform.name),
        platform=platform,
        data=corpus.Built(prefix=Path("/corpus/text"), sha256="a" * 64, documents=1, sequences=1, tokens=1),
        run_dir=Path("/run"),
        rank_plugins=(),
        hang_timeout_s=None,
        max_restarts=0,
        nodes=nodes.ALONE,
        **options,
    )


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize(("gpus", "ranks_per_gpu"), [(0, 0), (1, 4), (2, 2), (8, 1)])
def test_a_restart_on_fewer_ranks_shares_the_gpus_it_has(gpus: int, ranks_per_gpu: int) -> None:
    restarted = setup(RESHARD, gpus).restarted()
    assert (restarted.platform.world_size, restarted.platform.ranks_per_gpu) == (4, ranks_per_gpu)
    assert "--no-load-rng" in phase.phase_words(restarted, 2, 10)


@pytest.mark.parametrize(("number", "left"), [(1, set()), (2, {"phase1.json", "actual_phase1.json"})])
def test_results_of_an_earlier_launch_are_not_judged_again(tmp_path: Path, number: int, left: set) -> None:
    names = [f"{name}{phase}.json" for name in ("phase", "actual_phase") for phase in (1, 2)]
    for name in (*names, "actual_phase2_attempt1.json", "report.json", "case.json"):
        (tmp_path / name).touch()
    phase._forget_results(tmp_path, number)
    assert {path.name for path in tmp_path.iterdir()} == {"case.json", *left}


def test_a_case_without_another_layout_is_restarted_as_it_was_trained() -> None:
    trained = setup("gpt3_pp4_resume")
    assert trained.restarted() == trained


def test_a_restart_has_other_flags_and_the_same_checkpoint() -> None:
    trained = setup("gpt3_pp4_resume_reshard_pp2_dp4")
    before, after = phase.phase_words(trained, 1, None), phase.phase_words(trained.restarted(), 2, 10)
    flag = "--pipeline-model-parallel-size"
    assert (value(before, flag), value(after, flag)) == ("4", "2")
    assert "--no-load-rng" not in before
    assert value(before, "--save") == value(after, "--load") == "/run/checkpoints"
    assert value(after, "--ckpt-step") == "10"


def test_a_checkpoint_that_the_run_did_not_make_is_loaded_and_not_saved_over() -> None:
    kept = dataclasses.replace(setup("gpt3_pp4_frozen_resume"), load_from=Path("/kept"))
    words = phase.phase_words(kept, 1, 10)
    assert (value(words, "--load"), value(words, "--save")) == ("/kept", "/run/checkpoints")
    assert (value(words, "--ckpt-step"), "--exit-on-missing-checkpoint" in words) == ("10", True)


@pytest.mark.parametrize(
    ("subject", "last_logged", "refused"),
    [
        (OURS, 99, True),
        (OURS, 100, False),
        (LOOP, 97, True),  # it logs the loss at every third step, whatever --log-interval says
        (LOOP, 99, False),
    ],
)
def test_ranks_that_end_before_the_last_step_that_is_logged_have_failed(
    subject: Subject, last_logged: int, refused: bool
) -> None:
    made = setup("gpt3_pp4_resume", subject=subject)
    flags = {
        **made.case.model_args,
        "--train-iters": 100,
        "--log-interval": 10,
        "--tensorboard-log-interval": 3,
    }
    made = dataclasses.replace(made, case=dataclasses.replace(made.case, model_args=flags))
    expected = pytest.raises(TrainingFailed, match=f"after step {last_logged} of 100")
    with expected if refused else contextlib.nullcontext():
        phase._refuse_early_end(made, last_logged, Path("/run/phase1"))

"""Arguments of a phase's launch, without launching it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from tasks.launch import phase
from tasks.launch.agent import PhaseResult
from tasks.launch.killer import Killed
from tasks.launch.node_barrier import NodeBarrier
from tasks.launch.setup import Setup
from tasks.launch.trainer import MEGATRON, OURS, TrainerUnderTest
from tasks.machine import nodes
from tasks.records.attempts import begin_line
from tasks.records.card_store import read_card
from tasks.records.checkpoints import FALLBACKS
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity, Topology
from tasks.util.exits import TrainingFailed, UsageError
from tests.event_files import event, write_events
from tests.setups import RESHARD, setup_of

LOOP = TrainerUnderTest(loop=MEGATRON, name="megatron-core-0.19.2", version="0.19.2")


def value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(("gpus", "ranks_per_gpu"), [(0, 0), (1, 4), (2, 2), (8, 1)])
def test_a_restart_on_fewer_ranks_shares_the_gpus_it_has(gpus: int, ranks_per_gpu: int) -> None:
    restarted = setup_of(RESHARD, gpus).restarted()
    assert (restarted.platform.world_size, restarted.platform.ranks_per_gpu) == (4, ranks_per_gpu)
    assert "--no-load-rng" in phase.phase_argv(restarted, 2, 10)


@pytest.mark.parametrize(("number", "left"), [(1, set()), (2, {"phase1.json", "actual_phase1.json"})])
def test_results_of_an_earlier_launch_are_not_judged_again(tmp_path: Path, number: int, left: set) -> None:
    names = [f"{name}{phase}.json" for name in ("phase", "actual_phase") for phase in (1, 2)]
    for name in (*names, "actual_phase2_attempt1.json", "report.json", "case.json"):
        (tmp_path / name).touch()
    phase._forget_results(tmp_path, number)
    assert {path.name for path in tmp_path.iterdir()} == {"case.json", *left}


def test_a_case_without_another_layout_is_restarted_as_it_was_trained() -> None:
    trained = setup_of("gpt3_pp4_resume")
    assert trained.restarted() == trained


def test_a_restart_has_other_flags_and_the_same_checkpoint() -> None:
    trained = setup_of("gpt3_pp4_resume_reshard_pp2_dp4")
    before, after = phase.phase_argv(trained, 1, None), phase.phase_argv(trained.restarted(), 2, 10)
    flag = "--pipeline-model-parallel-size"
    assert (value(before, flag), value(after, flag)) == ("4", "2")
    assert "--no-load-rng" not in before
    assert value(before, "--save") == value(after, "--load") == "/run/checkpoints"
    assert value(after, "--save") == "/run/phase2/checkpoints", "those of phase 1 stay as they are"
    assert ("--exit-on-missing-checkpoint" in before, "--exit-on-missing-checkpoint" in after) == (
        False,
        True,
    )
    assert value(after, "--ckpt-step") == "10"


def test_a_checkpoint_that_the_run_did_not_make_is_loaded_and_not_saved_over() -> None:
    kept = dataclasses.replace(setup_of("gpt3_pp4_frozen_resume"), load_from=Path("/kept"))
    argv = phase.phase_argv(kept, 1, 10)
    assert (value(argv, "--load"), value(argv, "--save")) == ("/kept", "/run/checkpoints")
    assert (value(argv, "--ckpt-step"), "--exit-on-missing-checkpoint" in argv) == ("10", True)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_launched_is_what_was_prepared_and_node_0_alone_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    launched, results, meets = [], [], []
    outcome = PhaseResult(kills=(), start_s=1.0, total_s=2.0)
    monkeypatch.setattr(phase, "launch", lambda what: launched.append(what) or outcome)
    monkeypatch.setattr(phase, "collect", lambda *what: results.append(what))
    monkeypatch.setattr(NodeBarrier, "ready", lambda _, facts: meets.append(facts))
    nodes_here = nodes.Nodes(count=2, rank=rank, endpoint="127.0.0.1:29400")
    made = dataclasses.replace(
        setup_of("gpt3_pp4_resume"), run_dir=tmp_path, hang_timeout_s=8.0, max_restarts=2, nodes=nodes_here
    )
    (tmp_path / "phase2.json").touch()
    other = CheckpointIdentity(case=None, topology=None)
    phase.run_phase(made, 2, NodeBarrier(nodes_here, tmp_path, "resume"), load_iteration=50)
    phase.run_phase(made, 2, NodeBarrier(nodes_here, tmp_path, "resume"), load_iteration=50, expected=other)
    first, second = launched
    assert (first.setup, first.steps, first.directory) == (made, (51, 100), tmp_path / "phase2")
    assert first.import_settings.env_vars == made.platform.variables(made.case.env_vars)
    assert first.expected == first.identity == second.identity == phase.identity_of(made)
    assert second.expected == other
    facts = made.fingerprint
    assert meets == [facts] * 2
    assert results == ([(made, 2, outcome, facts)] * 2 if rank == 0 else [])
    assert (tmp_path / "phase2.json").exists() is (rank == 1), "node 0 forgets what is judged no more"


# ---- what is collected ----

FACTS = {"commit": "c" * 40}


def left(tmp_path: Path, *attempts: tuple[int, int, int | None]) -> Setup:
    """A phase of two ranks that ended; of each attempt: first step, last step, and what it had loaded."""
    made = setup_of("gpt3_pp4_resume")
    directory = tmp_path / "phase1"
    directory.mkdir()
    for number, (first, last, loaded) in enumerate(attempts):
        evidence = directory / "evidence" / f"attempt{number}"
        evidence.mkdir(parents=True)
        events = [
            event("lm loss", step, 5.0 - step / 100 - number, time=1.0 + number)
            for step in range(first, last + 1)
        ]
        write_events(directory / "tensorboard", f"1.attempt{number}", *events)
        for rank in range(2):
            with (directory / f"rank{rank}.log").open("a") as log:
                print(begin_line(rank, number, 100 * number + rank), file=log)
            (evidence / f"saved_{last:07d}_rank{rank}.json").write_text('{"rng": "a"}')
            if loaded is not None:
                (evidence / f"loaded_{loaded:07d}_rank{rank}.json").write_text('{"rng": "b"}')
    platform = dataclasses.replace(made.platform, world_size=2)
    return dataclasses.replace(made, run_dir=tmp_path, platform=platform)


def collected(made: Setup, *kills: Killed) -> dict:
    phase.collect(made, 1, PhaseResult(kills=kills, start_s=1.5, total_s=9.0), FACTS)
    return json.loads((made.run_dir / "phase1.json").read_text())


def test_a_phase_records_what_its_one_attempt_did(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("")
    made = dataclasses.replace(left(tmp_path, (1, 100, None)), rank_plugins=(plugin,))
    record = collected(made)
    assert (record["phase"], record["steps"], record["restarts"], record["kills"]) == (1, [1, 100], 0, [])
    assert (record["loaded_iteration"], list(record["state"]), record["fingerprint"]) == (
        None,
        ["100"],
        FACTS,
    )
    assert record["seconds"] == {"start": 1.5, "total": 9.0}
    assert record["rank_plugins"] == {str(plugin): hashlib.sha256(b"").hexdigest()}
    assert record["fallbacks"] == []
    assert sorted(path.name for path in tmp_path.glob("actual*")) == ["actual_phase1.json"]


def test_of_several_attempts_the_last_one_is_the_phases_and_each_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = left(tmp_path, (1, 74, None), (51, 100, 50))
    (tmp_path / "phase1/evidence/attempt1" / FALLBACKS).write_text("checkpoint not used: why\nresuming\n")
    killed = Killed(after_step=73, processes={2: 2}, ended=True, newest_checkpoint=50)
    record = collected(made, killed)
    assert (record["steps"], record["restarts"], record["loaded_iteration"]) == ([1, 100], 1, 50)
    assert (record["kills"][0]["after_step"], sorted(record["state"])) == (73, ["100", "50"])
    assert [attempt["steps"] for attempt in record["attempts"]] == [[1, 74], [51, 100]]
    assert record["fallbacks"] == ["checkpoint not used: why", "resuming"]
    assert "phase 1: checkpoint not used: why\n" in capsys.readouterr().out
    kept = [read_card(tmp_path / f"actual_phase1_attempt{number}.json").metrics for number in (0, 1)]
    assert [metrics["lm loss"].steps[-1] for metrics in kept] == [74, 100]
    whole = read_card(tmp_path / "actual_phase1.json").metrics["lm loss"]
    assert whole.steps.tolist() == list(range(1, 101))
    assert (whole.values[49] > 4, whole.values[50] < 4) == (True, True), (
        "what the later attempt logged counts"
    )


def test_a_phase_that_logged_nothing_or_ended_early_has_failed(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    with pytest.raises(TrainingFailed, match="after step 99 of 100, without an error"):
        collected(left(tmp_path / "early", (1, 99, None)))
    made = left(tmp_path, (1, 1, None))
    (tmp_path / "phase1/tensorboard/events.out.tfevents.1.attempt0").unlink()
    write_events(tmp_path / "phase1/tensorboard", "1.attempt0", event("grad-norm", 1, 1.0))
    with pytest.raises(TrainingFailed, match="no lm loss was recorded"):
        collected(made)
    assert not list(tmp_path.glob("*.json"))


# ---- what a restart must be of ----


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": None}, "has no fingerprint of a run"),
        ({"case": "f" * 64}, "trained with another case"),
        ({"corpus": "f" * 64}, "trained with another corpus"),
        ({"megatron-lm": "19ba895"}, "trained by another program"),
        ({"torch": "1.0.0"}, r"trained elsewhere \(torch 1\.0\.0"),
    ],
)
def test_a_run_is_restarted_as_it_was_trained_and_where(tmp_path: Path, changed: dict, message: str) -> None:
    made = dataclasses.replace(setup_of("gpt3_pp4_resume"), run_dir=tmp_path)
    phase.write_case_file(made)
    phase.check_same_run(made)
    content = json.loads((tmp_path / "case.json").read_text())
    content["fingerprint"] = None if "fingerprint" in changed else content["fingerprint"] | changed
    (tmp_path / "case.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        phase.check_same_run(made)


def test_a_checkpoint_is_of_its_case_and_topology_and_megatron_lm_says_nothing_of_it() -> None:
    made = setup_of("gpt3_pp4_resume")
    topology = Topology(pipeline_stages=4, virtual_stages=3, replicas=2)
    assert phase.identity_of(made) == CheckpointIdentity(case=made.case.digest, topology=topology)
    assert phase.identity_of(dataclasses.replace(made, trainer=LOOP)) == ANY_IDENTITY


@pytest.mark.parametrize(("interval", "iteration"), [(50, 50), (40, 80), (99, 99), (100, None), (None, None)])
def test_a_restart_goes_on_from_the_last_checkpoint_before_the_end(
    interval: int | None, iteration: int | None
) -> None:
    case = setup_of("gpt3_pp4_resume").case
    flags = {**case.model_args, "--train-iters": 100, "--save-interval": interval}
    case = dataclasses.replace(case, model_args=flags)
    if iteration is None:
        with pytest.raises(UsageError, match="no checkpoint before iteration 100 to restart from"):
            phase.resume_iteration(case)
    else:
        assert phase.resume_iteration(case) == iteration


# ---- ends ----


@pytest.mark.parametrize(
    ("trainer", "last_logged", "refused"),
    [
        (OURS, 99, True),
        (OURS, 100, False),
        (LOOP, 97, True),  # it logs the loss at every third step, whatever --log-interval says
        (LOOP, 99, False),
    ],
)
def test_ranks_that_end_before_the_last_step_that_is_logged_have_failed(
    trainer: TrainerUnderTest, last_logged: int, refused: bool
) -> None:
    made = setup_of("gpt3_pp4_resume", trainer=trainer)
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

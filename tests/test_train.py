"""Step 1, with real ranks; and what it refuses before any rank starts."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tasks import train
from tasks.records.card_store import read_card
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import REPOSITORY
from tests import short_run

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")


def refused(tmp_path: Path, *options: str) -> str:
    with pytest.raises(UsageError) as error:
        train.main([short_run.CASE, "--run-dir", str(tmp_path / "run"), *options])
    assert not (tmp_path / "run" / "phase1").exists()
    return str(error.value)


def test_what_a_cpu_has_not_is_refused_before_a_rank_starts(tmp_path: Path) -> None:
    said = refused(tmp_path, "--set", "distributed-backend=nccl", "--set", "no-persist-layer-norm=false")
    assert "a CPU needs --distributed-backend gloo; a CPU needs --no-persist-layer-norm: give it" in said


@pytest.mark.parametrize("place", ["", ".", "tests/.."])
def test_no_run_is_kept_in_the_checkout_itself(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UsageError, match="is the checkout itself: give a folder of its own"):
        train.main([short_run.CASE, "--run-dir", place])


@pytest.mark.training
def test_a_run_leaves_values_of_every_step_and_digests_of_every_rank(trained: Path) -> None:
    card = read_card(trained / "actual_phase1.json")
    for name in ("lm loss", "num-zeros", "grad-norm", "learning-rate", "params-norm", "iteration-time"):
        assert card.metrics[name].steps.tolist() == [1, 2, 3, 4], name
        assert card.metrics[name].full_precision, name
    record = json.loads((trained / "phase1.json").read_text())
    assert record["steps"] == [1, 4]
    assert record["loaded_iteration"] is None
    assert record["restarts"] == 0
    assert sorted(record["state"]) == ["2", "4"]
    assert sorted(record["state"]["2"]) == [str(rank) for rank in range(8)]
    digests = record["state"]["2"]["0"]
    assert digests["consumed_samples"] == "16"
    assert len({digests[name] for name in ("parameters", "master_weights", "exp_avg", "exp_avg_sq")}) == 4
    assert (trained / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "4"


@pytest.mark.training
def test_a_good_run_leaves_no_traceback_in_a_log(trained: Path) -> None:
    logs = sorted((trained / "phase1").glob("rank*.log"))
    assert len(logs) == 8
    assert [log.name for log in logs if "Traceback" in log.read_text()] == []


@pytest.mark.training
def test_data_parallel_replicas_hold_equal_parameters_and_stages_do_not(trained: Path) -> None:
    state = json.loads((trained / "phase1.json").read_text())["state"]["4"]
    parameters = [state[str(rank)]["parameters"] for rank in range(8)]
    assert parameters[0::2] == parameters[1::2]
    assert len(set(parameters)) == 4


@pytest.mark.training
def test_a_run_directory_is_never_used_twice(trained: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run"):
        train.main([short_run.CASE, "--run-dir", str(trained)])


@pytest.mark.training
def test_retries_do_not_take_apart_the_run_that_is_there(trained: Path) -> None:
    before = sorted(path.name for path in trained.iterdir())
    with pytest.raises(UsageError, match="already holds a run"):
        train.main([short_run.CASE, "--run-dir", str(trained), "--retries", "1", "--set", "nonsense=3"])
    assert sorted(path.name for path in trained.iterdir()) == before


@pytest.mark.training
def test_a_loss_that_is_no_number_ends_training_and_names_its_step(tmp_path: Path) -> None:
    plugin = tmp_path / "nan_loss.py"
    plugin.write_text(
        "from tasks.ranks import scalars\n"
        "mean, calls = scalars.mean_loss, []\n"
        "def third_is_nan(losses):\n"
        "    calls.append(1)\n"
        "    return mean(losses) * (float('nan') if len(calls) == 3 else 1.0)\n"
        "scalars.mean_loss = third_is_nan\n"
    )
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin)
    assert finished.returncode == 3
    assert "lm loss is nan at iteration 3" in finished.stdout


@pytest.mark.training
def test_a_stopped_run_goes_on_from_its_newest_checkpoint_and_says_so(trained: Path, tmp_path: Path) -> None:
    plugin, run_dir = tmp_path / "sleeper.py", tmp_path / "run"
    plugin.write_text(
        "import time\n"
        "from tasks.ranks import pretrain\n"
        "step = pretrain.Trainer.step\n"
        "def sleeping(self):\n"
        "    if self.iteration == 3:\n"
        "        self.checkpoints.finish_saves(blocking=True)\n"
        "        time.sleep(3600)\n"
        "    step(self)\n"
        "pretrain.Trainer.step = sleeping\n"
    )
    command = short_run.command("train", run_dir, "--rank-plugin", plugin)
    with subprocess.Popen(command, cwd=short_run.REPOSITORY) as process:
        while not (run_dir / "checkpoints" / "latest_checkpointed_iteration.txt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(10) == 130
    assert short_run.processes_of(run_dir) == []
    again = short_run.run("train", run_dir)
    assert again.returncode == 2
    assert "go on with it: --continue" in again.stdout
    finished = short_run.run("train", run_dir, "--continue")
    assert finished.returncode == 0, finished.stdout
    clean, stopped = (read_card(path / "actual_phase1.json").metrics for path in (trained, run_dir))
    assert stopped["lm loss"].values.tolist() == clean["lm loss"].values.tolist()
    record = json.loads((run_dir / "phase1.json").read_text())
    assert (record["loaded_iteration"], record["restarts"], record["kills"]) == (2, 1, [])
    with pytest.raises(UsageError, match="nothing to go on with"):
        train.main([short_run.CASE, "--run-dir", str(run_dir), *short_run.SHORT, "--continue"])


def test_there_must_be_a_run_to_go_on_with(tmp_path: Path) -> None:
    assert "drop --continue" in refused(tmp_path, "--continue")
    assert "--from-start: gpt3_pp4_resume begins" in refused(tmp_path, "--from-start")
    assert "--continue and --retries" in refused(tmp_path, "--continue", "--retries", "1")


def test_an_unknown_case_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean gpt3_pp4_resume"):
        train.main(["gpt3_pp4_resum", "--run-dir", str(tmp_path)])


def test_an_unknown_flag_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    message = refused(tmp_path, "--set", "overlap-grad-reduc=true")
    assert "--overlap-grad-reduc" in message
    assert "did you mean --overlap-grad-reduce" in message


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("num-layers=10", "num-layers"), ("global-batch-size=9", "global-batch-size")],
)
def test_what_does_not_divide_is_refused(tmp_path: Path, setting: str, expected: str) -> None:
    assert expected in refused(tmp_path, "--set", setting)


def test_a_missing_rank_plugin_and_a_bad_timeout_are_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path, "--rank-plugin", str(tmp_path / "absent.py"))
    assert "must be more than 0" in refused(tmp_path, "--hang-timeout", "0")


def test_a_text_with_another_digest_is_refused(tmp_path: Path) -> None:
    case = tmp_path / "changed" / "model_config.yaml"
    case.parent.mkdir()
    original = REPOSITORY / "test_cases" / short_run.CASE / "model_config.yaml"
    text = original.read_text()
    case.write_text(text.replace('sha256: "98', 'sha256: "99'))
    assert case.read_text() != text
    with pytest.raises(UsageError, match="digest"):
        train.main([str(case), "--run-dir", str(tmp_path / "run")])


@pytest.mark.parametrize(("tokens", "split"), [(9, "1,99,0"), (0, "1")])
def test_a_data_set_that_leaves_nothing_to_train_on_is_refused(
    tmp_path: Path, tokens: int, split: str
) -> None:
    """megatron-core would build the index of its samples without end."""
    one_document = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 1, 2) + struct.pack(
        "<iqqq", tokens, 0, 0, 1
    )
    (tmp_path / "own.idx").write_bytes(one_document)
    (tmp_path / "own.bin").write_bytes(bytes(2 * tokens))
    said = refused(tmp_path, "--data-path", str(tmp_path / "own"), "--set", f"split={split}")
    assert f"own: 1 sequences, {tokens} tokens: --split {split} leaves none to train on" in said


def test_a_case_whose_data_set_is_not_here_says_how_to_point_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_PATH", raising=False)
    argv = ["gpt3_pp4_resume_common_pile", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(CannotRun, match="export DATA_PATH="):
        train.main(argv)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"there is no .*my-gpt3_00_text_document\.bin"):
        train.main(argv)

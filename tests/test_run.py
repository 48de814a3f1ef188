"""One case, with steps that only record their arguments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.records.run_lock import lock_file
from tests.stub_checkout import add_sound_case, calls, nox_environment, task


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return task(folder, "tasks.run", *arguments, **variables)


# ---- steps ----


def test_a_case_is_four_steps_in_order(checkout: Path) -> None:
    outcome = run(checkout, "first")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout) == [
        "train first --run-dir RUN/first",
        "resume first --run-dir RUN/first",
        "diff first --run-dir RUN/first",
        "report --run-dir RUN/first",
    ]
    assert not (checkout / "runs/regress.json").exists(), "that is the record of several cases"


def test_options_reach_the_steps_that_take_them(checkout: Path) -> None:
    options = ["--run-dir", "mine", "--set", "train-iters=60", "--set", "lr=1", "--rank-plugin", "p.py"]
    options += ["--data-path", "d", "--hang-timeout", "9.0", "--max-restarts", "1", "--retries", "1"]
    outcome = run(checkout, "first", *options)
    assert outcome.returncode == 0, outcome.stdout
    launch = "first --run-dir mine --set train-iters=60 --set lr=1 --rank-plugin p.py --data-path d"
    launch += " --hang-timeout 9.0 --max-restarts 1 --retries 1"
    assert calls(checkout) == [
        f"train {launch}",
        f"resume {launch}",
        "diff first --run-dir mine",
        "report --run-dir mine",
    ]


def test_two_runs_never_share_a_directory(checkout: Path) -> None:
    run(checkout, "first")
    run(checkout, "first")
    directories = {line.split()[-1] for line in (checkout / "calls.txt").read_text().splitlines()}
    assert len(directories) == 2


def test_a_dry_run_prints_the_steps_and_runs_nothing(checkout: Path) -> None:
    card = add_sound_case(checkout, "first")
    outcome = run(checkout, "first", "--dry-run", "--set", "lr=1")
    assert outcome.returncode == 0
    steps = re.findall(r"^would run: python -m tasks\.(\w+)", outcome.stdout, re.MULTILINE)
    assert steps == ["train", "resume", "diff", "report"]
    assert re.search(r"platform: cpu_\w+, 8 ranks; environment", outcome.stdout)
    assert f"golden card: goldens/first/{card.name}\n" in outcome.stdout
    card.unlink()
    without = run(checkout, "first", "--dry-run")
    assert without.returncode == 2
    assert "error: no golden card of first" in without.stdout
    assert "would run: python -m tasks.report" in without.stdout
    assert not calls(checkout)
    assert not (checkout / "runs").exists()


def test_several_machines_are_named_to_every_step_and_node_0_draws(checkout: Path) -> None:
    together = ["--nnodes", "2", "--rdzv-endpoint", "127.0.0.1:29400", "--run-dir", "shared"]
    for rank, last in (("0", "report"), ("1", "diff")):
        (checkout / "calls.txt").unlink(missing_ok=True)
        outcome = run(checkout, "first", *together, "--node-rank", rank)
        assert outcome.returncode == 0, outcome.stdout
        lines = [line.split() for line in calls(checkout)]
        assert lines[-1][0] == last
        assert all(line[line.index("--node-rank") + 1] == rank for line in lines if line[0] != "report")


def test_a_checkout_is_compared_with_another_without_a_card(checkout: Path) -> None:
    outcome = run(
        checkout,
        *("first", "--run-dir", "here", "--set", "lr=1", "--megatron-lm", "mine"),
        *("--subject", "branch", "--baseline", "theirs"),
    )
    assert outcome.returncode == 0, outcome.stdout
    tested = "--run-dir here --set lr=1 --megatron-lm mine --subject branch"
    assert calls(checkout) == [
        "train first --run-dir here/baseline --set lr=1 --megatron-lm theirs",
        f"train first {tested}",
        f"resume first {tested}",
        "diff first --run-dir here --golden here/baseline/actual_phase1.json",
        "report --run-dir here --golden here/baseline/actual_phase1.json",
    ]


def test_a_case_file_of_megatron_lm_is_run_as_it_is(checkout: Path) -> None:
    file = checkout / "theirs" / "model_config.yaml"
    outcome = run(checkout, "--case-file", str(file), "--run-dir", "here")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout)[0] == f"train --case-file {file} --run-dir here"
    (checkout / "theirs").mkdir()
    run(checkout, "--case-file", str(file.parent))
    assert calls(checkout)[-1] == "report --run-dir RUN/theirs"


# ---- how it ends ----


@pytest.mark.parametrize("code", [2, 3, 4, 5])
@pytest.mark.parametrize("step", ["train", "resume"])
def test_a_training_that_fails_ends_it_with_its_code(checkout: Path, step: str, code: int) -> None:
    (checkout / "mine").mkdir()
    outcome = run(checkout, "first", "--run-dir", "mine", **{f"{step.upper()}_EXITS": str(code)})
    assert outcome.returncode == code
    assert f"(exit code {code}); see mine" in outcome.stdout
    assert [line.split()[0] for line in calls(checkout)][-1] == step


@pytest.mark.parametrize(("answer", "code"), [("1", 3), ("killed", 3), ("77", 3)])
def test_a_training_that_crashes_is_no_verdict(checkout: Path, answer: str, code: int) -> None:
    outcome = run(checkout, "first", TRAIN_EXITS=answer)
    assert outcome.returncode == code
    assert outcome.stdout.endswith("first: training failed (exit code 3)\n"), "nothing was written to see"


@pytest.mark.parametrize("code", [1, 2])
def test_the_verdict_is_the_exit_code_and_the_report_is_drawn(checkout: Path, code: int) -> None:
    outcome = run(checkout, "first", DIFF_EXITS=str(code))
    assert outcome.returncode == code
    assert calls(checkout)[-1].startswith("report")


def test_a_report_that_cannot_be_drawn_is_no_pass(checkout: Path) -> None:
    assert run(checkout, "first", REPORT_EXITS="2").returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "a:1"], "give --run-dir DIR"),
        (["--node-rank", "1"], "need --nnodes"),
    ],
)
def test_half_of_what_several_machines_need_is_bad_usage(
    checkout: Path, options: list[str], message: str
) -> None:
    outcome = run(checkout, "first", *options)
    assert outcome.returncode == 2
    assert message in outcome.stdout
    assert not calls(checkout)


def test_a_run_directory_that_cannot_be_made_is_no_traceback(checkout: Path) -> None:
    (checkout / "file").write_text("")
    outcome = run(checkout, "first", "--run-dir", "file/run")
    assert outcome.returncode == 5
    assert "choose another --run-dir" in outcome.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_running_step_and_all_that_would_follow(checkout: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.run", "first", "--run-dir", "mine"],
        cwd=checkout,
        env=nox_environment(TRAIN_EXITS="waits"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run with "&"
    )
    assert any("waiting" in line for line in iter(process.stdout.readline, ""))
    assert lock_file(checkout / "mine").exists(), "clean must leave a running case alone"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130, rest
    assert calls(checkout) == ["train first --run-dir mine", "stopped"]
    assert not lock_file(checkout / "mine").exists()

"""The benchmark of the full-size case: which tasks it runs, what it writes down, and when it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import full_size as benchmark
from tasks.machine import platforms
from tasks.records.card import metric_from
from tasks.util.exits import UsageError
from tests.fake_run import card, write_run

GPUS = platforms.parse_gpus(
    "".join(
        f"{index}, GPU-{index}, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.1, Disabled\n" for index in range(4)
    )
)
METRICS = ["lm loss", "grad-norm", "num-zeros", "mem-max-allocated-bytes", "iteration-time"]


def finished_run(directory: Path, *, off_at: int | None = None) -> None:
    """Both phases, as the tasks leave them; ``off_at``: the step at which a loss parts."""
    values = card(
        metrics=METRICS, change=lambda name, step, v: v + 1.0 if (name, step) == ("lm loss", off_at) else v
    )
    for name in ("params-norm", "learning-rate"):
        values.metrics[name] = metric_from(range(1, 101), [0.5] * 100)
    write_run(directory, phase1=values)
    for phase in (1, 2):
        path = directory / f"phase{phase}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"start": 3.0}}))
    (directory / "checkpoints").mkdir()


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    """Tasks that only leave what real ones do: ``called`` has their words, ``codes`` what they shall exit
    with by name, ``off_at`` where a run's loss parts."""
    state: dict = {"called": [], "codes": {}, "off_at": {}}

    def call(bench, name, *words, limit_s=0.0, **environ):
        state["called"].append((name, words, environ))
        if name.startswith("train_") or name == "without_mps":
            run_dir = Path(words[words.index("--run-dir") + 1])
            finished_run(run_dir, off_at=state["off_at"].get(run_dir.name))
        bench.seconds[name] = 10.0
        (bench.work_dir / f"{name}.txt").write_text(f"what {name} said")
        return bench.judge(state["codes"].get(name, 0))

    monkeypatch.setattr(benchmark.Bench, "call", call)
    monkeypatch.setattr(platforms, "query_gpus", lambda: GPUS)
    monkeypatch.setattr(platforms, "environment", lambda: "dev")
    monkeypatch.setattr(platforms, "_ask_driver", lambda: ("", None))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # --gpus puts another in its place
    monkeypatch.delenv(platforms.DEVICE_VARIABLE, raising=False)
    state["words"] = ["--work-dir", str(tmp_path / "out")]
    return state


def names(tasks: dict) -> list[str]:
    return [name for name, _, _ in tasks["called"]]


def test_three_runs_are_trained_restarted_and_judged_and_no_card_is_written_unasked(tasks: dict) -> None:
    assert benchmark.main(tasks["words"]) == 0
    trained = [f"{word}_{run}" for run in (1, 2, 3) for word in ("train", "resume")]
    assert names(tasks) == ["corpus", *trained, "diff_1", "diff_2", "diff_3"]
    table = Path(tasks["words"][1], benchmark.TABLE).read_text()
    assert "gpt3_pp4_resume on gpu4_h100" in table
    assert "| together, s | 30.0 | 30.0 | 30.0 |" in " ".join(table.split())
    kept = Path(tasks["words"][1], "runs").glob("*/checkpoints")
    assert [path.parent.name for path in kept] == ["1"], "that the faults of the restart load"


def test_with_a_reason_the_three_become_the_card(tasks: dict) -> None:
    assert benchmark.main([*tasks["words"], "--reason", "a new host"]) == 0
    (words,) = [words for name, words, _ in tasks["called"] if name == "record"]
    assert words[-3:] == ("--reason", "a new host", "--yes")
    assert words.count("--from-run") == 3


def test_runs_that_are_not_equal_fail(tasks: dict, capsys: pytest.CaptureFixture) -> None:
    tasks["off_at"] = {"3": 7}
    assert benchmark.main(tasks["words"]) == 1
    assert "lm loss: 99 of 100 common steps equal; step 7: " in capsys.readouterr().out


def test_a_training_that_fails_decides_and_the_parts_after_it_are_still_made(tasks: dict) -> None:
    tasks["codes"] = {"resume_1": 3, "overlap": 1}
    assert benchmark.main(["overlap", "runs", "faults", *tasks["words"]]) == 3
    assert names(tasks) == ["corpus", "train_1", "resume_1", "faults", "overlap"]


def test_faults_restart_the_first_run(tasks: dict, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["runs", "faults", *tasks["words"]]) == 0
    assert "what faults said" in capsys.readouterr().out
    (words,) = [words for name, words, _ in tasks["called"] if name == "faults"]
    assert [word for word in words if word in benchmark.FAULTS] == list(benchmark.FAULTS)
    assert words[-2:] == ("--reference", str(Path(tasks["words"][1], "runs", "1")))


def test_taking_turns_must_give_the_same_steps(tasks: dict) -> None:
    words = [*tasks["words"], "--gpus", "1"]
    tasks["off_at"] = {"without_mps": 7}
    assert benchmark.main(["runs", "without-mps", *words]) == 1
    (environ,) = [environ for name, _, environ in tasks["called"] if name == "without_mps"]
    assert environ == {"CRASH_TEST_MPS": "off"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "8"], "--gpus 8: 4 are visible; of these 1, 2, 4 can be used"),
        (["--gpus", "3"], "--gpus 3: 4 are visible; of these 1, 2, 4 can be used"),
        (["without-mps"], "without-mps: on gpu4_h100 no ranks share a GPU"),
        (["everything"], "no such part: everything; known: runs, without-mps, faults, overlap"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    tasks: dict, words: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        benchmark.main([*words, *tasks["words"]])
    assert tasks["called"] == []


def test_a_program_that_does_not_end_is_stopped_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bench = benchmark.Bench(tmp_path)
    assert bench.call("quick", "-c", "print('said')")
    assert not bench.call("slow", "-c", "import time; time.sleep(60)", limit_s=1.0)
    assert not bench.call("wrong", "-c", "print('no GPU'); raise SystemExit(5)")
    assert bench.exit_code == 3
    assert (tmp_path / "quick.txt").read_text() == "said\n"
    times = (tmp_path / benchmark.TIMES).read_text()
    assert times == capsys.readouterr().out
    assert [line.split()[:3] for line in times.splitlines()] == [
        ["quick", "exit", "0"],
        ["slow", "exit", "-15"],
        [],
        ["wrong", "exit", "5"],
        ["no", "GPU"],
    ]

"""The training program under test: flags, names, what is passed on; and Megatron-LM's own loop, for real."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import train
from tasks.cases import corpus
from tasks.cases.loader import load_case
from tasks.launch import trainer
from tasks.launch.setup import Setup
from tasks.machine import nodes, platforms
from tasks.records.card import Card, metric_from
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY
from tests import short_run

CASE_FLAGS = {
    "--async-save": True,
    "--tokenizer-type": "NullTokenizer",
    "--vocab-size": 256,
    "--dist-ckpt-strictness": "raise_all",
}
INTERPRETER = "CRASH_TEST_DEV_PYTHON"


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"megatron_lm": None, "trainer": None, "subject": None, **given})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A made-up checkout: the files that tell what it is."""
    for name in ("pretrain_gpt.py", "megatron/core/__init__.py", "megatron/training/training.py"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("")
    return tmp_path / "mine"


def put(checkout: Path, name: str, text: str) -> None:
    (checkout / "megatron" / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / "megatron" / name).write_text(text)


def test_without_flags_our_own_program_is_run_and_leaves_no_trace_in_the_fingerprint() -> None:
    ours = trainer.choose(options())
    assert ours.own
    assert ours.facts() == {}
    assert ours.extra_flags(CASE_FLAGS, "cpu") == []
    assert ours.measured(("lm loss", "relative-step-time")) == ("lm loss", "relative-step-time")


def test_a_checkout_is_named_by_its_commit(checkout: Path) -> None:
    run = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "add", "."], check=True)
    subprocess.run([*run, "commit", "-qm", "one"], check=True)
    tested = trainer.choose(options(megatron_lm=checkout))
    assert len(tested.version) == 40
    assert tested.name == tested.version[:12]
    (checkout / "pretrain_gpt.py").write_text("changed")
    assert trainer.choose(options(megatron_lm=checkout)).name == f"{tested.name}-dirty"
    assert trainer.choose(options(megatron_lm=checkout, subject="mine")).facts()["subject"] == "mine"


def test_a_folder_without_commit_needs_a_name(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    with pytest.raises(UsageError, match="--subject NAME"):
        trainer.choose(options(megatron_lm=checkout))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"subject": "a"}, "only with --megatron-lm"),
        ({"subject": "../a"}, "make a name"),
        ({"megatron_lm": Path("/nowhere")}, "has no pretrain_gpt.py"),
        ({"megatron_lm": Path("/nowhere"), "trainer": "own"}, "its own training loop"),
    ],
)
def test_flags_that_make_no_sense_are_reported(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.choose(options(**given))


def test_a_wheel_without_the_training_loop_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_wheel_folder", lambda: tmp_path)
    with pytest.raises(UsageError, match=r"carries no megatron\.training.*--megatron-lm PATH"):
        trainer.choose(options(trainer="megatron"))


def test_what_the_machine_makes_necessary_follows_the_age_of_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_resiliency_package", lambda: False)
    tested = trainer.choose(options(megatron_lm=checkout, subject="mine"))
    put(checkout, "core/tokenizers/text/libraries/null_tokenizer.py", "self._vocab_size_without_eod = n")
    strict = ["--dist-ckpt-strictness", "raise_unexpected"]
    assert tested.extra_flags(CASE_FLAGS, "cuda") == strict
    put(checkout, "core/tokenizers/text/libraries/null_tokenizer.py", "self._vocab_size = n")
    put(checkout, "training/config/training_config.py", "async_strategy: str")
    assert tested.extra_flags(CASE_FLAGS, "cpu") == [
        *("--num-workers", "0", "--async-strategy", "mcore", "--vocab-size", "257"),
        *strict,
    ]
    chosen = {"--async-save": True, "--async-strategy": "nvrx"}
    assert tested.extra_flags(chosen, "cuda") == []


def test_only_what_has_a_rule_is_judged_of_what_megatron_lm_logs(checkout: Path) -> None:
    tested = trainer.choose(options(megatron_lm=checkout, subject="mine"))
    logged = Card(metrics={name: metric_from([1], [1.0]) for name in ("lm loss", "mem-reserved-bytes")})
    assert list(tested.judged(logged).metrics) == ["lm loss"]
    assert tested.measured(("lm loss", "mem-growth-bytes", "overlap-hidden-time")) == ("lm loss",)


def test_flags_that_only_megatron_lm_takes_do_not_keep_it_from_restarting(
    checkout: Path, tmp_path: Path
) -> None:
    platform = platforms.cpu_platform(platforms.read_processor())
    case = load_case("gpt3_pp4_resume", platform_name=platform.name, overrides={"log-interval": "5"})
    setup = Setup(
        case=case,
        platform=platform,
        data=corpus.Built(prefix=tmp_path, sha256="", documents=0, sequences=0, tokens=0),
        run_dir=tmp_path,
        rank_plugins=(),
        hang_timeout_s=None,
        max_restarts=0,
        nodes=nodes.ALONE,
        trainer=trainer.choose(options(megatron_lm=checkout, subject="mine")),
    )
    assert setup.restarted().case.model_args["--log-interval"] == 5
    with pytest.raises(UsageError, match="--log-interval"):
        dataclasses.replace(setup, trainer=trainer.OURS).restarted()


def test_a_crash_case_of_megatron_lm_is_refused_before_it_starts(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    argv = ["gpt3_pp4_crash_resume", "--run-dir", str(tmp_path / "run"), "--megatron-lm", str(checkout)]
    with pytest.raises(UsageError, match=r"kills ranks.*run it with our training program"):
        train.main([*argv, "--subject", "mine"])
    assert not (tmp_path / "run").exists()


def interpreter_with_the_loop() -> str | None:
    """A Python whose megatron-core wheel carries ``megatron.training``."""
    given = [os.environ.get(INTERPRETER), sys.executable, str(REPOSITORY / ".nox" / "dev" / "bin" / "python")]
    for candidate in [*given, shutil.which("python3.12")]:
        if candidate and Path(candidate).is_file():
            asked = [
                candidate,
                "-c",
                "import yaml, importlib.util as i; exit(not i.find_spec('megatron.training'))",
            ]
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return candidate
    return None


@pytest.mark.training
def test_the_loop_of_the_wheel_restarts_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = interpreter_with_the_loop()
    if python is None:
        pytest.skip(
            f"no Python 3.12 or later with the dev environment: run nox with one, or set {INTERPRETER}"
        )
    monkeypatch.setattr(sys, "executable", python)
    run_dir = tmp_path / "run"
    for task in ("train", "resume"):
        finished = short_run.run(
            task,
            run_dir,
            *("--trainer", "megatron", "--set", "train-iters=4", "--set", "eval-iters=1"),
            *("--set", "log-interval=2"),  # a value that our own program does not take
        )
        assert finished.returncode == 0, finished.stdout
    judged = [python, "-m", "tasks.diff", "--run-dir", str(run_dir), "--format", "json"]
    outcome = subprocess.run(judged, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    rows = {row["metric"]: row["verdict"] for row in json.loads(outcome.stdout)["rows"]}
    for name in ("lm loss", "grad-norm", "state: parameters", "state: optimizer steps", "state: rng"):
        assert rows[name] == "exact", (name, outcome.stdout)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((run_dir / "case.json").read_text())["fingerprint"]["subject"].startswith(
        "megatron-core-"
    )

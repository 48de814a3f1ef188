"""A copy of the repository whose steps only record their arguments and exit as a variable says."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.machine import platforms
from tasks.records import card_store
from tasks.util.files import CUDA_PINS, GPU_PINS, PINS, REPOSITORY
from tests import fake_run

NOX_ENVIRONMENT = ("NOX_CURRENT_SESSION", "VIRTUAL_ENV")
STUB = """
import os, signal, sys, time
from pathlib import Path
name = Path(__file__).stem
with open("calls.txt", "a") as calls:
    print(name, *sys.argv[1:], file=calls)
answer = os.environ.get(name.upper() + "_EXITS", "0")
if answer == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped", file=open("calls.txt", "a"))))
    print("waiting", flush=True)
    time.sleep(60)
if answer == "meets":  # ends well only beside the other case
    Path("met-" + sys.argv[1]).touch()
    end = time.monotonic() + 20
    while not (Path("met-first").exists() and Path("met-second").exists()):
        sys.exit(3) if time.monotonic() > end else time.sleep(0.02)
    answer = "0"
if answer == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(answer.split()[0 if "first" in sys.argv else -1]))
"""


NOX_FILES = ("noxfile.py", "nox_environment.py", "nox_install.py", "nox_python.py")
STUBS = ("train", "resume", "diff", "report", "record", "faults", "doctor", "environment", "check")


def make(tmp_path: Path) -> Path:
    """The noxfile, the tasks that run cases, two cases, and stubs of the steps."""
    for name in NOX_FILES:
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tasks/__init__.py").write_text("")  # stubs need no packages
    for name in STUBS:
        (tmp_path / f"tasks/{name}.py").write_text(STUB)
    for name in ("first", "second"):
        add_case(tmp_path, name)
    for name in (PINS.name, CUDA_PINS.name, GPU_PINS.name):
        (tmp_path / name).write_text("# nothing\n")
    return tmp_path


SOUND_CASE = """# A case.
TEST_TYPE: ckpt-resume
METRICS: [lm loss]
MODEL_ARGS:
  --num-layers: 12
  --hidden-size: 32
  --num-attention-heads: 4
  --seq-length: 64
  --max-position-embeddings: 64
  --micro-batch-size: 2
  --global-batch-size: 16
  --pipeline-model-parallel-size: 4
  --train-iters: 20
  --save-interval: 10
  --lr: 0.01
  --bf16: true
  --vocab-size: 256
  --data-path: ${CORPUS_PREFIX}
  --distributed-backend: gloo
  --transformer-impl: local
  --no-gradient-accumulation-fusion: true
  --no-persist-layer-norm: true
CORPUS: {package: numpy, version: "1", suffix: .py, sha256: DIGEST}
""".replace("DIGEST", "0" * 64)


def add_case(folder: Path, name: str, text: str = "MODEL_ARGS: {}\n") -> None:
    """Write the file of a case, replacing one of that name."""
    path = folder / "test_cases" / name / "model_config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_sound_case(folder: Path, name: str, more: str = "", *, card: bool = True) -> Path:
    """A case that a dry run accepts, and its card for this environment; returns the card's file."""
    add_case(folder, name, SOUND_CASE + more)
    path = card_store.card_path(folder, name, platforms.environment(), f"cpu_{platform.machine()}")
    if card:
        card_store.write_card(path, fake_run.card())
    return path


def nox_environment(**variables: str) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in NOX_ENVIRONMENT}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    return {**environment, "CRASH_TEST_DEVICE": "cpu", **variables}


def nox(folder: Path, *arguments: str, no_venv: bool = True, **variables: str) -> subprocess.CompletedProcess:
    return task(folder, "nox", "--nocolor", *(["--no-venv"] if no_venv else []), *arguments, **variables)


def task(folder: Path, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """``python -m module``."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=nox_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [re.sub(r"runs/(\w+)/\S+", r"RUN/\1", line) for line in lines]

"""What people and CI run; ``nox -l`` is the menu. Sessions prepare the pinned environment and run tasks."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import fcntl
import functools
import itertools
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nox
import nox.registry
import nox.virtualenv

REPOSITORY = Path(__file__).resolve().parent
sys.path.insert(0, str(REPOSITORY))

from shared_environment import DRY_RUN, GPU_PINS, PINS, SharedEnvironment, on_gpus, pins_digest  # noqa: E402
from tasks import clean as run_directories  # noqa: E402
from tasks import exits, family, nodes, plan, subject  # noqa: E402

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "shared"
nox.options.error_on_external_run = True

CASES = sorted(path.parent.name for path in REPOSITORY.glob("test_cases/*/model_config.yaml"))
STOP_WITHIN_S = (
    4.0  # what a task has to end its ranks after Ctrl-C, and again after SIGTERM, before it is killed
)
MEANINGS = {
    exits.MISMATCH: "does not match",
    exits.USAGE: "bad usage or input",
    exits.TRAINING_FAILED: "training failed",
    exits.HANG: "hang",
    exits.CANNOT_RUN: "this machine cannot run it",
}


# ---- a stop ----


_stopped: list[int] = []


def stop(number: int, _: object) -> None:
    """SIGTERM is as Ctrl-C, which nox hands on to the running task: left alone, only nox itself would end."""
    _stopped.append(number)
    raise KeyboardInterrupt(f"stopped by signal {number}")


signal.signal(signal.SIGTERM, stop)


# ---- sessions ----


def case_text(case: str) -> str:
    """The file of a case, without what it inherits."""
    return (REPOSITORY / "test_cases" / case / "model_config.yaml").read_text()


def purpose(case: str) -> str:
    """What the case is for: how the comment that opens its file begins."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), case_text(case).splitlines())
    return re.split(r"[.:;](?= |$)", " ".join(line.lstrip("# ") for line in comment))[0] or "One case"


def needs_data(case: str) -> bool:
    """Whether the case waits for a data set that nobody has pointed to."""
    return "${DATA_PATH}" in case_text(case) and not os.environ.get("DATA_PATH")


def run_case_session(session: nox.Session, case: str) -> None:
    """Prepare, then run one case."""
    options = read_options(session)
    prepare(session)
    finish(session, run_case(session, case, options, run_directory(case, options)))


for _case in CASES:
    _session = functools.partial(run_case_session, case=_case)
    _session.__doc__ = purpose(_case) + (" (needs DATA_PATH)." if needs_data(_case) else ".")
    nox.session(name=_case, default=False)(_session)


@nox.session
def regress(session: nox.Session) -> None:
    """Run every case that fits this machine: the one to begin with; --keep-going after a failure."""
    options = read_options(session)
    prepare(session)
    outcomes = []
    for case in options.cases:
        if reason := reason_to_skip(case):
            session.log(f"{case}: skipped, since {reason}")
            outcomes.append(family.Outcome(case=case, exit_code=None, reason=reason))
            continue
        begin, run_dir = time.monotonic(), run_directory(case, options, several=len(CASES) > 1)
        code, seconds = run_case(session, case, options, run_dir), time.monotonic() - begin
        outcomes.append(family.Outcome(case=case, exit_code=code, seconds=seconds, run_dir=run_dir))
        if code and not options.keep_going:
            break
    print(family.table(outcomes, MEANINGS), flush=True)
    skipped = options.require and any(outcome.exit_code is None for outcome in outcomes)
    codes = [outcome.exit_code for outcome in outcomes if outcome.exit_code]
    finish(session, codes[0] if codes else exits.CANNOT_RUN if skipped else exits.PASSED)


def reason_to_skip(case: str) -> str:
    """Why the case cannot be run here; empty when it can."""
    if on_gpus() and "TEST_TYPE: frozen-resume" in case_text(case):
        return "its checkpoint is one of a CPU"
    return "DATA_PATH is not set" if needs_data(case) else ""


@nox.session(default=False)
def case(session: nox.Session) -> None:
    """Run a case of Megatron-LM's functional tests as it is: nox -s case -- --case-file PATH."""
    options = read_options(session)
    if not options.case_file:
        session.log("give the file: nox -s case -- --case-file PATH/model_config.yaml")
        finish(session, exits.USAGE)
    prepare(session)
    name = options.case_file.resolve().parent.name
    finish(session, run_case(session, name, options, run_directory(name, options)))


@nox.session(default=False)
def record(session: nox.Session) -> None:
    """Write golden cards from three equal runs each: nox -s record -- [CASE] --reason TEXT."""
    prepare(session)
    arguments = task_arguments(session)
    named = bool(arguments) and not arguments[0].startswith("-")
    cases = [arguments[0]] if named else [case for case in CASES if records_cards(case)]
    for case in cases:
        finish(session, step(session, "record", case, *arguments[named:]))


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Test the harness itself: lint, unit tests, one main job; with arguments: pytest alone."""
    prepare(session)
    arguments = task_arguments(session)
    if arguments:
        run(session, "pytest", *arguments)
    else:
        check_style(session)
        run(session, "pytest")
        options = read_options(session)
        run_dir = run_directory("gpt3_pp4_resume", options)
        finish(session, run_case(session, "gpt3_pp4_resume", options, run_dir))


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Plant faults and tell what catches them, all or one: nox -s faults -- NAME."""
    prepare(session)
    finish(session, step(session, "faults", *task_arguments(session)))


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, and the golden cards."""
    prepare(session)
    check_style(session)
    finish(session, step(session, "lint_cards"))


@nox.session(default=False)
def doctor(session: nox.Session) -> None:
    """Tell what this machine is, what can run here and what the rest lacks; --json for programs."""
    prepare(session)
    finish(session, step(session, "doctor", *task_arguments(session)))


@nox.session(default=False, venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove old run directories, never a running one: nox -s clean -- --keep 5."""
    session.run(sys.executable, "-m", "tasks.clean", *session.posargs)


def task_arguments(session: nox.Session) -> list[str]:
    """What is behind ``--`` for the task alone: a dry run is the session's affair."""
    return [argument for argument in session.posargs if argument != "--dry-run"]


# ---- one case ----


def read_options(session: nox.Session) -> argparse.Namespace:
    """Arguments behind ``--``, for the tasks that take them."""
    parser = argparse.ArgumentParser(prog=f"nox -s {session.name} --", allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, help="where the run is kept (default: runs/<case>/<time>)")
    parser.add_argument("--set", metavar="FLAG=VALUE", action="append", default=[], help="a flag of the case")
    parser.add_argument(
        "--rank-plugin", metavar="FILE", action="append", default=[], help="Python for each rank"
    )
    parser.add_argument("--data-path", metavar="PREFIX", help="train on this Megatron dataset")
    parser.add_argument("--case-file", type=Path, metavar="PATH", help="a case file of Megatron-LM")
    subject.add_options(parser)
    parser.add_argument("--baseline", metavar="PATH", help="compare with this checkout, not with a card")
    parser.add_argument("--hang-timeout", metavar="SECONDS", help="how long no progress is a hang")
    parser.add_argument("--max-restarts", metavar="N", help="how often failed ranks are started again")
    parser.add_argument("--retries", metavar="N", help="try again what failed by its surroundings")
    parser.add_argument("--keep-going", action="store_true", help="go on with the next case after a failure")
    parser.add_argument("--only", metavar="CASE", action="append", default=[], help="of regress: this case")
    parser.add_argument("--require", action="store_true", help="of regress: a skipped case is exit 5")
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    nodes.add_options(parser)
    try:
        options = parser.parse_args([] if session.name == "tests" else session.posargs)
    except SystemExit as stop:  # argparse has printed its message, or its help
        if stop.code:
            finish(session, exits.USAGE)
        session.skip("nothing was run")
    try:
        options.nodes = nodes.read(options)
        options.cases = family.choose(CASES, options.only)
    except exits.TaskError as error:
        session.log(f"error: {error}")
        finish(session, error.exit_code)
    if options.nodes.several and not options.run_dir:
        session.log("error: several machines need one folder that all of them see: give --run-dir DIR")
        finish(session, exits.USAGE)
    return options


def run_directory(case: str, options: argparse.Namespace, *, several: bool = False) -> Path:
    """Where a run of the case is kept."""
    if options.run_dir:
        return options.run_dir / case if several else options.run_dir
    return Path("runs", case, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


def run_case(session: nox.Session, case: str, options: argparse.Namespace, run_dir: Path) -> int:
    """Train, restart, compare, draw: a step only when the one before gave it something to work on."""
    directory = ["--run-dir", str(run_dir)]
    settings = [word for setting in options.set for word in ("--set", setting)]
    plugins = [word for plugin in options.rank_plugin for word in ("--rank-plugin", plugin)]
    data = ["--data-path", options.data_path] if options.data_path else []
    timeout = ["--hang-timeout", options.hang_timeout] if options.hang_timeout else []
    restarts = ["--max-restarts", options.max_restarts] if options.max_restarts else []
    retries = ["--retries", options.retries] if options.retries else []
    among = nodes.words(options)
    common = [*settings, *plugins, *data, *timeout, *restarts, *retries, *among]
    named = ["--case-file", str(options.case_file)] if options.case_file else [case]
    launch = [*named, *directory, *common, *subject.words(options)]
    card = []
    if options.baseline:
        card = ["--golden", str(run_dir / "baseline" / "actual_phase1.json")]
        base = [*named, "--run-dir", str(run_dir / "baseline"), *common, "--megatron-lm", options.baseline]
    for line in plan.describe(case, options.nodes) if DRY_RUN else ():
        session.log(line)
    with held(run_dir):
        code = step(session, "train", *base) if options.baseline else 0
        code = code or step(session, "train", *launch) or step(session, "resume", *launch)
        if not code:
            code = step(session, "diff", case, *directory, *card, *among)
            drawn = step(session, "report", *directory) if options.nodes.first else exits.PASSED
            code = code or drawn
    if code:
        see = f"; see {run_dir}" if run_dir.exists() else ""  # bad usage is told before anything is written
        session.log(f"{case}: {MEANINGS[code]} (exit code {code}){see}")
    return code


def records_cards(case: str) -> bool:
    """Whether the case has golden cards of its own, and its data are here."""
    return "\nGOLDEN_CARD:" not in case_text(case) and not needs_data(case)


def step(session: nox.Session, task: str, *arguments: str) -> int:
    """Run a task and return its exit code."""
    try:
        run(session, "python", "-m", f"tasks.{task}", *arguments)
    except nox.command.CommandFailed as failure:
        code = getattr(failure, "return_code", None) or exits.MISMATCH
        # a crash (Python exits 1) or a signal is no verdict: only comparing can say "does not match"
        crashed = code not in MEANINGS or (code == exits.MISMATCH and task in ("train", "resume"))
        return exits.TRAINING_FAILED if crashed else code
    return 0


def run(session: nox.Session, *command: str) -> None:
    """Run a command of the environment, or print it."""
    if DRY_RUN:
        session.log(f"would run: {shlex.join(command)}")
        return
    session.run(
        *command,
        external=session.venv_backend == "none",
        env={"CRASH_TEST_SESSION": str(os.getpid())},
        interrupt_timeout=STOP_WITHIN_S,
        terminate_timeout=STOP_WITHIN_S,
    )
    if _stopped:  # nox goes on when the task that it stopped had come to a good end
        raise KeyboardInterrupt


def check_style(session: nox.Session) -> None:
    """Ruff, twice."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The run's lock, which keeps ``clean`` away between two steps."""
    if DRY_RUN:
        yield
        return
    path = run_directories.lock_file(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
    path.unlink(missing_ok=True)


# ---- exit codes: nox knows 0 and 1, the design has six ----

_first_code: list[int] = []


def finish(session: nox.Session, code: int) -> None:
    """End the session; unless ``code`` is 0 as failed, and nox with the first such code of its sessions."""
    if not code:
        return
    if not _first_code:
        _first_code.append(code)
        atexit.register(_exit_with_first_code)
    session.error(f"{MEANINGS[code]} (exit code {code})")


def _exit_with_first_code() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_first_code[0])


# ---- the environment ----


def prepare(session: nox.Session) -> None:
    """Install exactly the pins, once, and verify them. With --no-venv, what is there is used."""
    environment = session.virtualenv
    if DRY_RUN or not isinstance(environment, SharedEnvironment):
        return
    # pip compiles nothing, the first import of a module does: without, importing megatron takes 11 s, not 5
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    gpu = ["--gpu"] if on_gpus() else []
    verify = ["python", "-m", "tasks.environment", "verify", *gpu]
    try:
        if environment.is_filled():
            session.run(*verify, silent=True)
            return
        session.install("--no-deps", "--no-compile", "-r", str(PINS))
        if gpu:
            install_gpu_packages(session)
        session.run(*verify, "--dependencies")
        environment.stamp.write_text(pins_digest())
    except nox.command.CommandFailed:
        session.log(f"{environment.location_name} is not the pinned environment: see above")
        finish(session, exits.CANNOT_RUN)
    finally:
        environment.lock.close()


def install_gpu_packages(session: nox.Session) -> None:
    """Transformer Engine, its torch extension built here, and NCCL beside torch's own."""
    pins = [line.split("#")[0].strip() for line in GPU_PINS.read_text().splitlines()]
    nccl = [pin for pin in pins if pin.startswith("nvidia-nccl")]
    others = [pin for pin in pins if pin and pin not in nccl]
    target = Path(session.virtualenv.location, "nccl")
    session.install("--no-deps", "--no-compile", "--target", str(target), *nccl)
    try:
        session.install("--no-deps", "--no-build-isolation", *others)
    except nox.command.CommandFailed:
        session.log(
            "transformer-engine's torch extension could not be built: install the CUDA 13 toolkit (nvcc on"
            " PATH, CUDA_HOME set) and cuDNN's headers, or use a container that has it with nox --no-venv"
        )
        raise
    session.run("python", "-m", "tasks.ranks.gpu_libraries")


# nox itself would exit with 3, which here says that a training failed, and would not tell what there is.
if problem := plan.unknown_session(sys.argv[1:], list(nox.registry.get())):
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(exits.USAGE)

"""What people and CI run; ``nox -l`` is the menu. Sessions prepare the pinned environment and run tasks."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import functools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import nox
import nox.registry
import nox.virtualenv

REPOSITORY = Path(__file__).resolve().parent
sys.path.insert(0, str(REPOSITORY))

from shared_environment import DRY_RUN, GPU_PINS, PINS, SharedEnvironment, pins_digest  # noqa: E402
from tasks.cases import names  # noqa: E402
from tasks.machine.platforms import on_gpus  # noqa: E402
from tasks.records.run_lock import held  # noqa: E402
from tasks.suite import dry_run, history, listing, outcomes  # noqa: E402
from tasks.suite.options import read_session_options  # noqa: E402
from tasks.suite.steps import case_steps, code_of, exit_code, following, new_directory  # noqa: E402
from tasks.util import exits  # noqa: E402
from tasks.util.exits import MEANINGS  # noqa: E402

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "shared"
nox.options.error_on_external_run = True

CASES = names.case_names()
STOP_WITHIN_S = (
    4.0  # what a task has to end its ranks after Ctrl-C, and again after SIGTERM, before it is killed
)
# Several cases end their ranks themselves, and were asked by a Ctrl-C when nox was: the rest of ten seconds.
FAMILY_ASKED_AFTER_S, FAMILY_STOPS_WITHIN_S = 0.5, 8.5


# ---- a stop ----


_stopped: list[int] = []


def stop(number: int, _: object) -> None:
    """SIGTERM is as Ctrl-C, which nox hands on to the running task: left alone, only nox itself would end."""
    _stopped.append(number)
    raise KeyboardInterrupt(f"stopped by signal {number}")


signal.signal(signal.SIGTERM, stop)


# ---- sessions ----


def run_case_session(session: nox.Session, case: str) -> None:
    """Prepare, then run one case."""
    options = read_options(session)
    prepare(session)
    finish(session, run_case(session, case, options, run_directory(case, options)))


for _case in CASES:
    _session = functools.partial(run_case_session, case=_case)
    _session.__doc__ = names.purpose(_case) + (" (needs DATA_PATH)." if names.needs_data(_case) else ".")
    nox.session(name=_case, default=False)(_session)


@nox.session
def regress(session: nox.Session) -> None:
    """Run every case that fits this machine, the one to begin with; more: nox -s regress -- --help."""
    options = read_options(session)
    with errors_told(session):
        cases = history.select(CASES, options)
        if options.list:
            print(listing.listing(cases, datetime.date.today(), as_json=options.json), flush=True)
            return
    if not cases:
        session.log(f"all cases of {history.path_for(options)} passed: there is nothing to run again")
        return
    prepare(session)
    if not DRY_RUN:
        waits = {"interrupt_timeout": FAMILY_ASKED_AFTER_S, "terminate_timeout": FAMILY_STOPS_WITHIN_S}
        finish(session, step(session, "regress", *session.posargs, **waits))
    for case in cases if DRY_RUN else ():
        if reason := listing.reason_to_skip(case):
            session.log(f"{case}: would be skipped, since {reason}")
        else:
            run_case(session, case, options, outcomes.run_directory(case, options))


@nox.session(default=False)
def case(session: nox.Session) -> None:
    """Run a case of Megatron-LM's functional tests as it is: nox -s case -- --case-file PATH."""
    options = read_options(session)
    if not options.case_file:
        session.log("give the file: nox -s case -- --case-file PATH/model_config.yaml")
        finish(session, exits.USAGE)
    prepare(session)
    file = options.case_file.resolve()
    name = file.name if file.is_dir() else file.parent.name
    finish(session, run_case(session, name, options, run_directory(name, options)))


@nox.session(default=False)
def record(session: nox.Session) -> None:
    """Write golden cards from three equal runs each: nox -s record -- [CASE] --reason TEXT."""
    prepare(session)
    arguments = task_arguments(session)
    if {"-h", "--help"} & set(arguments):
        return finish(session, step(session, "record", "--help"))
    named = bool(arguments) and not arguments[0].startswith("-")
    cases = [arguments[0]] if named else [case for case in CASES if names.records_cards(case)]
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
    if arguments := task_arguments(session):
        session.log(f"error: lint checks everything and takes no arguments: {shlex.join(arguments)}")
        finish(session, exits.USAGE)
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
    try:
        session.run(sys.executable, "-m", "tasks.clean", *session.posargs)
    except nox.command.CommandFailed:
        finish(session, exits.USAGE)


def task_arguments(session: nox.Session) -> list[str]:
    """What is behind ``--`` for the task alone: a dry run is the session's affair."""
    return [argument for argument in session.posargs if argument != "--dry-run"]


# ---- one case ----


def read_options(session: nox.Session) -> argparse.Namespace:
    """Arguments behind ``--``, for the tasks that take them."""
    try:
        with errors_told(session):
            return read_session_options(session.name, [] if session.name == "tests" else session.posargs)
    except SystemExit as stop:  # argparse has printed its message, or its help
        if stop.code:
            finish(session, exits.USAGE)
        session.skip("nothing was run")


@contextlib.contextmanager
def errors_told(session: nox.Session) -> Iterator[None]:
    """An error that tells the user what to do ends the session with its exit code."""
    try:
        yield
    except exits.TaskError as error:
        session.log(f"error: {error}")
        finish(session, error.exit_code)


def run_directory(case: str, options: argparse.Namespace) -> Path:
    """Where a run of the case alone is kept."""
    return options.run_dir or new_directory(case)


def run_case(session: nox.Session, case: str, options: argparse.Namespace, run_dir: Path) -> int:
    """Train, restart, compare, draw."""
    steps, codes = case_steps(case, options, run_dir), []
    for line in dry_run.describe(case, options.nodes, options) if DRY_RUN else ():
        session.log(line)
    with errors_told(session), contextlib.nullcontext() if DRY_RUN else held(run_dir):
        while step_now := following(steps, codes):
            codes.append(step(session, step_now.task, *step_now.arguments))
    if code := exit_code(codes):
        see = f"; see {run_dir}" if run_dir.exists() else ""  # bad usage is told before anything is written
        session.log(f"{case}: {MEANINGS[code]} (exit code {code}){see}")
    return exit_code(codes)


def step(session: nox.Session, task: str, *arguments: str, **waits: float) -> int:
    """Run a task and return its exit code."""
    try:
        run(session, "python", "-m", f"tasks.{task}", *arguments, **waits)
    except nox.command.CommandFailed as failure:
        if failure.args and "not found" in str(failure.args[0]):
            return exits.CANNOT_RUN
        return code_of(task, getattr(failure, "return_code", None) or exits.MISMATCH)
    return 0


def run(
    session: nox.Session,
    *command: str,
    interrupt_timeout: float = STOP_WITHIN_S,
    terminate_timeout: float = STOP_WITHIN_S,
) -> None:
    """Run a command of the environment, or print it."""
    if DRY_RUN:
        session.log(f"would run: {shlex.join(command)}")
        return
    session.run(
        *command,
        external=session.venv_backend == "none",
        env={exits.SESSION_VARIABLE: str(os.getpid())},
        interrupt_timeout=interrupt_timeout,
        terminate_timeout=terminate_timeout,
    )
    if _stopped:  # nox goes on when the task that it stopped had come to a good end
        raise KeyboardInterrupt


def check_style(session: nox.Session) -> None:
    """Ruff, twice."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


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
        if environment.lock:
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
if problem := dry_run.unknown_session(sys.argv[1:], list(nox.registry.get())):
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(exits.USAGE)

"""One phase of a test case, from its command line to its results: what ``train`` and ``resume`` share.

The steps are those of a run: read the case, prepare data and folders, launch, collect.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tasks import attempts, corpus, gpu_memory, nodes, platforms, subject
from tasks.case import Case, load_case, load_upstream_case, parse_settings
from tasks.checkpoints import FALLBACKS
from tasks.events import read_attempts
from tasks.exits import CannotRun, TrainingFailed, UsageError
from tasks.golden import read_events, read_json_object, write_atomically, write_card
from tasks.launch import Outcome, Phase, launch
from tasks.manifest import ANY_ORIGIN, Origin, Topology
from tasks.meeting import Meeting
from tasks.ranks.arguments import parse_arguments, unknown_flags

NEEDED_BYTES = 256 * 2**20  # of disk, for logs, events and the checkpoints of a small model


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A case on this machine, with its data."""

    case: Case
    platform: platforms.Platform
    data: corpus.Built
    run_dir: Path
    rank_plugins: tuple[Path, ...]
    hang_timeout_s: float | None
    max_restarts: int
    nodes: nodes.Nodes
    load_from: Path | None = None  # a checkpoint that this run did not make
    subject: subject.Subject = subject.OURS
    goldens: Path | None = None  # the folder of the cards, where it is not the repository's

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the result of this run depends on."""
        facts = platforms.fingerprint(self.case, self.data.sha256, platform=self.platform)
        among = {"nodes": str(self.nodes.count)} if self.nodes.several else {}
        return facts | self.subject.facts() | among

    def restarted(self) -> Setup:
        """The setup of the restart, which the case may give other flags and fewer ranks.

        Errors: ``UsageError`` for flags that do not fit; ``CannotRun`` when it does not fit on the GPUs.
        """
        restart, platform = self.case.restart, self.platform
        if restart and restart.ranks:
            if restart.ranks % self.nodes.count:
                raise UsageError(
                    f"--nnodes {self.nodes.count}: does not divide the restart's {restart.ranks} ranks"
                )
            gpus = len(platform.gpus) * self.nodes.count
            shared = -(-restart.ranks // gpus) if platform.ranks_per_gpu else 0
            platform = dataclasses.replace(platform, world_size=restart.ranks, ranks_per_gpu=shared)
        case = self.case.restarted()
        arguments = parse_arguments(case.flags(), world_size=platform.world_size)
        if platform.device == "cuda":
            gpu_memory.check(platform, arguments)
        return dataclasses.replace(self, case=case, platform=platform)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line of a phase."""
    parser.add_argument(
        "case", nargs="?", metavar="CASE", help="a folder of test_cases/, or the path of a case file"
    )
    parser.add_argument(
        "--case-file",
        metavar="PATH",
        type=Path,
        help="instead of CASE: a model_config.yaml of Megatron-LM's functional tests, its cards beside it",
    )
    parser.add_argument("--run-dir", metavar="DIR", type=Path, required=True, help="where the run is kept")
    parser.add_argument(
        "--set",
        metavar="FLAG=VALUE",
        action="append",
        default=[],
        help="a Megatron flag of the case, changed: --set train-iters=200",
    )
    parser.add_argument(
        "--data-path",
        metavar="PREFIX",
        type=Path,
        help="train on this Megatron dataset (PREFIX.bin, PREFIX.idx) instead of the case's text",
    )
    parser.add_argument(
        "--rank-plugin",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="Python executed in every rank before the model is built",
    )
    parser.add_argument(
        "--hang-timeout",
        metavar="SECONDS",
        type=float,
        help="no progress of any rank for so long is a hang (default: 10 times the slowest step)",
    )
    parser.add_argument(
        "--max-restarts",
        metavar="N",
        type=int,
        help="how often failed ranks are started again within the phase (default: once for each kill that the"
        " case asks for, so never for most)",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=0,
        help="how often a phase that failed by its surroundings (a broken connection, a port taken, a killed"
        " process) is tried again (default: never)",
    )
    subject.add_options(parser)
    nodes.add_options(parser)


def prepare(options: argparse.Namespace, among: nodes.Nodes = nodes.ALONE) -> Setup:
    """Read and check everything that can be checked before a rank starts."""
    for plugin in options.rank_plugin:
        if not plugin.is_file():
            raise UsageError(f"--rank-plugin {plugin}: there is no such file")
    for name in ("max_restarts", "retries"):
        if (getattr(options, name) or 0) < 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 0")
    if options.hang_timeout is not None and not options.hang_timeout > 0:
        raise UsageError(f"--hang-timeout {options.hang_timeout}: must be more than 0 seconds")
    tested = subject.choose(options)
    platform = nodes.spread(platforms.detect(), among)
    case = read_case(options, platform, tested)
    if among.several and case.kills:
        raise UsageError(f"{case.name} kills ranks of one machine: it does not run on several (--nnodes 1)")
    arguments = understood(case, platform, tested)
    if platform.device == "cuda" and arguments is not None:
        need = gpu_memory.check(platform, arguments)
        print(f"memory: about {need.total} MiB a rank, {platform.ranks_per_gpu} ranks a GPU")
    for note in platform.notes:
        print(f"note: {note}")
    data = find_data(case, options.data_path)
    return Setup(
        case=case,
        platform=platform,
        data=data,
        run_dir=options.run_dir.resolve(),
        rank_plugins=tuple(plugin.resolve() for plugin in options.rank_plugin),
        hang_timeout_s=options.hang_timeout,
        max_restarts=len(case.kills) if options.max_restarts is None else options.max_restarts,
        subject=tested,
        goldens=case.path.parent.resolve() if options.case_file is not None else None,
        nodes=among,
    )


def read_case(options: argparse.Namespace, platform: platforms.Platform, tested: subject.Subject) -> Case:
    """The case of the command line: one of ours, or a file of Megatron-LM's.

    Errors: ``UsageError`` as those of the readers; for a case of Megatron-LM all flags that only it knows.
    """
    if (options.case is None) == (options.case_file is None):
        raise UsageError("give one case: the name of a folder of test_cases/, or --case-file PATH")
    common = {
        "platform_name": platform.name,
        "overrides": parse_settings(options.set),
        "world_size": platform.world_size,
    }
    if options.case_file is None:
        return load_case(options.case, **common)
    case = load_upstream_case(options.case_file, **common, ours=tested.own)
    unknown = unknown_flags(case.flags()) if tested.own else []
    if unknown:
        raise UsageError(
            f"{case.path}: our training program does not know {', '.join(unknown)}: run it with Megatron-LM's"
            " own, --megatron-lm PATH (a checkout)"
        )
    return case


def understood(
    case: Case, platform: platforms.Platform, tested: subject.Subject
) -> argparse.Namespace | None:
    """The flags parsed; None for Megatron-LM's own program, which may know what ours does not.

    Errors: ``UsageError`` for flags that our own training program cannot take.
    """
    try:
        return parse_arguments(case.flags(), world_size=platform.world_size)
    except UsageError:
        if tested.own:
            raise
        return None


def find_data(case: Case, data_path: Path | None) -> corpus.Built:
    """The dataset to train on: the user's, the case's own text, or the one its flags name.

    Errors: ``CannotRun`` when the case's data set is not on this machine.
    """
    if data_path is not None:
        return corpus.existing(data_path)
    if case.corpus is not None:
        return corpus.build(case.corpus)
    missing = [name for name in case.names_needed() if name == "DATA_PATH" and not os.environ.get(name)]
    if missing:
        raise CannotRun(
            f"{case.name} needs a data set: export DATA_PATH=<its folder>, or give one: --data-path PREFIX"
        )
    if case.model_args.get("--mock-data"):
        return corpus.Built(prefix=Path("mock-data"), sha256="mock-data", documents=0, tokens=0)
    named = str(case.model_args["--data-path"]).replace("${DATA_PATH}", os.environ.get("DATA_PATH", ""))
    return corpus.existing(Path(named))


def check_space(run_dir: Path) -> None:
    """Errors: ``CannotRun`` when the disk of ``run_dir`` is nearly full, or cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise CannotRun(f"{run_dir}: cannot be written: {error.strerror}; choose another --run-dir") from None
    if free < NEEDED_BYTES:
        raise CannotRun(
            f"{run_dir}: {free / 2**20:.0f} MiB free, a run needs {NEEDED_BYTES / 2**20:.0f}:"
            " make space (nox -s clean -- --keep 5) or choose another --run-dir"
        )


def resume_iteration(case: Case) -> int:
    """The checkpoint that phase 2 restarts from: the last one before the end.

    Errors: ``UsageError`` when the case saves none.
    """
    interval = int(case.model_args.get("--save-interval") or 0)
    last = case.last_iteration()
    iteration = (last - 1) // interval * interval if interval else 0
    if not iteration:
        raise UsageError(
            f"{case.name}: no checkpoint before iteration {last} to restart from; see --save-interval"
        )
    return iteration


def origin_of(setup: Setup) -> Origin:
    """What a checkpoint of this case on this machine is of. Megatron-LM's own program writes no manifest."""
    if not setup.subject.own:
        return ANY_ORIGIN
    args = parse_arguments(setup.case.flags(), world_size=setup.platform.world_size)
    topology = Topology(
        pipeline_stages=args.pipeline_model_parallel_size,
        virtual_stages=args.virtual_pipeline_model_parallel_size or 1,
        replicas=args.data_parallel_size,
    )
    return Origin(case=setup.case.digest(), topology=topology)


def run_phase(
    setup: Setup,
    number: int,
    meeting: Meeting,
    *,
    load_iteration: int | None = None,
    expected: Origin | None = None,
) -> None:
    """Launch phase ``number`` together with the other nodes and write its record and its values beside it.

    ``expected``: what a checkpoint must be of to be loaded, None in a field to waive that check; by default a
    checkpoint of this very case and topology.

    Errors: those of ``launch``; ``TrainingFailed`` when a rank left no evidence or steps are missing.
    """
    directory = setup.run_dir / f"phase{number}"
    words = phase_words(setup, number, load_iteration)
    steps = ((load_iteration or 0) + 1, setup.case.last_iteration())
    origin = origin_of(setup)
    meeting.ready(setup.fingerprint)
    on = f", this is node {setup.nodes.rank} of {setup.nodes.count}" if setup.nodes.several else ""
    print(
        f"phase {number}: {setup.case.name} on {setup.platform.name}, {setup.platform.world_size} ranks{on},"
        f" steps {steps[0]} to {steps[1]}; logs: {directory}/rank<N>.log",
        flush=True,
    )
    outcome = launch(
        Phase(
            words=tuple(words),
            directory=directory,
            world_size=setup.platform.world_size,
            device=setup.platform.device,
            ranks_per_gpu=setup.platform.ranks_per_gpu,
            steps=steps,
            env_vars={**setup.platform.env_vars, **setup.case.env_vars},
            rank_plugins=setup.rank_plugins,
            origin=origin,
            expected=expected or origin,
            hang_timeout_s=setup.hang_timeout_s,
            max_restarts=setup.max_restarts,
            subject=setup.subject,
            kills=setup.case.kills,
            checkpoints=setup.run_dir / "checkpoints",
            nodes=setup.nodes,
        )
    )
    if meeting.first:
        folders = [directory / "tensorboard", *(directory / "evidence").glob("*")]
        meeting.refresh(directory, directory / "evidence", *folders)
        collect(setup, number, outcome)


def phase_words(setup: Setup, number: int, load_iteration: int | None) -> list[str]:
    """Megatron's command line of a phase."""
    directory = setup.run_dir / f"phase{number}"
    checkpoints = setup.run_dir / "checkpoints"
    mocked = setup.case.model_args.get("--mock-data")
    data = {} if mocked else {"--data-path": "${CORPUS_PREFIX}"}
    found = dataclasses.replace(setup.case, model_args={**setup.case.model_args, **data})
    case = found.substitute(
        {
            **os.environ,
            "TENSORBOARD_PATH": str(directory / "tensorboard"),
            "CHECKPOINT_SAVE_PATH": str(checkpoints if number == 1 else directory / "checkpoints"),
            "CHECKPOINT_LOAD_PATH": str(setup.load_from or checkpoints),
            "CORPUS_PREFIX": str(setup.data.prefix),
            "DATA_CACHE_PATH": str(setup.run_dir / "data_cache"),
        }
    )
    words = case.flags() + setup.subject.words_from_outside(case.model_args, setup.platform.device)
    if load_iteration is not None:
        words += ["--ckpt-step", str(load_iteration), "--exit-on-missing-checkpoint"]
    return words


def collect(setup: Setup, number: int, outcome: Outcome) -> None:
    """Write ``actual_phase<N>.json`` and ``phase<N>.json`` from what the ranks left; after restarts also
    ``actual_phase<N>_attempt<M>.json``, what each attempt logged.
    """
    directory = setup.run_dir / f"phase{number}"
    actual = setup.subject.judged(read_events(directory / "tensorboard"))
    losses = actual.metrics.get("lm loss")
    if losses is None:
        raise TrainingFailed(f"{directory}: no lm loss was recorded; see the ranks' logs there")
    logged = read_attempts(directory / "tensorboard")
    every = attempts.records(directory, logged, setup.platform.world_size)
    every = [attempt | {"subject": setup.subject.name} for attempt in every]
    last = every[-1]
    record = {
        "phase": number,
        **{name: last[name] for name in ("loaded_iteration", "state", "seconds")},
        "steps": [int(losses.steps[0]), int(losses.steps[-1])],
        "subject": setup.subject.name,
        "restarts": len(every) - 1,
        "attempts": every,
        "kills": [dataclasses.asdict(kill) for kill in outcome.kills],
        "fallbacks": fallbacks(directory / "evidence"),
        "rank_plugins": {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in setup.rank_plugins
        },
    }
    record["seconds"] |= {"start": outcome.start_s, "total": outcome.total_s}
    write_card(setup.run_dir / f"actual_phase{number}.json", actual)
    for attempt, card in logged.items() if len(every) > 1 else ():
        write_card(setup.run_dir / f"actual_phase{number}_attempt{attempt}.json", card)
    write_atomically(setup.run_dir / f"phase{number}.json", json.dumps(record, indent=1))
    for line in record["fallbacks"]:
        print(f"phase {number}: {line}")
    print(
        f"phase {number}: done in {outcome.total_s:.1f} s ({outcome.start_s:.1f} s to the first rank's start)"
    )


def check_same_run(setup: Setup) -> None:
    """Errors: ``UsageError`` when the run directory was made with another case or other data."""
    case_file = setup.run_dir / "case.json"
    trained = read_json_object(case_file)
    for name, wanted in (("case", setup.case.digest()), ("corpus", setup.data.sha256)):
        if trained["fingerprint"].get(name) != wanted:
            raise UsageError(
                f"{case_file}: phase 1 was trained with another {name}; restart it with the same case,"
                " --set and --data-path"
            )
    if trained["fingerprint"].get("megatron-lm") != setup.fingerprint.get("megatron-lm"):
        raise UsageError(f"{case_file}: phase 1 was trained by another program; restart it with the same one")


def fallbacks(folder: Path) -> list[str]:
    """Which checkpoints the ranks did not use, and why, as they said it when they resumed."""
    paths = sorted(folder.glob(f"attempt*/{FALLBACKS}"))
    return [line for path in paths for line in path.read_text().splitlines()]


def write_case_file(setup: Setup) -> None:
    """``case.json``: what is run, and what its result depends on."""
    content = {
        "case": setup.case.resolved(),
        "case_name": setup.case.name,
        "golden_case": setup.case.golden_case,
        "test_type": setup.case.test_type,
        "metrics": list(setup.subject.measured(setup.case.metrics)),
        "subject": setup.subject.name,
        "goldens": str(setup.goldens or ""),
        "environment": platforms.environment(),
        "platform": setup.platform.name,
        "fingerprint": setup.fingerprint,
        "run_id": setup.run_dir.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data_path": str(setup.data.prefix),
    }
    write_atomically(setup.run_dir / "case.json", json.dumps(content, indent=1))

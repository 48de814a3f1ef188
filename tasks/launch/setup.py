"""The setup of a phase, from its command line: read and checked before a rank starts."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import corpus, megatron_lm_case
from tasks.cases.case import Case
from tasks.cases.flag_rules import missing_on_cpu, training_sequences
from tasks.cases.flags import unknown_flags
from tasks.cases.loader import load_case, load_upstream_case, parse_settings
from tasks.launch import trainer
from tasks.launch.trainer import OURS, TrainerUnderTest
from tasks.machine import gpu_memory, platforms
from tasks.machine.nodes import ALONE, Nodes, check_loopback, spread
from tasks.records.fingerprint import fingerprint
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import REPOSITORY

# For mock data, and where no data is looked for.
NO_TEXT = corpus.Built(prefix=Path("mock-data"), sha256="mock-data", documents=0, sequences=0, tokens=0)
NEEDED_SHARED_BYTES = 16 * 2**20  # of /dev/shm; a case with restarts was seen to take 5 MiB on a CPU
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
    nodes: Nodes
    load_from: Path | None = None  # a checkpoint that this run did not make
    trainer: TrainerUnderTest = OURS
    goldens: Path | None = None  # the folder of the cards, where it is not the repository's
    notes: tuple[str, ...] = ()  # lines for the user

    @property
    def fingerprint(self) -> dict[str, str]:
        """Facts that the result of this run depends on."""
        facts = fingerprint(self.case, self.data.sha256, platform=self.platform)
        several = {"nodes": str(self.nodes.count)} if self.nodes.several else {}
        return facts | self.trainer.facts() | several

    @property
    def env_vars(self) -> dict[str, str]:
        """Environment variables of the ranks, set before they import anything."""
        return self.platform.variables(self.case.env_vars)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints that phase 1 saves."""
        return self.run_dir / "checkpoints"

    def phase_directory(self, number: int) -> Path:
        """Folder of a phase's logs, events and evidence."""
        return self.run_dir / f"phase{number}"

    def restarted(self) -> Setup:
        """The setup of the restart, which may have other flags and fewer ranks.

        Raises:
            UsageError: flags that do not fit together.
            CannotRun: it does not fit on the GPUs.
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
        arguments = understood(case, platform, self.trainer)
        if platform.gpus and arguments is not None:
            gpu_memory.check(platform, arguments)
        return dataclasses.replace(self, case=case, platform=platform)


def prepare(options: argparse.Namespace, nodes: Nodes = ALONE) -> Setup:
    """Read and check everything that can be checked before a rank starts, and print its notes."""
    if not nodes.several:
        check_loopback()
    setup = read(options, nodes)
    for note in setup.notes:
        print(note)
    return setup


def read(
    options: argparse.Namespace,
    nodes: Nodes = ALONE,
    *,
    platform: platforms.Platform | None = None,
    root: Path = REPOSITORY,
    find: Callable[[Case, Path | None], corpus.Built] | None = None,
) -> Setup:
    """The setup that a command line names, checked; nothing is printed.

    ``platform``: another one than this machine's, without GPUs to ask for memory. ``find``: finds the data,
    by default ``find_data``.

    Raises:
        UsageError: a wrong option, or a case with errors.
        CannotRun: this machine lacks what the case needs.
    """
    _check_options(options)
    tested = trainer.choose(options)
    platform = spread(platform or platforms.detect(), nodes)
    case = read_case(options, platform, tested, root)
    _check_kills(case, tested, nodes)
    arguments = understood(case, platform, tested)
    notes = [f"note: {note}" for note in (*platform.notes, *case.overridden)]
    if platform.gpus and arguments is not None:
        need = gpu_memory.check(platform, arguments)
        notes.insert(0, f"memory: about {need.total} MiB a rank, {platform.ranks_per_gpu} ranks a GPU")
    data = (find or find_data)(case, options.data_path)
    if arguments is not None:
        _check_text(data, arguments.split)
    return Setup(
        case=case,
        platform=platform,
        data=data,
        run_dir=options.run_dir.resolve(),
        rank_plugins=tuple(plugin.resolve() for plugin in options.rank_plugin),
        hang_timeout_s=options.hang_timeout,
        max_restarts=len(case.kills) if options.max_restarts is None else options.max_restarts,
        trainer=tested,
        goldens=case.path.parent.resolve() if options.case_file is not None else None,
        nodes=nodes,
        notes=tuple(notes),
    )


def _check_options(options: argparse.Namespace) -> None:
    for plugin in options.rank_plugin:
        if not plugin.is_file():
            raise UsageError(f"--rank-plugin {plugin}: there is no such file")
    for name in ("max_restarts", "retries"):
        if (getattr(options, name) or 0) < 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 0")
    if options.hang_timeout is not None and not options.hang_timeout > 0:
        raise UsageError(f"--hang-timeout {options.hang_timeout}: must be more than 0 seconds")


def _check_kills(case: Case, tested: TrainerUnderTest, nodes: Nodes) -> None:
    if nodes.several and case.kills:
        raise UsageError(f"{case.name} kills ranks of one machine: it does not run on several (--nnodes 1)")
    if not tested.own and case.kills:
        raise UsageError(
            f"{case.name} kills ranks, and Megatron-LM's own program does not come back from that here: its"
            " restarted ranks find the addresses of those before; run it with our training program"
        )


def read_case(
    options: argparse.Namespace,
    platform: platforms.Platform,
    tested: TrainerUnderTest,
    root: Path = REPOSITORY,
) -> Case:
    """The case of the command line: one of ours, or a file of Megatron-LM's.

    Raises:
        UsageError: as in the readers; for a case of Megatron-LM, all flags that only its own loop knows.
    """
    if (options.case is None) == (options.case_file is None):
        raise UsageError("give one case: the name of a folder of test_cases/, or --case-file PATH")
    settings, name, ranks = parse_settings(options.set), platform.name, platform.world_size
    common = {"platform_name": name, "overrides": settings, "world_size": ranks}
    if options.case_file is None:
        return load_case(options.case, **common, root=root)
    case = load_upstream_case(options.case_file, **common, ours=tested.own)
    upstream = megatron_lm_case.read(case.path)
    megatron_lm_case.refuse_other_types(upstream)
    for remark in upstream.remarks:
        print(f"note: {case.path}: {remark}")
    unknown = unknown_flags(case.argv()) if tested.own else []
    if unknown:
        raise UsageError(
            f"{case.path}: our training program does not know {', '.join(unknown)}: run it with Megatron-LM's"
            " own, --megatron-lm PATH (a checkout)"
        )
    return case


def understood(
    case: Case, platform: platforms.Platform, tested: TrainerUnderTest
) -> argparse.Namespace | None:
    """The parsed flags; None for Megatron-LM's own program, which may know flags that ours does not.

    Raises:
        UsageError: flags that our own training program cannot take.
    """
    if not tested.own:
        return case.parsed.arguments
    if platform.device == "cpu" and (missing := missing_on_cpu(case.arguments)):
        where = f"under PLATFORMS, {platform.name}, or with --set"
        raise UsageError(f"{case.path}: {'; '.join(missing)}: give it {where}")
    return case.arguments


def data_parallel_size(name: str, platform: platforms.Platform) -> int:
    """Replicas of the model that our training program makes of a case on this platform."""
    case = load_case(name, platform_name=platform.name, world_size=platform.world_size)
    return case.arguments.data_parallel_size


def find_data(case: Case, data_path: Path | None) -> corpus.Built:
    """The dataset to train on: the user's, the case's own text, or the one its flags name.

    Raises:
        CannotRun: the case's data set is not on this machine.
    """
    if data_path is not None:
        return corpus.existing(data_path)
    if case.corpus is not None:
        return corpus.build(case.corpus)
    if "DATA_PATH" in case.names_needed() and not os.environ.get("DATA_PATH"):
        raise CannotRun(
            f"{case.name} needs a data set: export DATA_PATH=<its folder>, or give one: --data-path PREFIX"
        )
    if case.model_args.get("--mock-data"):
        return NO_TEXT
    return corpus.existing(named_data(case))


def find_data_unless_built(case: Case, data_path: Path | None) -> corpus.Built:
    """As ``find_data``, but the case's own text is not built."""
    own = case.corpus is not None and data_path is None
    return NO_TEXT if own else find_data(case, data_path)


def named_data(case: Case) -> Path:
    """The prefix of the data set that the case's flags name.

    Raises:
        UsageError: they name none, or several.
    """
    named = case.model_args.get("--data-path")
    if not isinstance(named, str):
        raise UsageError(
            f"{case.path}: --data-path: {named!r} is not the prefix of one data set: write one there, or give"
            " it for one run: --data-path PREFIX"
        )
    return Path(named.replace("${DATA_PATH}", os.environ.get("DATA_PATH", "")))


def _check_text(data: corpus.Built, split: str) -> None:
    trainable = data.tokens and training_sequences(split, data.sequences)
    if not trainable and data is not NO_TEXT:
        raise UsageError(
            f"{data.prefix}: {data.sequences} sequences, {data.tokens} tokens: --split {split} leaves none to"
            " train on; give its first share more, or another data set"
        )


def check_space(run_dir: Path) -> None:
    """Refuse a disk without space for the run.

    Raises:
        CannotRun: the disk of ``run_dir`` is nearly full, or cannot be written.
    """
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
    check_shared_memory()


def check_shared_memory(folder: Path = Path("/dev/shm")) -> None:
    """Refuse a machine without room for the locks of processes.

    Raises:
        CannotRun: /dev/shm is missing, or nearly full.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CannotRun(f"{folder}: {error.strerror}: mount -t tmpfs tmpfs {folder}") from None
    if free < NEEDED_SHARED_BYTES:
        raise CannotRun(
            f"{folder}: {free / 2**20:.1f} MiB free, a run needs {NEEDED_SHARED_BYTES / 2**20:.0f}: enlarge"
            f" it (mount -o remount,size=1G {folder}, docker run --shm-size=1g) or remove what lies there"
        )

"""Launch one phase of a test case and collect its results, for ``train`` and ``resume``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path

from tasks.cases.case import Case
from tasks.cases.metrics import LM_LOSS, interval
from tasks.launch.agent import Phase, PhaseResult, launch
from tasks.launch.node_barrier import NodeBarrier
from tasks.launch.setup import Setup
from tasks.machine import platforms
from tasks.records import attempts, fingerprint
from tasks.records.card_store import write_card
from tasks.records.checkpoints import FALLBACKS
from tasks.records.events import read_events
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity, Topology
from tasks.util.exits import TrainingFailed, UsageError
from tasks.util.files import read_json_object, write_atomically


def resume_iteration(case: Case) -> int:
    """The checkpoint that phase 2 restarts from: the last one before the end.

    Raises:
        UsageError: the case saves none.
    """
    every, last = int(case.model_args.get("--save-interval") or 0), case.last_iteration()
    iteration = (last - 1) // every * every if every else 0
    if not iteration:
        raise UsageError(
            f"{case.name}: no checkpoint before iteration {last} to restart from; see --save-interval"
        )
    return iteration


def identity_of(setup: Setup) -> CheckpointIdentity:
    """Identity of this case's checkpoints on this machine. Megatron-LM's own loop writes no manifest."""
    if not setup.trainer.own:
        return ANY_IDENTITY
    args = setup.case.arguments
    topology = Topology(
        pipeline_stages=args.pipeline_model_parallel_size,
        virtual_stages=args.virtual_pipeline_model_parallel_size or 1,
        replicas=args.data_parallel_size,
    )
    return CheckpointIdentity(case=setup.case.digest, topology=topology)


def run_phase(
    setup: Setup,
    number: int,
    barrier: NodeBarrier,
    *,
    load_iteration: int | None = None,
    expected: CheckpointIdentity | None = None,
) -> None:
    """Launch phase ``number`` together with the other nodes, and write its record and its values.

    ``expected``: required identity of a loaded checkpoint, None in a field to waive that check; by default
    this very case and topology.

    Raises:
        TaskError: as in ``launch``.
        TrainingFailed: a rank left no evidence, or steps are missing.
    """
    identity = identity_of(setup)
    phase = Phase(
        setup=setup,
        number=number,
        argv=tuple(phase_argv(setup, number, load_iteration)),
        steps=((load_iteration or 0) + 1, setup.case.last_iteration()),
        identity=identity,
        expected=expected or identity,
    )
    directory = phase.directory
    facts = setup.fingerprint  # now: a commit may follow while it trains
    if barrier.first:
        _forget_results(setup.run_dir, number)
    barrier.ready(facts)
    on = f", this is node {setup.nodes.rank} of {setup.nodes.count}" if setup.nodes.several else ""
    print(
        f"phase {number}: {setup.case.name} on {setup.platform.name}, {setup.platform.world_size} ranks{on},"
        f" steps {phase.steps[0]} to {phase.steps[1]}; logs: {directory}/rank<N>.log",
        flush=True,
    )
    outcome = launch(phase)
    if barrier.first:
        folders = [directory / "tensorboard", *(directory / "evidence").glob("*")]
        barrier.refresh(directory, directory / "evidence", *folders)
        collect(setup, number, outcome, facts)


def phase_argv(setup: Setup, number: int, load_iteration: int | None) -> list[str]:
    """Megatron's command line of a phase."""
    directory, checkpoints = setup.phase_directory(number), setup.checkpoints
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
    argv = case.argv() + setup.trainer.extra_flags(case.model_args, setup.platform.device)
    if load_iteration is not None:
        argv += ["--ckpt-step", str(load_iteration), "--exit-on-missing-checkpoint"]
    return argv


def collect(setup: Setup, number: int, outcome: PhaseResult, facts: dict[str, str]) -> None:
    """Write ``actual_phase<N>.json`` and ``phase<N>.json`` from the ranks' files; after restarts also the
    values of each attempt, ``actual_phase<N>_attempt<M>.json``. ``facts``: the phase's fingerprint.
    """
    directory = setup.phase_directory(number)
    actual, logged = read_events(directory / "tensorboard")
    actual = setup.trainer.judged(actual)
    losses = actual.metrics.get(LM_LOSS.name)
    if losses is None:
        raise TrainingFailed(f"{directory}: no lm loss was recorded; see the ranks' logs there")
    _refuse_early_end(setup, int(losses.steps[-1]), directory)
    found = attempts.records(directory, logged, setup.platform.world_size)
    every = [attempt | {"subject": setup.trainer.name} for attempt in found]
    last = every[-1]
    record = {
        "phase": number,
        "fingerprint": facts,
        **{name: last[name] for name in ("loaded_iteration", "state", "seconds")},
        "steps": [int(losses.steps[0]), int(losses.steps[-1])],
        "subject": setup.trainer.name,
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


def _forget_results(run_dir: Path, number: int) -> None:
    """Remove results of an earlier launch: a judged result must be of this one, also when it fails."""
    for later in range(number, 3):
        for pattern in (f"phase{later}.json", f"actual_phase{later}*.json", "report.*"):
            for path in run_dir.glob(pattern):
                path.unlink()


def _refuse_early_end(setup: Setup, step: int, directory: Path) -> None:
    last = setup.case.last_iteration()
    every = interval(LM_LOSS.name, setup.case.model_args, subject=setup.trainer.name)
    if step < last - last % every:
        raise TrainingFailed(
            f"the ranks ended after step {step} of {last}, without an error;"
            f" see their logs: {directory}/rank<N>.log"
        )


def check_same_run(setup: Setup) -> None:
    """Refuse to continue a run of something else.

    Raises:
        UsageError: the run directory was made with another case, other data or on another platform.
    """
    case_file = setup.run_dir / "case.json"
    trained, here = read_json_object(case_file).get("fingerprint"), setup.fingerprint
    if not isinstance(trained, dict):
        raise UsageError(f"{case_file}: has no fingerprint of a run: train again in another --run-dir")
    for name in ("case", "corpus"):
        if trained.get(name) != here[name]:
            raise UsageError(
                f"{case_file}: phase 1 was trained with another {name}; restart it with the same case,"
                " --set and --data-path"
            )
    if trained.get("megatron-lm") != here.get("megatron-lm"):
        raise UsageError(f"{case_file}: phase 1 was trained by another program; restart it with the same one")
    if changed_facts := fingerprint.between_phases(trained, here):
        changed = ", ".join(map(str, changed_facts))
        raise UsageError(f"{case_file}: phase 1 was trained elsewhere ({changed}): train again here")


def fallbacks(folder: Path) -> list[str]:
    """Lines that the ranks wrote about checkpoints that they did not use when they resumed."""
    paths = sorted(folder.glob(f"attempt*/{FALLBACKS}"))
    return [line for path in paths for line in path.read_text().splitlines()]


def write_case_file(setup: Setup) -> None:
    """Write ``case.json``: the case, its fingerprint and its environment."""
    content = {
        "case": setup.case.resolved(),
        "case_name": setup.case.name,
        "golden_case": setup.case.golden_case,
        "test_type": setup.case.test_type,
        "metrics": list(setup.trainer.measured(setup.case.metrics)),
        "subject": setup.trainer.name,
        "goldens": str(setup.goldens or ""),
        "environment": platforms.environment(),
        "platform": setup.platform.name,
        "fingerprint": setup.fingerprint,
        "run_id": setup.run_dir.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data_path": str(setup.data.prefix),
    }
    write_atomically(setup.run_dir / "case.json", json.dumps(content, indent=1))

"""Read and check a run directory: the case that ran, the record of each phase, and its actual values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.cases.schema import TEST_TYPES
from tasks.records import kept_checkpoint
from tasks.records.card import Card
from tasks.records.card_store import read_card
from tasks.util.exits import UsageError
from tasks.util.files import read_json_object

RESUMING, CRASHING = "ckpt-resume", "crash-resume"
_ATTEMPT = re.compile(r"actual_phase1_attempt(\d{1,6})\.json")


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run. ``record2`` and ``actual2`` are None without a phase 2. ``attempts``: values logged by
    each attempt of phase 1, where there were several. ``kills``: those that the case asks for.
    ``failed_tries``: phases that ended in an infrastructure failure and were retried (``--retries``).
    """

    directory: Path
    case_name: str
    test_type: str
    metrics: tuple[str, ...]
    environment: str
    platform: str
    run_id: str
    model_args: Mapping[str, object]
    fingerprint: Mapping[str, object]
    record1: Mapping[str, object] | None
    record2: Mapping[str, object] | None
    actual1: Card
    actual2: Card | None
    golden_case: str
    kills: tuple[Mapping[str, object], ...] = ()
    attempts: Mapping[int, Card] = field(default_factory=dict)
    failed_tries: tuple[Mapping[str, object], ...] = ()
    restart: Mapping[str, object] = field(default_factory=dict)
    origin: kept_checkpoint.SourceRun | None = None
    started: str = ""
    subject: str = ""  # of Megatron-LM; empty: our own training program
    goldens: Path | None = None  # the folder of the cards, where it is not the repository's

    @property
    def card_name(self) -> str:
        """The folder of its cards below ``goldens/``: those of a subject are kept apart."""
        return f"{self.golden_case}@{self.subject}" if self.subject else self.golden_case

    @property
    def rank_plugins(self) -> list[str]:
        """Their paths, of both phases."""
        records = [record.get("rank_plugins") for record in (self.record1, self.record2) if record]
        return sorted({path for found in records if isinstance(found, Mapping) for path in found})

    @property
    def deterministic(self) -> bool:
        """True when identical values may be demanded."""
        return bool(self.model_args.get("--deterministic-mode"))

    @property
    def resumes(self) -> bool:
        return self.test_type == RESUMING or self.record2 is not None or self.actual2 is not None

    @property
    def changes_layout(self) -> bool:
        """True when the restart uses other flags or fewer ranks than the training before it."""
        return bool(self.restart)

    @property
    def goes_on_from_kept(self) -> bool:
        """True when phase 1 itself is a restart, from a checkpoint that is kept in the repository."""
        return self.test_type == kept_checkpoint.TYPE

    @property
    def restarted(self) -> tuple[Mapping[str, object] | None, Card | None]:
        """Record and values of the phase that loaded a checkpoint."""
        return (self.record1, self.actual1) if self.goes_on_from_kept else (self.record2, self.actual2)

    @property
    def saved(self) -> tuple[Mapping[str, object] | None, Card | None]:
        """Record and values of the phase that saved it."""
        if self.goes_on_from_kept:
            return (self.origin.record, self.origin.values) if self.origin else (None, None)
        return self.record1, self.actual1

    @property
    def crashes(self) -> bool:
        return self.test_type == CRASHING


def read_run(directory: Path, *, case_name: str | None = None) -> Run:
    """Read a run directory.

    Raises:
        UsageError: no run, no values of phase 1, a malformed file, or a run of another case than
            ``case_name``.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such run directory")
    case_file = directory / "case.json"
    if not case_file.exists():
        raise UsageError(f"{directory}: holds no run (no case.json); give the folder that tasks.train wrote")
    content = read_json_object(case_file)
    name = _text(content, "case_name", case_file)
    if case_name is not None and case_name != name:
        raise UsageError(f"{directory}: holds a run of {name}, not of {case_name}")
    metrics = content.get("metrics")
    if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
        raise UsageError(f"{case_file}: metrics must be a list of names")
    actual1 = directory / "actual_phase1.json"
    if not actual1.exists():
        raise UsageError(f"{directory}: no {actual1.name}: training did not finish; run tasks.train again")
    _refuse_contradictions(content, case_file)
    case, fingerprint = content["case"], content.get("fingerprint")
    restart = case.get("restart")
    return Run(
        directory=directory,
        case_name=name,
        test_type=_text(content, "test_type", case_file),
        metrics=tuple(metrics),
        environment=_text(content, "environment", case_file),
        platform=_text(content, "platform", case_file),
        run_id=str(content.get("run_id") or directory.name),
        started=str(content.get("started", "")),
        model_args=case["model_args"],
        fingerprint=fingerprint if isinstance(fingerprint, dict) else {},
        record1=_record(directory, 1),
        record2=_record(directory, 2),
        actual1=read_card(actual1),
        actual2=_optional(directory / "actual_phase2.json", read_card),
        restart=restart if isinstance(restart, dict) else {},
        origin=kept_checkpoint.read_source_run(directory),
        golden_case=_text({"golden_case": name} | content, "golden_case", case_file),
        kills=_kills(case),
        attempts=_attempts(directory),
        failed_tries=tuple(read_retries(directory)),
        subject=str(content.get("subject") or ""),
        goldens=Path(str(content["goldens"])) if content.get("goldens") else None,
    )


def _refuse_contradictions(content: Mapping[str, object], path: Path) -> None:
    """Refuse a file that does not identify the run, or contradicts itself.

    Raises:
        UsageError: all contradictions in one line.
    """
    case, facts = (
        content[name] if isinstance(content.get(name), dict) else {} for name in ("case", "fingerprint")
    )
    args = case.get("model_args")
    twice = {
        "environment": facts.get("environment"),
        "platform": facts.get("platform"),
        "test_type": case.get("test_type", content.get("test_type")),
    }
    problems = [
        f"{name} is {content.get(name)!r} and {again!r}"
        for name, again in twice.items()
        if content.get(name) != again
    ]
    if case.get("digest", facts.get("case")) != facts.get("case"):
        problems.append("its case has not the digest of its fingerprint")
    if content.get("test_type") not in TEST_TYPES:
        problems.append(f"test_type must be one of {', '.join(TEST_TYPES)}")
    if not isinstance(args, dict) or not isinstance(args.get("--train-iters"), int):
        problems.append("its case has no --train-iters")
    if problems:
        raise UsageError(f"{path}: does not tell what was run: {'; '.join(problems)}; run tasks.train again")


def _record(directory: Path, number: int) -> Mapping[str, object] | None:
    path = directory / f"phase{number}.json"
    record = _optional(path, read_json_object)
    if record is not None and record.get("phase") != number:
        raise UsageError(f"{path}: is the record of phase {record.get('phase')!r}; run that phase again")
    return record


def _kills(case: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    kills = case.get("kills")
    return tuple(kill for kill in kills if isinstance(kill, dict)) if isinstance(kills, list) else ()


def _attempts(directory: Path) -> dict[int, Card]:
    found = {_ATTEMPT.fullmatch(path.name): path for path in directory.glob("actual_phase1_attempt*.json")}
    return {int(match[1]): read_card(path) for match, path in found.items() if match}


def _optional(path: Path, read):
    return read(path) if path.exists() else None


def _text(content: Mapping[str, object], key: str, path: Path) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{path}: {key} must be a name, is {value!r}")
    return value


RETRIES_FILE = "retries.json"


def read_retries(run_dir: Path) -> list[dict[str, object]]:
    """The failed tries of a run's phases, in their order.

    Raises:
        UsageError: ``retries.json`` is no JSON object.
    """
    path = run_dir / RETRIES_FILE
    tries = read_json_object(path).get("failed") if path.is_file() else None
    return [one for one in tries if isinstance(one, dict)] if isinstance(tries, list) else []

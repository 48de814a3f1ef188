"""Write the golden card of an environment and platform from finished runs.

``python -m tasks.record [CASE] --reason TEXT [--yes]`` trains and restarts the case three times first, by
default each case that has cards of its own; ``--from-run DIR`` (repeatable) takes finished runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.cases.loader import golden_case
from tasks.cases.names import case_names
from tasks.suite import jobs, listing
from tasks.suite.steps import TRAINING_TASKS, Step, new_directory
from tasks.util.exits import PASSED, TaskError, UsageError, exit_with, run_to_end
from tasks.util.files import REPOSITORY

if TYPE_CHECKING:
    from tasks.records.card import Card
    from tasks.records.run import Run

RUNS = 3
UPDATED = ("reason", "recorded", "commit", "equal_runs", "fingerprint")  # of an update's own runs


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of a metric from the old card to the new one. ``mean``, ``largest``: relative to the old value;
    None if the cards have no common step.
    """

    metric: str
    steps: int
    equal: int
    mean: float | None
    largest: float | None
    step: int | None


def main(argv: list[str] | None = None) -> int:
    """Check the runs, show the changes, write card and provenance.

    Raises:
        UsageError: runs that are not fit for a card, or a card that exists without ``--yes``.
    """
    arguments = _parser().parse_args(argv)
    reason = " ".join(arguments.reason.split())
    if not reason:
        raise UsageError("--reason is empty: say why the values change; it is kept with the card")
    if arguments.from_run and not arguments.case:
        raise UsageError("--from-run: say of which case the runs are: CASE --from-run DIR")
    for case in [arguments.case] if arguments.case else cases_with_cards():
        _record(case, reason, arguments)
    return PASSED


def cases_with_cards() -> list[str]:
    """The cases that have golden cards of their own and can run here."""
    return [case for case in case_names() if golden_case(case) == case and not listing.reason_to_skip(case)]


def _record(case: str, reason: str, arguments: argparse.Namespace) -> None:
    from tasks.judge import recordable
    from tasks.records import card_store
    from tasks.records.run import read_run

    if not arguments.from_run:
        recordable.refuse_borrowed_card(case, golden_case(case))
    directories = arguments.from_run or make_runs(case)
    runs = [read_run(directory, case_name=case) for directory in directories]
    recordable.refuse_unfit_runs(runs)
    recordable.refuse_another_configuration(runs[0], arguments.root)
    card = card_of(runs)
    run = runs[0]
    path = card_store.card_path(arguments.root, run.card_name, run.environment, run.platform)
    old = _old_card(path)
    provenance = provenance_of(runs, reason)
    if arguments.metric:
        recordable.refuse_other_values(path, old, card, arguments.metric, platform=run.platform)
        updated = {name: card.metrics[name] for name in arguments.metric}
        card = dataclasses.replace(old, metrics=old.metrics | updated)
        provenance = with_update(card_store.read_provenance(path), arguments.metric, provenance)
    print(summary(path.name, run, len(runs), reason, old, card, stale_siblings(path, run)))
    if old is not None and not arguments.yes:
        runs_again = " ".join(f"--from-run {run.directory}" for run in runs)
        raise UsageError(
            f"{path}: exists and was not touched; to write the new card over it without training again:"
            f" {runs_again} --yes"
        )
    _write(path, card, provenance)
    print(f"written: {path}")


def _write(path: Path, card: Card, provenance: dict[str, object]) -> None:
    """Write both files or neither: a card must not lie beside the provenance of another one."""
    from tasks.records import card_store

    before = path.read_bytes() if path.exists() else None
    card_store.write_card(path, card)
    try:
        card_store.write_provenance(path, provenance)
    except TaskError as error:
        if before is None:
            path.unlink()
        else:
            card_store.write_atomically(path, before)
        raise type(error)(f"{error}; {path.name} is as it was") from error


def _old_card(path: Path) -> Card | None:
    from tasks.records import card_store

    try:
        return card_store.read_card(path) if path.exists() else None
    except UsageError as error:
        raise UsageError(f"{error}; check the card out again, or remove it and record again") from error


def make_runs(case: str, count: int = RUNS) -> list[Path]:
    """Train and restart the case ``count`` times, each time in new processes and a new run directory.

    Raises:
        TaskError: a phase failed; has its exit code, and names its folder.
    """
    begin = REPOSITORY / new_directory(case)
    directories = [begin.with_name(f"{begin.name}-record{number}") for number in range(1, count + 1)]
    for number, directory in enumerate(directories, start=1):
        print(f"run {number} of {count}: {directory}", flush=True)
        arguments = (case, "--run-dir", str(directory))
        steps = [Step(task=task, arguments=arguments) for task in TRAINING_TASKS]
        job = jobs.Job(case=case, steps=steps, run_dir=directory, quiet=False)
        if code := jobs.run_alone(job):
            task = steps[len(job.codes) - 1].task
            see = f"; see {directory}" if directory.exists() else ""
            error = TaskError(f"tasks.{task} ended with exit code {code}; no card was written{see}")
            error.exit_code = code
            raise error
    return directories


def card_of(runs: list[Run]) -> Card:
    """The card of runs that agree: the median at each step, the value of all where they are equal."""
    import numpy as np

    metrics = {}
    for name, metric in runs[0].actual1.metrics.items():
        values = np.stack([run.actual1.metrics[name].values for run in runs])
        middle = metric.values if (values == values[0]).all() else np.median(values, axis=0)
        metrics[name] = dataclasses.replace(metric, values=middle)
    return dataclasses.replace(runs[0].actual1, metrics=metrics, path=None)


def provenance_of(runs: list[Run], reason: str) -> dict[str, object]:
    """Provenance of the card, for its side file."""
    run = runs[0]
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "case": run.card_name,
        "environment": run.environment,
        "platform": run.platform,
        "reason": reason,
        "recorded": now.isoformat(timespec="seconds"),
        "commit": run.fingerprint.get("commit"),
        "seeds": [run.model_args.get("--seed")],
        "equal_runs": len(runs),
        "fingerprint": dict(run.fingerprint),
    }


def with_update(
    old: dict[str, object] | None, metrics: list[str], new: dict[str, object]
) -> dict[str, object]:
    """Provenance of a card of which these metrics were recorded later than the others."""
    update = {"metrics": metrics} | {name: new[name] for name in UPDATED}
    return {**(old or {}), "updates": [*(old or {}).get("updates", []), update]}


def changes(old: Card, new: Card) -> list[Change]:
    """The changes from old to new, one per metric that either card has."""
    import numpy as np

    from tasks.judge.compare import compare

    found = []
    for name in dict.fromkeys([*old.metrics, *new.metrics]):
        if name not in old.metrics or name not in new.metrics:
            found.append(Change(metric=name, steps=0, equal=0, mean=None, largest=None, step=None))
            continue
        differences = compare(old.metrics[name], new.metrics[name])
        finite = differences.relative[np.isfinite(differences.relative)]
        worst = differences.worst()
        found.append(
            Change(
                metric=name,
                steps=differences.steps.size,
                equal=int(differences.equal.sum()),
                mean=float(finite.mean()) if finite.size else None,
                largest=float(finite.max()) if finite.size else None,
                step=None if worst is None else int(differences.steps[worst]),
            )
        )
    return found


def stale_siblings(path: Path, run: Run) -> list[str]:
    """Other cards of the case, recorded at another commit than this run, or of unknown origin."""
    from tasks.records import card_store

    stale = []
    for sibling in sorted(path.parent.glob("golden_values_*.json")):
        if sibling == path or sibling.name.endswith(".provenance.json"):
            continue
        provenance = card_store.read_provenance(sibling)
        if provenance is None or not provenance.get("commit"):
            origin = (provenance or {}).get("origin")
            known = origin.get("repository") if isinstance(origin, dict) else None
            stale.append(f"{sibling.name} ({f'from {known}' if known else 'origin unknown'})")
        elif provenance["commit"] != run.fingerprint.get("commit"):
            recorded = str(provenance.get("recorded"))[:10]
            stale.append(f"{sibling.name} (recorded {recorded} from {str(provenance['commit'])[:12]})")
    return stale


def summary(
    name: str, run: Run, count: int, reason: str, old: Card | None, new: Card, stale: list[str]
) -> str:
    """Markdown, ready for a pull request."""
    from tabulate import tabulate

    from tasks.records.fingerprint import short

    begin = "New golden card" if old is None else "Golden card changes"
    kept = ", ".join(f"{field} {short(str(value))}" for field, value in run.fingerprint.items())
    lines = [f"### {begin}: `{run.case_name}/{name}`", "", f"Reason: {reason}", ""]
    lines += [f"From {count} {'run' if count == 1 else 'equal runs'} · {kept}", ""]
    if not re.fullmatch(r"[0-9a-f]{40}", commit := str(run.fingerprint.get("commit"))):
        lines.append(f"Nobody can check out the code of this card ({short(commit)}): say so in the reason\n")
    if old is None:
        rows = [
            (metric, len(series.steps), f"{series.values[0]:.6g}", f"{series.values[-1]:.6g}")
            for metric, series in new.metrics.items()
        ]
        headers = ("metric", "steps", "first", "last")
    else:
        rows = [
            (
                change.metric,
                f"{change.equal} of {change.steps}",
                _percent(change.mean),
                _percent(change.largest),
                "" if change.step is None else change.step,
            )
            for change in changes(old, new)
        ]
        headers = ("metric", "steps equal", "mean relative", "largest relative", "at step")
    lines.append(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    lines += ["", *(f"Now stale: `{sibling}`" for sibling in stale)]
    return "\n".join(lines).rstrip() + "\n"


def _percent(part: float | None) -> str:
    return "not in both" if part is None else "0" if part == 0 else f"{100 * part:.3g} %"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.record",
        description="Write a golden card from finished runs.",
        allow_abbrev=False,
    )
    default = "name of the case (default: all with cards of their own)"
    parser.add_argument("case", nargs="?", metavar="CASE", help=default)
    finished = "a finished run (repeatable: all must be equal; default: three new runs)"
    parser.add_argument("--from-run", type=Path, metavar="DIR", action="append", default=[], help=finished)
    reason = "why the card is written; kept with it"
    parser.add_argument("--reason", required=True, metavar="TEXT", help=reason)
    metric = "write only this metric of the card that exists (repeatable); all others must match it"
    parser.add_argument("--metric", metavar="NAME", action="append", default=[], help=metric)
    parser.add_argument("--yes", action="store_true", help="write over the card that exists")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))

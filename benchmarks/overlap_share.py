"""How much of the communication between replicas is hidden behind computing: both overlaps on, one, none.

``python benchmarks/overlap_share.py [--rounds N] [--steps N] --work-dir DIR`` trains the main case on this
machine, whatever its platform, in turns, and prints a table (Markdown) of medians. It exits 1 when the losses
of all are not the same: overlap changes when something is computed, never what.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.cases.metrics import WARM_UP_STEPS  # noqa: E402
from tasks.launch import setup  # noqa: E402
from tasks.machine import platforms  # noqa: E402
from tasks.records.card import Card  # noqa: E402
from tasks.records.card_store import read_card  # noqa: E402
from tasks.util.exits import CannotRun, TrainingFailed, exit_with  # noqa: E402

CASE = "gpt3_pp4_resume"
OFF = {"grads": "overlap-grad-reduce=false", "parameters": "overlap-param-gather=false"}
# Megatron overlaps the gathering of parameters only together with the reduction of gradients.
KINDS = {"both overlaps": (), "gradients only": ("parameters",), "none": ("parameters", "grads")}
HEADERS = ("", "median step, s", "hidden, s a rank", "waited for, s a rank", "share hidden")


@dataclass(frozen=True, kw_only=True)
class Medians:
    """Seconds of a step, and of a rank's communication with its replicas in it: hidden, and waited for."""

    step_s: float
    hidden_s: float
    exposed_s: float

    @property
    def share_hidden(self) -> float:
        """Of the time from the beginning of each communication to its end."""
        return self.hidden_s / (self.hidden_s + self.exposed_s)

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        times = (self.step_s, self.hidden_s, self.exposed_s)
        return (*(f"{seconds:.4f}" for seconds in times), f"{self.share_hidden:.1%}")


def medians(cards: list[Card]) -> Medians:
    """Over the steps of all runs after the warm-up."""

    def median(name: str) -> float:
        return statistics.median(v for card in cards for v in card.metrics[name].values[WARM_UP_STEPS:])

    return Medians(
        step_s=median("iteration-time"),
        hidden_s=median("overlap-hidden-time"),
        exposed_s=median("overlap-exposed-time"),
    )


def train(run_dir: Path, kind: str, steps: int) -> Card:
    """One training of ``steps`` steps.

    Errors: ``TrainingFailed`` with the end of what it said.
    """
    words = [f"exit-interval={steps}", *(OFF[what] for what in KINDS[kind])]
    options = [word for each in words for word in ("--set", each)]
    command = [sys.executable, "-m", "tasks.train", CASE, "--run-dir", str(run_dir), *options]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise TrainingFailed(f"{kind}: exit {ran.returncode}: {(ran.stdout + ran.stderr)[-2000:]}")
    return read_card(run_dir / "actual_phase1.json")


def same_losses(cards: list[Card]) -> bool:
    """Whether all runs have the same steps with the same losses, to the last bit."""
    return len({(*m.steps.tolist(), *m.values.tolist()) for m in (c.metrics["lm loss"] for c in cards)}) == 1


def run(words: list[str] | None = None) -> int:
    from tabulate import tabulate

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each kind (%(default)s)")
    parser.add_argument("--steps", type=int, default=45, help="of each training (%(default)s)")
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args(words)
    platform = platforms.detect()
    if setup.data_parallel_size(CASE, platform) == 1:
        raise CannotRun(f"on {platform.name} there is one replica, which communicates with no other")
    cards: dict[str, list[Card]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        for kind in KINDS:
            run_dir = options.work_dir / f"{kind.replace(' ', '_')}_{number}"
            cards[kind].append(train(run_dir, kind, options.steps))
    rows = [(kind, *medians(found).cells()) for kind, found in cards.items()]
    print(
        f"{CASE}, {platforms.environment()}, {options.rounds} trainings a row, {options.steps} steps each\n"
    )
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))
    if same_losses([card for found in cards.values() for card in found]):
        print("\nAll losses of all trainings are equal to the last bit.")
        return 0
    print("\nThe losses are not equal.")
    return 1


if __name__ == "__main__":
    exit_with(run)

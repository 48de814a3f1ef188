"""Draws docs/architecture.png: ``python docs/draw_architecture.py``. A test checks the names in it."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

PICTURE = Path(__file__).with_name("architecture.png")
MODULES, FILES, PEOPLE = "#dbe9f6", "#fdf1d6", "#e4f2e0"
WIDTH, HEIGHT = 31, 10  # of a box; the picture is 100 wide
COLUMNS, ROWS = (1, 34.5, 68), (1, 15, 29, 43)

# Name: column, row from below, colour, title, lines.
BOXES = {
    "case": (
        *(0, 3, FILES, "test_cases/: a case"),
        ("read and checked by tasks/case.py,", "tasks/case_rules.py, tasks/strict_yaml.py"),
    ),
    "machine": (
        *(1, 3, FILES, "this machine, other machines"),
        ("tasks/platforms.py: its name, its ranks", "tasks/nodes.py, tasks/meeting.py: others"),
    ),
    "text": (
        *(2, 3, FILES, "text of an installed package"),
        ("tasks/corpus.py makes it a Megatron", "dataset, kept in data/"),
    ),
    "phase": (
        *(0, 2, MODULES, "tasks/train.py, tasks/resume.py"),
        ("steps 1 and 2: a phase each;", "what they share: tasks/phase.py"),
    ),
    "launch": (
        *(1, 2, MODULES, "tasks/launch.py"),
        (
            "tasks/preload.py imports, an elastic",
            "agent forks; tasks/watchdog.py; GPUs:",
            "tasks/mps.py, tasks/nccl.py",
        ),
    ),
    "ranks": (
        *(2, 2, MODULES, "8 ranks: tasks/ranks/pretrain.py"),
        (
            "model.py, batches.py, checkpoint.py,",
            "overlap.py, state.py, scalars.py;",
            "the only place with torch",
        ),
    ),
    "run": (
        *(2, 1, FILES, "runs/: a run directory"),
        ("events, evidence, checkpoints, logs;", "tasks/events.py makes the events", "actual_phase<N>.json"),
    ),
    "diff": (
        *(1, 1, MODULES, "tasks/diff.py"),
        (
            "step 3: tasks/judge.py compares with",
            "tasks/verdict.py, tasks/restart.py,",
            "tasks/fingerprint.py, tasks/triage.py",
        ),
    ),
    "goldens": (
        *(0, 1, FILES, "goldens/: its golden cards"),
        (
            "tasks/golden.py, tasks/card_reader.py",
            "read; tasks/record.py writes,",
            "when a person asks for it",
        ),
    ),
    "report": (
        *(1, 0, PEOPLE, "table and exit code"),
        ("tasks/report.py, tasks/html_report.py,", "tasks/curves.py: JSON, JUnit,", "Markdown, HTML, plots"),
    ),
}
SESSION = (
    "noxfile.py, Makefile",
    "a session: the pinned environment (tasks/environment.py), then steps 1, 2 and 3",
)
DOWN, RIGHT, LEFT = ("bottom", "top"), ("right", "left"), ("left", "right")
ARROWS = [
    ("case", "phase", DOWN),
    ("machine", "launch", DOWN),
    ("text", "ranks", DOWN),
    ("phase", "launch", RIGHT),
    ("launch", "ranks", RIGHT),
    ("ranks", "run", DOWN),
    ("run", "diff", LEFT),
    ("goldens", "diff", RIGHT),
    ("diff", "report", DOWN),
]


def side(name: str, which: str) -> tuple[float, float]:
    """Where an arrow touches a side of a box."""
    x, y = COLUMNS[BOXES[name][0]], ROWS[BOXES[name][1]]
    return {
        "left": (x, y + HEIGHT / 2),
        "right": (x + WIDTH, y + HEIGHT / 2),
        "top": (x + WIDTH / 2, y + HEIGHT),
        "bottom": (x + WIDTH / 2, y),
    }[which]


def content_digest() -> str:
    """Of all that is drawn; it is kept in the picture, so that a test sees an old one."""
    return hashlib.sha256(repr((SESSION, BOXES, ARROWS)).encode()).hexdigest()


def draw(picture: Path) -> None:
    """Write the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    figure, axes = pyplot.subplots(figsize=(13, 8.6), dpi=100)
    axes.set(xlim=(0, 100), ylim=(0, 66))
    axes.axis("off")

    def box(x: float, y: float, width: float, height: float, title: str, text: str, colour: str) -> None:
        shape = {"boxstyle": "round,pad=0,rounding_size=0.8", "facecolor": colour, "edgecolor": "#556"}
        axes.add_patch(FancyBboxPatch((x, y), width, height, **shape))
        axes.text(x + width / 2, y + height - 1, title, ha="center", va="top", fontsize=11, weight="bold")
        axes.text(x + width / 2, y + (height - 2.8) / 2, text, ha="center", va="center", fontsize=10)

    def arrow(begin: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "color": "#334", "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=begin, arrowprops=style)

    top = ROWS[-1] + HEIGHT + 4
    box(COLUMNS[0], top, COLUMNS[2] + WIDTH - COLUMNS[0], 7, *SESSION, PEOPLE)
    for column, row, colour, title, lines in BOXES.values():
        box(COLUMNS[column], ROWS[row], WIDTH, HEIGHT, title, "\n".join(lines), colour)
    for name in ("case", "machine", "text"):
        end = side(name, "top")
        arrow((end[0], top), end)
    for origin, target, (leaves, enters) in ARROWS:
        arrow(side(origin, leaves), side(target, enters))
    figure.savefig(picture, bbox_inches="tight", metadata={"Description": content_digest()})
    pyplot.close(figure)


def main() -> None:
    """Draw it, by default over the picture of the docs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=PICTURE)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()

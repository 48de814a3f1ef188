"""curves.png: golden card, phase 1 and phase 2 of each metric, the restart and the first differing step
marked.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from tasks.cases.metrics import metric_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tasks.judge.run import Verdict
    from tasks.records.card import Metric

# Distinguishable for colour-blind readers, and by width and dash where colour is lost (Okabe and Ito's
# palette).
GOLDEN = {"color": "#E69F00", "linewidth": 4.0, "alpha": 0.7}
PHASE_1 = {"color": "#0072B2", "linewidth": 1.3}
PHASE_2 = {"color": "#D55E00", "linewidth": 1.3, "linestyle": (0, (4, 2))}
COLUMNS = 2
WIDTH_IN, HEIGHT_IN = 7.0, 4.0


def draw(verdict: Verdict) -> bytes:
    """A PNG, a panel a metric: values above, differences below. Draws what there is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _names(verdict)
    rows = max(1, -(-len(names) // COLUMNS))
    columns = min(COLUMNS, max(1, len(names)))
    figure = Figure(figsize=(WIDTH_IN * columns, HEIGHT_IN * rows + 0.9), dpi=110)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(_title(verdict), fontsize=11, y=1 - 0.15 / figure.get_figheight())
    for panel, name in zip(_panels(figure, rows, columns), names, strict=False):
        _draw_metric(panel, verdict, name)
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles, loc="lower center", ncols=len(handles), frameon=False)
    content = io.BytesIO()
    canvas.print_png(content)
    return content.getvalue()


def series_of(verdict: Verdict, name: str) -> dict[str, Metric]:
    """The series of a metric that exist, by label, in the order of drawing."""
    run = verdict.run
    cards = {"golden": verdict.golden_card}
    if run:
        cards |= {"phase 1": run.actual1, "phase 2": run.actual2}
    else:
        cards["actual"] = verdict.actual_card
    found = {label: card.metrics.get(name) for label, card in cards.items() if card}
    return {label: metric for label, metric in found.items() if metric is not None and metric.steps.size}


def residuals(reference: Metric, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Common steps (int64) and metric minus reference (float64, NaN where either is not finite), both of
    shape (n,).
    """
    steps, first, second = np.intersect1d(
        reference.steps, metric.steps, assume_unique=True, return_indices=True
    )
    return steps, _drawable(metric.values)[second] - _drawable(reference.values)[first]


def _panels(figure, rows: int, columns: int) -> list[tuple[Axes, Axes]]:
    panels = []
    height = figure.get_figheight()
    edges = {"left": 0.06, "right": 0.985, "top": 1 - 0.55 / height, "bottom": 0.85 / height}
    for outer in figure.add_gridspec(rows, columns, hspace=0.3, wspace=0.16, **edges):
        inner = outer.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.08)
        above = figure.add_subplot(inner[0])
        below = figure.add_subplot(inner[1], sharex=above)
        above.tick_params(labelbottom=False)
        for axes, ticks in ((above, 4), (below, 2)):  # most of the time of drawing goes into ticks
            axes.locator_params(axis="y", nbins=ticks)
            axes.locator_params(axis="x", nbins=5)
        panels.append((above, below))
    return panels


def _draw_metric(panel: tuple[Axes, Axes], verdict: Verdict, name: str) -> None:
    from matplotlib.ticker import EngFormatter

    above, below = panel
    styles = {"golden": GOLDEN, "phase 1": PHASE_1, "phase 2": PHASE_2, "actual": PHASE_1}
    series = series_of(verdict, name)
    for label, metric in series.items():
        above.plot(metric.steps, _drawable(metric.values), label=label, **styles[label])
    verdicts = [f"{row.comparison} {row.verdict}" for row in verdict.rows if row.metric == name]
    above.set_title(f"{name}: {', '.join(verdicts)}" if verdicts else name, fontsize=10, loc="left")
    _draw_residuals(below, series, styles)
    _mark(panel, verdict, name)
    above.margins(x=0.02)
    below.set_xlabel("step", fontsize=8)
    for axes in panel:
        if unit := metric_named(name).kind.unit:
            axes.yaxis.set_major_formatter(EngFormatter(unit=unit))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)


def _draw_residuals(axes: Axes, series: dict[str, Metric], styles: dict[str, dict]) -> None:
    axes.axhline(0.0, color="#555555", linewidth=0.8)
    pairs = [("golden", "phase 1"), ("golden", "actual"), ("phase 1", "phase 2")]
    equal = True
    for reference, label in pairs:
        if reference in series and label in series:
            steps, differences = residuals(series[reference], series[label])
            axes.plot(steps, differences, **styles[label])
            equal = equal and not differences.any()  # NaN is not 0
    if equal:  # else the axis is of a scale by chance
        axes.set_ylim(-1.0, 1.0)
        axes.set_yticks([0.0])
    axes.set_ylabel("difference", fontsize=8)


def _mark(panel: tuple[Axes, Axes], verdict: Verdict, name: str) -> None:
    from tasks.judge.restart_evidence import loaded_iteration

    loaded = loaded_iteration(verdict.run.record2) if verdict.run and verdict.run.record2 else None
    firsts = [row.first_step for row in verdict.rows if row.metric == name and row.first_step is not None]
    for axes in panel:
        if loaded is not None:
            axes.axvline(loaded + 0.5, color="#009E73", linestyle=":", linewidth=1.5, label="restart")
        if firsts:
            axes.axvline(
                min(firsts), color="#CC0033", linestyle="-.", linewidth=1.2, label="first difference"
            )
    if firsts:
        panel[0].annotate(
            f"step {min(firsts)}",
            (min(firsts), 1.0),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color="#CC0033",
            xytext=(3, -10),
            textcoords="offset points",
        )


def _names(verdict: Verdict) -> list[str]:
    compared = [row.metric for row in verdict.rows if series_of(verdict, row.metric)]
    return list(dict.fromkeys(compared))


def _drawable(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _title(verdict: Verdict) -> str:
    return f"{verdict.title} · {'passed' if verdict.passed else 'does not match'}"

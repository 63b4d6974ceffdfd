"""The results as pictures: SVG files, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.all import OURS
from benchmarks.figures import Figure
from benchmarks.results import Results
from benchmarks.rows.base import Plot, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUR_COLOUR = "#c0392b"
OTHER_COLOURS = (
    "#34495e",
    "#7f8c8d",
    "#2980b9",
    "#27ae60",
    "#8e44ad",
    "#d35400",
    "#16a085",
    "#b7950b",
    "#5d6d7e",
)


def write(results: Results, rows: Sequence[Row], folder: Path) -> list[str]:
    """Write a file for each plot that has numbers; return their names."""
    return [
        name
        for row in rows
        for plot in row.plots
        if (name := _write(results, plot, {f.key: f for f in row.figures}, folder)) is not None
    ]


def _write(results: Results, plot: Plot, figures: dict[str, Figure], folder: Path) -> str | None:
    import matplotlib  # takes most of a second, so only here

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    series = {
        name: medians for name in results.versions if (medians := _medians(results, name, plot, figures))
    }
    if not series:
        return None
    others = iter(OTHER_COLOURS)
    colours = {name: OUR_COLOUR if name == OURS else next(others, OTHER_COLOURS[0]) for name in series}
    with plt.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 9}):
        height = 4.0 if plot.xs else 0.8 + 0.35 * len(series)
        picture, axes = plt.subplots(figsize=(7.0, height), layout="constrained")
        if plot.xs:
            _curves(axes, plot, series, colours, results)
        else:
            _bars(axes, plot, series, colours, results, figures[plot.keys[0]])
        axes.set_title(plot.title)
        name = f"{plot.name}.svg"
        folder.mkdir(parents=True, exist_ok=True)
        picture.savefig(folder / name, format="svg", metadata={"Date": None})
        plt.close(picture)
    return name


def _medians(results: Results, name: str, plot: Plot, figures: dict[str, Figure]) -> dict[int, float]:
    """Return what a contender has of the plot's figures, by their position in it."""
    found = ((i, results.of(name, figures[key])) for i, key in enumerate(plot.keys))
    return {i: spread.median for i, spread in found if spread is not None}


def _curves(
    axes: Axes, plot: Plot, series: dict[str, dict[int, float]], colours: dict[str, str], results: Results
) -> None:
    for name, medians in series.items():
        axes.plot(
            [plot.xs[i] for i in medians],
            list(medians.values()),
            marker="o",
            markersize=3,
            linewidth=2.0 if name == OURS else 1.2,
            color=colours[name],
            label=results.titles[name],
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(plot.xs), [f"{x:g}" for x in plot.xs])
    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _bars(
    axes: Axes,
    plot: Plot,
    series: dict[str, dict[int, float]],
    colours: dict[str, str],
    results: Results,
    figure: Figure,
) -> None:
    names = list(reversed(series))  # the first contender on top
    values = [series[name][0] for name in names]
    bars = axes.barh([results.titles[n] for n in names], values, color=[colours[n] for n in names])
    axes.bar_label(bars, [figure.write(value) for value in values], padding=3)
    axes.set_xlim(0, 1.2 * max(values) or 1)  # with room for the numbers beside the bars
    axes.set_xlabel(plot.unit)

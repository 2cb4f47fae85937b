"""The pictures of ``handgrad bench``: ratios of networks, and the rungs of a ladder."""

from __future__ import annotations

from ..engine.checks import ConfigurationError
from . import figures
from .bench_tables import digits, machine_line, require_ratios, samples_of

REACHED, MISSED, GOAL, TEXT, FAINT = "#2a6f97", "#c8553d", "#e09f3e", "#222222", "#666666"
COLORS = {"forward": "#2a6f97", "weight gradient": "#a85c1a", "input gradient": "#4d7c36"}
BAR = 0.42  # inches from one bar to the next


def draw(report: dict, path: str) -> None:
    """Draw a report into a file; the suffix is the format.

    Raises
    ------
    ConfigurationError
        When there is no picture of such results.
    """
    if report["kind"] == "ladder":
        figures.write(lambda: ladder(report), path)
    elif report["kind"] == "networks":
        require_ratios(report, "--picture")
        figures.write(lambda: networks(report), path)
    else:
        raise ConfigurationError("--picture", got=f"results of --{report['kind']}", expected="networks or a ladder")


def _axes(bars: float, title: str, caption: str, left: float):
    """Return a figure and its axes for so many horizontal bars, with room for their names, a title and a caption."""
    width, above, below = 9.0, 0.55, 1.2
    height = bars * BAR + above + below
    made = figures.new_figure(width, height)
    axes = made.add_axes((left / width, below / height, (width - left - 0.6) / width, bars * BAR / height))
    made.text(0.15 / width, 1 - 0.3 / height, title, fontsize=12, fontweight="bold", color=TEXT, va="center")
    made.text(0.15 / width, 0.2 / height, caption, fontsize=8, color=FAINT, va="center")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(True, axis="x", color="#e4e4e4")
    return made, axes


def networks(report: dict):
    """Return the figure of the training step's ratio for every network and batch size, with spread and goal."""
    results = [r for r in report["results"] if r["ratios"]]
    made, axes = _axes(len(results), "Training step: handgrad against the strongest peer", machine_line(report), 2.5)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    largest = max(max(r["ratios"]["step"]["upper"], r["goals"]["step"], 1.0) for r in results)
    for y, r in enumerate(results):
        step, goal = r["ratios"]["step"], r["goals"]["step"]
        color = REACHED if step["ratio"] >= goal else MISSED
        axes.barh(y, step["ratio"], height=0.62, color=color)
        spread = [[step["ratio"] - step["lower"]], [step["upper"] - step["ratio"]]]
        axes.errorbar(step["ratio"], y, xerr=spread, color=TEXT, linewidth=1, capsize=3)
        axes.plot([goal, goal], [y - 0.4, y + 0.4], color=GOAL, linewidth=3, solid_capstyle="butt")
        inside = step["ratio"] > 0.12 * largest
        at, color = (0.015 * largest, "white") if inside else (step["upper"] + 0.015 * largest, TEXT)
        axes.text(at, y, f"{step['ratio']:.2f}", va="center", fontsize=9.5, fontweight="bold", color=color)
    axes.axvline(1, color=TEXT, linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(results)), [f"{r['net']}, {r['batch']}" for r in results], fontsize=9.5)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlim(0, largest * 1.05)
    axes.set_xlabel("images per second, divided by those of the strongest peer", fontsize=9)
    names = [Patch(color=REACHED, label="goal reached"), Patch(color=MISSED, label="goal not reached")]
    names += [Line2D([], [], color=GOAL, linewidth=3, label="goal")]
    names += [Line2D([], [], color=TEXT, linestyle="--", label="strongest peer")]
    names += [Line2D([], [], color=TEXT, linewidth=1, marker="|", label="two standard errors")]
    _legend(made, names)
    return made


def _legend(made, names: list) -> None:
    """Put the names of colours into a line between the axis and the caption."""
    place = (0.5, 0.32 / made.get_figheight())
    made.legend(handles=names, ncols=len(names), fontsize=8.5, frameon=False, loc="lower center", bbox_to_anchor=place)


def ladder(report: dict):
    """Return the figure of a ladder: three bars for every rung on a logarithmic axis, and the machine's peak."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    (r,) = report["results"]
    rungs, peak = r["rungs"], r["peak_gflops"]
    title = f"{r['title'][0].upper()}{r['title'][1:]}"
    made, axes = _axes(2.1 * len(rungs), title, f"{r['samples']} samples; {machine_line(report)}", 2.75)
    least = min(rung[operation]["gflops"] for rung in rungs for operation in COLORS)
    for y, rung in enumerate(rungs):
        for k, (operation, color) in enumerate(COLORS.items()):
            gflops, at = rung[operation]["gflops"], y + 0.27 * (k - 1)
            axes.barh(at, gflops, height=0.24, color=color)
            axes.text(gflops / 1.08, at, digits(gflops), va="center", ha="right", fontsize=8.5, color="white")
    axes.set_xscale("log")
    axes.set_xlim(least / 12, peak * 2)  # a bar has room for its number
    axes.set_ylim(len(rungs) - 0.45, -0.55)
    axes.axvline(peak, color=MISSED, linewidth=1.5, linestyle="--")
    for y, rung in enumerate(rungs):
        adds = rung["adds"] + (f" ({samples_of(rung)})" if rung["samples_timed"] < r["samples"] else "")
        axes.annotate(rung["rung"], (0, y), (-190, 9), xycoords=("axes fraction", "data"), textcoords="offset points",
                      fontsize=11, fontweight="bold", color=TEXT, va="center")  # fmt: skip
        axes.annotate(_two_lines(adds), (0, y), (-190, -10), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=8.5, color=FAINT, va="center")  # fmt: skip
    axes.set_yticks([])
    axes.set_xlabel("GFLOP/s on one thread", fontsize=9)
    names = [Patch(color=color, label=operation) for operation, color in COLORS.items()]
    _legend(made, [*names, Line2D([], [], color=MISSED, linestyle="--", label=f"the machine's peak, {digits(peak)}")])
    return made


def _two_lines(text: str) -> str:
    """Return a text broken near its middle."""
    import textwrap

    return "\n".join(textwrap.wrap(text, 36))

"""A network as a picture: one box per node, from the inputs at the top to the outputs at the bottom.

The longest path of the graph is a straight column in the middle. Every other branch, and every edge that passes by
boxes, gets a column beside it in which nothing else stands at that height.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import figures

if TYPE_CHECKING:
    from ..engine.graph import Node
    from ..engine.network import Network


HEIGHT, GAP = 0.56, 0.38  # of a box, and between two levels, in inches
LANE, BETWEEN = 0.14, 0.3  # width of a column without boxes and beside it; between two columns of boxes, in inches
MARGIN, PAD, PORT = 0.3, 0.16, 0.3  # around everything; inside a box; between two arrows at one box, in inches
TEXT, FAINT, LINE = "#20242c", "#68707d", "#8a919e"
COLORS = {
    "input": "#6b7280",
    "conv": "#2f6db3",
    "dense": "#7a4fb5",
    "maxpool": "#1f8f86",
    "avgpool": "#1f8f86",
    "globalavgpool": "#1f8f86",
    "globalmaxpool": "#1f8f86",
    "upsample": "#1f8f86",
    "convtranspose": "#2f6db3",
    "rnn": "#7a4fb5",
    "relu": "#d98a1c",
    "sigmoid": "#d98a1c",
    "tanh": "#d98a1c",
    "linear": "#d98a1c",
    "leakyrelu": "#d98a1c",
    "step": "#d98a1c",
    "softmax": "#c8553d",
    "logsoftmax": "#c8553d",
    "add": "#b83a6b",
    "concat": "#b83a6b",
    "multiply": "#b83a6b",
}
OTHER = "#8a919e"


@dataclass
class Layout:
    """Where everything stands, in levels from the top and in columns, 0 being the longest path.

    Attributes
    ----------
    level, column : dict of str to int
        Of every node.
    via : dict of (str, str, int) to float
        Column in which the edge from a node to an input of another one (by position) runs down; those that are no
        whole numbers lie between two columns of boxes.
    taken : set of (float, int)
        (column, level) pairs where something stands or passes.
    """

    level: dict[str, int] = field(default_factory=dict)
    column: dict[str, int] = field(default_factory=dict)
    via: dict[tuple[str, str, int], float] = field(default_factory=dict)
    taken: set[tuple[float, int]] = field(default_factory=set)

    def reserve(self, levels: range, candidates) -> int:
        """Return the first of the candidate columns that is free at all these levels, and take it."""
        column = next(c for c in candidates if not any((c, level) in self.taken for level in levels))
        self.taken |= {(column, level) for level in levels}
        return column


def draw(network: Network, path: str | Path, *, title: str = "") -> None:
    """Draw a network into a file.

    Parameters
    ----------
    network : Network
        Any graph: chains, branches, skip connections, several inputs and outputs.
    path : str or pathlib.Path
        Its suffix, .png, .svg or .pdf, is the format; an older file is replaced.
    title : str
        Above the picture.

    Raises
    ------
    ConfigurationError
        When the suffix is another one.
    DataError
        When the file cannot be written.
    """
    figures.write(lambda: figure(network, title), path)


def arrange(network: Network) -> Layout:
    """Return level and column of every node, and the column of every edge."""
    layout = Layout()
    for name, node in network.nodes.items():
        layout.level[name] = 1 + max((layout.level[source.name] for source in node.inputs), default=-1)
    readers = {name: [] for name in network.nodes}
    for name, node in network.nodes.items():
        for position, source in enumerate(node.inputs):
            readers[source.name].append((name, position))
    while len(layout.column) < len(network.nodes):
        _place_path(network, layout, readers, _longest_path(network, layout))
    for name, node in network.nodes.items():
        for position, source in enumerate(node.inputs):
            if (source.name, name, position) not in layout.via:
                passed = range(layout.level[source.name] + 1, layout.level[name])
                lanes = (layout.column[name] + k / 100 for k in itertools.count(1))
                column = layout.reserve(passed, lanes) if passed else layout.column[source.name]
                layout.via[source.name, name, position] = column
    return layout


def _outwards():
    """1, -1, 2, -2, ...: the columns around the longest path, the nearest first."""
    for distance in itertools.count(1):
        yield distance
        yield -distance


def _longest_path(network: Network, layout: Layout) -> list[str]:
    """Return the longest path of nodes that have no column yet."""
    best: dict[str, list[str]] = {}
    for name, node in network.nodes.items():
        if name not in layout.column:
            before = [best[source.name] for source in node.inputs if source.name in best]
            best[name] = [*max(before, key=len, default=[]), name]
    return max(best.values(), key=len)


def _place_path(network: Network, layout: Layout, readers: dict, path: list[str]) -> None:
    """Give a path a column of its own from where it branches off to where it joins again."""
    first, last = network.nodes[path[0]], path[-1]
    start, stop = layout.level[path[0]], layout.level[last] + 1
    placed = [(name, position) for name, position in readers[last] if name in layout.column]
    if first.inputs:
        start = layout.level[first.inputs[0].name] + 1
        sources = [(first.inputs[0].name, path[0], 0)]
    else:
        sources = []
    if placed:
        stop = layout.level[placed[0][0]]
        sources.append((last, *placed[0]))
    column = layout.reserve(range(start, stop), [0] if not layout.column else _outwards())
    for name, following in zip(path, [*path[1:], None], strict=True):
        layout.column[name] = column
        for reader, position in readers[name]:
            if reader == following:
                layout.via.setdefault((name, reader, position), column)
                break
    for edge in sources:
        layout.via[edge] = column


def figure(network: Network, title: str = ""):
    """Return the drawing as a matplotlib figure; see ``draw``."""
    layout, texts = arrange(network), {name: _texts(node) for name, node in network.nodes.items()}
    wide = max(_box_width(lines) for lines in texts.values())
    occupied = set(layout.column.values())
    used = sorted(occupied | set(layout.via.values()))
    center, right = {}, 0.0  # of each column; where the last one ends
    for before, column in zip([None, *used], used, strict=False):
        width = wide if column in occupied else LANE
        right += 0.0 if before is None else BETWEEN if {before, column} <= occupied else LANE
        center[column] = right + width / 2
        right += width
    levels = max(layout.level.values()) + 1
    heading = _heading(network, title, right)
    width = right + 2 * MARGIN
    height = levels * (HEIGHT + GAP) - GAP + 2 * MARGIN + 0.26 * len(heading)
    made = figures.new_figure(width, height)
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_xlim(-MARGIN, width - MARGIN)
    axes.set_ylim(height - MARGIN - 0.26 * len(heading), -MARGIN - 0.26 * len(heading))  # y grows downwards
    axes.set_axis_off()
    for k, (text, style) in enumerate(heading):
        axes.text(0, -0.26 * (len(heading) - k) + 0.06, text, va="center", **style)
    top = {name: level * (HEIGHT + GAP) for name, level in layout.level.items()}
    for edge in layout.via:
        _draw_edge(axes, layout, center, top, edge)
    for name, node in network.nodes.items():
        kind = node.layer.kind if node.layer else "input"
        _draw_box(axes, center[layout.column[name]] - wide / 2, top[name], wide, COLORS.get(kind, OTHER), texts[name])
    return made


def _texts(node: Node) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return what stands in a box: two lines, each left and right."""
    from .summary import words

    shape = " × ".join(map(str, node.shape))
    if node.layer is None:
        return (node.name, shape), ("Input", "")
    count = sum(_product(s) for s in node.layer.parameter_shapes(*(source.shape for source in node.inputs)).values())
    return (node.name, shape), (words(node.layer), f"{count:,} parameters" if count else "")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


STYLES = (
    ({"fontsize": 10, "fontweight": "bold", "color": TEXT}, {"fontsize": 9.5, "color": TEXT}),
    ({"fontsize": 8.5, "color": FAINT}, {"fontsize": 8.5, "color": FAINT}),
)


def _text_width(text: str, style: dict) -> float:
    """Return the width of a text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text:
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight=style.get("fontweight", "normal"))
    return float(TextPath((0, 0), text, size=style["fontsize"], prop=font, usetex=False).get_extents().width) / 72


def _box_width(lines) -> float:
    widths = [
        sum(_text_width(text, style) for text, style in zip(texts, styles, strict=True))
        for texts, styles in zip(lines, STYLES, strict=True)
    ]
    return max(2.6, max(widths) + 2 * PAD + 0.45)


def _heading(network: Network, title: str, width: float) -> list[tuple[str, dict]]:
    """Return the title, cut where it is wider than the picture, and the number of parameters."""
    bold, small = {"fontsize": 12, "fontweight": "bold", "color": TEXT}, {"fontsize": 9, "color": FAINT}
    shown = title
    if _text_width(title, bold) > width:
        fitting = bisect.bisect(range(len(title)), width, key=lambda n: _text_width(title[:n] + "…", bold)) - 1
        shown = title[: max(fitting, 0)].rstrip() + "…"
    return [*([(shown, bold)] if shown else []), (f"{network.parameter_count:,} parameters", small)]


def _draw_box(axes, left: float, top: float, width: float, color: str, lines) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch, Rectangle

    fill = tuple(0.9 + 0.1 * part for part in to_rgb(color))
    corners = {"boxstyle": "round,pad=0,rounding_size=0.07"}
    inside = FancyBboxPatch((left, top), width, HEIGHT, facecolor=fill, edgecolor="none", zorder=3, **corners)
    border = FancyBboxPatch((left, top), width, HEIGHT, facecolor="none", edgecolor=color, zorder=4, **corners)
    bar = Rectangle((left, top), 0.08, HEIGHT, facecolor=color, edgecolor="none", zorder=3)
    for patch in (inside, bar, border):
        axes.add_patch(patch)
    bar.set_clip_path(inside)
    for (left_text, right_text), (left_style, right_style), y in zip(lines, STYLES, (0.32, 0.71), strict=True):
        common = {"va": "center_baseline", "zorder": 5}
        axes.text(left + PAD, top + y * HEIGHT, left_text, ha="left", **common, **left_style)
        axes.text(left + width - PAD, top + y * HEIGHT, right_text, ha="right", **common, **right_style)


def _draw_edge(axes, layout: Layout, center: dict[int, float], top: dict[str, float], edge) -> None:
    """Draw an arrow: down from the source, across to the edge's column, down, across to the target."""
    from matplotlib.patches import FancyArrowPatch

    source, target, _ = edge
    lane = center[layout.via[edge]]
    x0, x1 = (center[layout.column[name]] for name in (source, target))
    if x0 == lane == x1:  # where a layer reads one node twice, two arrows side by side
        lane += PORT * sum(e[:2] == edge[:2] and e[2] < edge[2] for e in layout.via)
        x0 = x1 = lane
    rank = _rank(layout, edge)
    x0, x1 = x0 + PORT * _side(lane, x0), x1 + PORT * _side(lane, x1) * rank
    y0, y1 = top[source] + HEIGHT, top[target]
    across = y0 + GAP / 2, y1 - GAP * max(0.5 - 0.1 * (rank - 1), 0.25)  # those from further away pass below
    points = [(x0, y0), (x0, across[0]), (lane, across[0]), (lane, across[1]), (x1, across[1]), (x1, y1)]
    arrow = FancyArrowPatch(
        path=_rounded(points, 0.1), arrowstyle="-|>,head_length=4,head_width=2.2", color=LINE, linewidth=1.3, zorder=2
    )
    axes.add_patch(arrow)


def _side(lane: float, x: float) -> int:
    return (lane > x) - (lane < x)


def _rank(layout: Layout, edge) -> int:
    """Return the place of an edge, from 1 for the nearest, among those that reach the same box from the same side."""
    column = layout.column[edge[1]]
    side = _side(layout.via[edge], column)
    same = [e for e in layout.via if e[1] == edge[1] and _side(layout.via[e], column) == side]
    return 1 + sorted(same, key=lambda e: (abs(layout.via[e] - column), e)).index(edge)


def _rounded(points: list[tuple[float, float]], radius: float):
    """Return a line through the points with rounded corners, without those that change nothing."""
    from matplotlib.path import Path as Line

    rounded = [(round(x, 6), round(y, 6)) for x, y in points]
    distinct = [point for point, before in zip(rounded, [None, *rounded], strict=False) if point != before]
    kept = distinct[:1]
    for before, point, after in zip(distinct, distinct[1:], distinct[2:], strict=False):
        if not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1]):
            kept.append(point)
    kept.append(distinct[-1])
    vertices, codes = [kept[0]], [Line.MOVETO]
    for before, corner, after in zip(kept, kept[1:], kept[2:], strict=False):
        near = [_towards(corner, other, radius) for other in (before, after)]
        vertices += [near[0], corner, near[1]]
        codes += [Line.LINETO, Line.CURVE3, Line.CURVE3]
    return Line([*vertices, kept[-1]], [*codes, Line.LINETO])


def _towards(corner: tuple[float, float], other: tuple[float, float], radius: float) -> tuple[float, float]:
    """Return the point at this distance from the corner, but not beyond the middle of the way to the other."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = (dx**2 + dy**2) ** 0.5
    share = min(radius / length, 0.5) if length else 0
    return corner[0] + share * dx, corner[1] + share * dy

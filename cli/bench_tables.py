"""The tables of ``handgrad bench``: for the terminal, for the README, and beside older results."""

from __future__ import annotations

import statistics

from ..engine.checks import ConfigurationError
from .console import table

TOLERANCE = 0.10  # by how much a ratio of a second run may differ
NAMES = {
    "step": "step",
    "forward": "forward",
    "backward": "backward",
    "latency": "one image",
    "memory": "memory",
}
# instruction sets of vectors, the widest first
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "neon": "NEON"}
RATES = "rates and times: the median of the fastest tenth of all windows of 10 ms, or of one call"
LEGEND = (
    "ratio: images per second of handgrad divided by the strongest peer's, and two standard errors around it",
    "one image: the peer's time for the inference of a single image divided by handgrad's",
    "memory: bytes of a training step, handgrad's divided by eager PyTorch's",
)


def render(report: dict) -> str:
    """Return a report as text."""
    return {"networks": networks, "layers": layers, "ladder": ladder, "mnist99": mnist}[report["kind"]](report)


def machine_line(report: dict) -> str:
    """Return where and when something was measured, and with what."""
    threads, isa = report["threads"], report.get("isa")
    versions = report["versions"]
    used = ("numba", "torch", "jax") if any(result.get("ratios") for result in report["results"]) else ("numba",)
    shown = [f"{name} {versions[name]}" for name in used if name in versions]
    vectors = VECTORS.get(report.get("instructions"))
    machine = f"{report['machine']} with {vectors}" if vectors and not isa else report["machine"]
    restricted = [f"restricted to {VECTORS[isa]}"] if isa else []
    parts = [machine, f"{threads} thread{'s' * (threads > 1)}", *restricted, report["date"], *shown]
    return ", ".join(parts)


def networks(report: dict) -> str:
    """Return the rates of every network and, where there were peers, the ratios."""
    header = ["network", "batch", "images/s", "forward", "backward", "GFLOP/s", "of peak", "one image", "MiB"]
    rows = []
    for r in report["results"]:
        rates, ours = r["images_per_second"], "handgrad"
        latency = f"{r['latency_microseconds'][ours]:,.0f} µs" if "latency_microseconds" in r else ""
        row = [r["net"], r["batch"], *(f"{rates[kind][ours]:,.0f}" for kind in ("step", "forward", "backward"))]
        row += [f"{r['gflops']:.1f}", f"{r['share_of_peak']:.0%}", latency, f"{r['memory_bytes'][ours] / 2**20:.1f}"]
        rows.append([*row, r["turns"], r["rejected"]])
    lines = [table([*header, "turns", "rejected"], rows, "l" + "r" * 10)]
    cells = ratio_rows(report)
    if cells:
        lines += [
            "",
            table(["network", "batch", *_ratio_header(), "strongest peer"], cells, "l" + "r" * 7),
        ]
    lines += ["", machine_line(report), RATES, *(LEGEND if cells else ()), *_precision(report)]
    lines += [
        f"left out: {r['net']}, {r['batch']}: {label} ({reason})"
        for r in report["results"]
        for label, reason in r["left_out"].items()
    ]
    return "\n".join(lines)


def _precision(report: dict) -> list[str]:
    """Return a line on how well the ratios are known; none without ratios."""
    errors = [
        ratio["uncertainty"] for r in report["results"] for kind, ratio in r["ratios"].items() if kind != "memory"
    ]
    known = [error for error in errors if error is not None]
    return [f"standard error: {statistics.median(known):.1%} in the middle, at most {max(known):.1%}"] if known else []


def _ratio_header() -> list[str]:
    header = []
    for kind, name in NAMES.items():
        header += [name, "goal"] if kind == "step" else [name]
    return header


def ratio_rows(report: dict) -> list[list[str]]:
    """Return a line of text for every network with peers: name, batch, every ratio and goal, and the strongest peer."""
    rows = []
    for r in report["results"]:
        ratios, row = r["ratios"], [r["net"], str(r["batch"])]
        if not ratios:
            continue
        for kind in NAMES:
            row.append(ratio_text(kind, ratios.get(kind)))
            if kind == "step":
                row.append(f"{r['goals']['step']:g}")
        rows.append([*row, ratios["step"]["strongest"].removeprefix("PyTorch ")])
    return rows


def ratio_text(kind: str, ratio: dict | None) -> str:
    """Return a ratio with the interval of two standard errors, if they are known; memory has none."""
    if ratio is None:
        return ""
    spread = "" if kind == "memory" or ratio["uncertainty"] is None else f" ({ratio['lower']:.2f}-{ratio['upper']:.2f})"
    return f"{ratio['ratio']:.2f}{spread}"


def render_markdown(report: dict) -> str:
    """Return the ratios as the README's Markdown table, with a line that says where and when.

    Raises
    ------
    ConfigurationError
        When the report has no ratios.
    """
    require_ratios(report, "the README's table")
    header = ["network", "batch", *_ratio_header(), "strongest peer"]
    lines = [f"| {' | '.join(header)} |", f"| --- {'| ---: ' * (len(header) - 2)}| --- |"]
    lines += [f"| {' | '.join(row)} |" for row in ratio_rows(report)]
    goals = report["results"][0]["goals"]
    caption = f"{machine_line(report)}. Goals for one image: above {goals.get('latency', 1):g}; for memory: at most"
    return "\n".join([*lines, "", f"{caption} {goals['memory']:g}."]) + "\n"


def require_ratios(report: dict, what: str) -> None:
    """Raise a ConfigurationError unless a report compares networks with peers."""
    if report["kind"] != "networks" or not any(result["ratios"] for result in report["results"]):
        got = "networks without peers" if report["kind"] == "networks" else f"results of --{report['kind']}"
        raise ConfigurationError(what, got=got, expected="results of handgrad bench --peers")


def require_comparable(old: dict, threads: int, isa: str | None) -> None:
    """Raise a ConfigurationError unless older results can be compared with new ones."""
    require_ratios(old, "--against: the older results")
    for what, then, now in (("threads", old["threads"], threads), ("instructions", old["isa"], isa)):
        if then != now:
            got = f"{then or 'all'} then and {now or 'all'} now"
            raise ConfigurationError(f"--against: {what}", got=got, expected="the same")


def deviations(new: dict, old: dict) -> list[dict]:
    """Return old, new and deviation of every ratio that two reports share.

    Raises
    ------
    ConfigurationError
        When they cannot be compared.
    """
    require_ratios(new, "--against")
    require_comparable(old, new["threads"], new["isa"])
    before = {(r["net"], r["batch"]): r["ratios"] for r in old["results"]}
    rows = []
    for r in new["results"]:
        then = before.get((r["net"], r["batch"]), {})
        for kind in NAMES:
            if kind in then and kind in r["ratios"]:
                was, is_now = then[kind]["ratio"], r["ratios"][kind]["ratio"]
                change = is_now / was - 1
                row = {"net": r["net"], "batch": r["batch"], "ratio": kind, "old": was, "new": is_now}
                rows.append(row | {"deviation": change, "agrees": abs(change) <= TOLERANCE})
    if not rows:
        raise ConfigurationError("--against", got="no network and size in common", expected="the same --net")
    return rows


def render_deviations(rows: list[dict], path: str) -> str:
    """Return the comparison with older results as text."""
    cells = [
        [row["net"], row["batch"], NAMES[row["ratio"]], f"{row['old']:.2f}", f"{row['new']:.2f}",
         f"{row['deviation']:+.1%}", "agrees" if row["agrees"] else "DIFFERS"]
        for row in rows
    ]  # fmt: skip
    wrong = sum(not row["agrees"] for row in rows)
    verdict = f"{len(rows) - wrong} of {len(rows)} ratios are within {TOLERANCE:.0%} of {path}"
    return "\n".join(
        [table(["network", "batch", "ratio", "old", "new", "deviation", "verdict"], cells, "lrlrrr"), "", verdict]
    )


def _microseconds(part: dict) -> list[str]:
    gflops, share = part["gflops"], part["share_of_peak"]
    return [f"{part['microseconds']:,.0f}", "" if gflops is None else f"{gflops:.1f}", _percent(share)]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def layers(report: dict) -> str:
    """Return a table for every network: its layers, and what lies outside of them."""
    lines = []
    for r in report["results"]:
        rows = []
        for layer in r["layers"]:
            share = sum(layer[direction]["share_of_step"] for direction in ("forward", "backward"))
            shape = " x ".join(map(str, layer["shape"]))
            rows.append(
                [
                    layer["layer"],
                    shape,
                    *_microseconds(layer["forward"]),
                    *_microseconds(layer["backward"]),
                    f"{share:.1%}",
                ]
            )
        for rest in r["outside"]:
            rows.append([rest["what"], "", f"{rest['microseconds']:,.0f}", *[""] * 5, f"{rest['share_of_step']:.1%}"])
        header = ["layer", "output", "forward µs", "GFLOP/s", "of peak", "backward µs", "GFLOP/s", "of peak", "of step"]
        lines += [table(header, rows, "llrrrrrrr"), ""]
        lines += [
            f"{r['net']}, {r['batch']} samples: {r['step_microseconds']:,.0f} µs a step, {r['images_per_second']:,.0f} "
            f"images/s; peak {r['peak_gflops']:.1f} GFLOP/s; medians of {r['steps']:,} steps",
            "",
        ]
    return "\n".join([*lines, machine_line(report)])


def ladder(report: dict) -> str:
    """Return the rungs with their speed, and the factor to the rung before."""
    (r,) = report["results"]
    operations = ("forward", "weight gradient", "input gradient")
    header = ["rung", *(column for operation in operations for column in (operation, "factor")), "what it adds"]
    rows = []
    for rung in r["rungs"]:
        row = [rung["rung"]]
        for operation in operations:
            factor = rung[operation]["factor"]
            row += [digits(rung[operation]["gflops"]), "" if factor is None else f"{factor:,.1f} x"]
        rows.append([*row, rung["adds"]])
    scaled = [rung for rung in r["rungs"] if rung["samples_timed"] < r["samples"]]
    lines = [table(header, rows, "lrrrrrrl"), "", f"GFLOP/s of a {r['title']}, {r['samples']} samples"]
    lines += [f"{x['rung']}: timed on {samples_of(x)}; its one backward pass computes both gradients" for x in scaled]
    return "\n".join([*lines, f"{machine_line(report)}; peak {r['peak_gflops']:.1f} GFLOP/s"])


def samples_of(rung: dict) -> str:
    """Return on how many samples a rung was timed."""
    return f"{rung['samples_timed']} sample{'s' * (rung['samples_timed'] > 1)}"


def digits(value: float) -> str:
    """Return a number with three significant digits, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def mnist(report: dict) -> str:
    """Return time and accuracy of every seed, and their means."""
    rows = [[run["seed"], f"{run['seconds']:.1f}", f"{run['test_accuracy']:.2%}"] for run in report["results"]]
    rows.append(["mean", f"{report['mean_seconds']:.1f}", f"{report['mean_accuracy']:.2%}"])
    rows.append(["least", f"{report['least_seconds']:.1f}", f"{report['least_accuracy']:.2%}"])
    verdict = "reached" if report["reached"] else "not reached"
    lines = [table(["seed", "seconds", "test accuracy"], rows, "lrr"), "", machine_line(report)]
    lines.append(f"handgrad train {' '.join(report['recipe'])}: whole processes, kernels compiled before")
    return "\n".join([*lines, f"mean test accuracy of {report['goal']:.1%}: {verdict}"])

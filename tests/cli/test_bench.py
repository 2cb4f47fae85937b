"""``handgrad bench``: what is printed is what was measured, and options that exclude each other are one clear line."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

from handgrad.cli import bench, bench_mnist, bench_tables, run
from handgrad.engine.checks import ConfigurationError, HandgradError

TURNS = ["--repeats", "1", "--seconds", "0.01"]
QUICK = ["--net", "lenet5", "--batch-size", "16", "--threads", "1", *TURNS]
KINDS = ("step", "forward", "backward", "latency", "memory")


def ratio(value):
    return {
        "ratio": value,
        "lower": value - 0.1,
        "upper": value + 0.2,
        "uncertainty": 0.01,
        "visits": [value],
        "strongest": "PyTorch eager",
    }


def network(name="lenet5", batch=64, **ratios):
    """Return one network's results as ``benchmarks.visits`` puts them together."""
    kinds = ("step", "forward", "backward")
    return {
        "net": name, "title": name, "batch": batch, "threads": 2, "tile": 4, "gflops": 50.0, "peak_gflops": 200.0,
        "images_per_second": {kind: {"handgrad": 2000.0, "PyTorch eager": 1000.0} for kind in kinds},
        "latency_microseconds": {"handgrad": 100.0, "PyTorch eager": 150.0}, "share_of_peak": 0.25,
        "memory_bytes": {"handgrad": 2**21, "PyTorch eager": 2**20}, "first_step_seconds": {"handgrad": 1.0},
        "visits": 2, "turns": 7, "rejected": 3, "goals": {"step": 3.0, "memory": 1.5, "latency": 1.0}, "left_out": {},
        "ratios": {kind: ratio(value) for kind, value in ratios.items()},
    }  # fmt: skip


def report(*results, **changed):
    """Return a report as ``--out`` writes it."""
    whole = {"kind": "networks", "threads": 2, "results": list(results), "machine": "Some CPU", "date": "2026-01-01"}
    whole |= {"versions": {"handgrad": "0", "python": "3", "numba": "1", "torch": "2"}, "isa": None}
    return whole | {"repeats": 25, "seconds": 0.1} | changed


GOOD = dict.fromkeys(KINDS, 2.0)


@pytest.fixture
def saved(tmp_path):
    """Return a function that writes a report and gives its path."""

    def write(name, *results, **changed):
        (tmp_path / name).write_text(json.dumps(report(*results, **changed)))
        return str(tmp_path / name)

    return write


def test_json_of_one_network(capsys, tmp_path):
    assert run(["bench", *QUICK, "--json", "--out", str(tmp_path / "b.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "b.json").read_text())
    (result,) = printed["results"]
    assert set(result) == set(network()) and result["visits"] == printed["visits"] == 1
    assert result["net"] == "lenet5" and result["batch"] == 16 and result["threads"] == 1 and result["ratios"] == {}
    assert (printed["instructions"] == "avx512f") == (result["tile"] == 8)
    assert set(result["images_per_second"]) == {"step", "forward", "backward"}
    rate = result["images_per_second"]["step"]["handgrad"]
    assert rate > 0 and 0 < result["share_of_peak"] < 1 and result["latency_microseconds"]["handgrad"] > 0
    assert result["gflops"] == pytest.approx(rate * 2_263_920 / 1e9)
    assert result["memory_bytes"]["handgrad"] > 4 * 61_706 * 2


@pytest.mark.parametrize(
    ("asked", "expected"), [([], "abc" * 6 + "bc" + "c" * 5), (["--visits", "1", "--repeats", "7"], "abcabc")]
)
def test_networks_are_visited_in_turn_until_their_ratios_are_known(capsys, monkeypatch, asked, expected):
    """The first is known at once, the second after another visit, and the third never; one visit says nothing."""
    names, order, least = {"mlp": "a", "two-conv": "b", "conv-1x1": "c"}, [], 1 if asked else 6

    def run_module(module, words, isa, what):
        name = names[words[0]]
        order.append(name)
        count = order.count(name)
        assert (module, words[1]) == ("one", "8") and "--peers" in words
        assert words[2] == ("--racing" if count > 1 else "--threads")
        turns = int(words[words.index("--repeats") + 1])
        assert turns == (7 if asked else 6)
        speed = {"a": 2.0, "b": 2.1 if count in (6, 7) else 2.0, "c": 2.0 + 2.0 * (count % 2)}[name]
        found = {"threads": 1, "tile": 8, "operations": 1.0, "peak_gflops": 1.0, "rejected": 0, "disturbed": []}
        found |= {"memory_bytes": {"handgrad": 1, "PyTorch eager": 1}, "first_step_seconds": {}, "left_out": {}}
        return found | {
            "pieces": {"step": {"handgrad": [[[speed, 1.0]]] * turns, "PyTorch eager": [[[1.0, 1.0]]] * turns}}
        }

    monkeypatch.setattr(bench, "run_module", run_module)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    nets = [word for name in names for word in ("--net", name)]
    assert run(["bench", *nets, "--batch-size", "8", "--peers", "--json", *asked]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "".join(order) == expected and printed["visits"] == least
    assert [result["visits"] for result in printed["results"]] == [order.count(name) for name in "abc"]


@pytest.mark.parametrize("first", [True, False])
def test_a_later_visit_that_fails_does_not_lose_the_others(capsys, monkeypatch, first):
    def run_module(module, words, isa, what):
        if ("--racing" not in words) == first:
            raise HandgradError(f"bench: {what} failed: MemoryError")
        ours = [[[rate, 1.0]] for rate in (2.0, 3.0, 4.0)]
        pieces = {"step": {"handgrad": ours, "PyTorch eager": [[[1.0, 1.0]]] * 3}}
        found = {"threads": 1, "tile": 8, "operations": 1.0, "peak_gflops": 1.0, "rejected": 0, "disturbed": []}
        found |= {"memory_bytes": {"handgrad": 1, "PyTorch eager": 1}, "first_step_seconds": {}, "left_out": {}}
        return found | {"pieces": pieces}

    monkeypatch.setattr(bench, "run_module", run_module)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    status = run(["bench", "--net", "mlp", "--batch-size", "8", "--visits", "2", "--peers", "--json"])
    out, err = capsys.readouterr()
    if first:
        assert status == 1 and out == "" and "mlp with 8 samples failed: MemoryError" in err
        return
    (result,) = json.loads(out)["results"]
    reason = "bench: mlp with 8 samples failed: MemoryError"
    assert status == 1 and f"{reason}; its other visits count" in err
    assert result["visits"] == 1 and result["left_out"] == {f"visit {k}": reason for k in (2, 3, 4)}


@pytest.mark.parity
def test_peers_of_one_network(capsys):
    pytest.importorskip("torch")
    net = ["--net", "mlp", "--batch-size", "16", "--threads", "1", "--visits", "1", *TURNS]
    assert run(["bench", *net, "--peers", "--isa", "avx2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (result,) = printed["results"]
    assert printed["isa"] == "avx2" and set(result["ratios"]) == set(KINDS)
    assert result["tile"] == 4  # of AVX2, on every machine
    for kind, values in result["ratios"].items():
        assert 0 < values["lower"] <= values["ratio"] <= values["upper"], kind
        assert values["strongest"] != "handgrad"
    ran = {"handgrad", "PyTorch eager", "PyTorch compile"}
    assert set(result["images_per_second"]["step"]) - {"JAX"} == ran - set(result["left_out"])
    bytes_ = result["memory_bytes"]
    assert result["ratios"]["memory"]["ratio"] == bytes_["handgrad"] / bytes_["PyTorch eager"]


@pytest.mark.parity
def test_without_a_compiler_the_compiled_peer_is_left_out(capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert (
        run(["bench", "--net", "conv-1x1", "--batch-size", "16", "--threads", "1", "--visits", "1", *TURNS, "--peers"])
        == 0
    )
    output = capsys.readouterr()
    assert "PyTorch compile is left out: InductorError: InvalidCxxCompiler" in output.err
    assert "left out: conv-1x1, 16: PyTorch compile (InductorError" in output.out


def test_table_without_peers():
    text = bench_tables.render(report(network()))
    assert "the median of the fastest tenth" in text
    row = text.splitlines()[2].split()
    assert row == ["lenet5", "64", "2,000", "2,000", "2,000", "50.0", "25%", "100", "µs", "2.0", "7", "3"]


def test_table_of_ratios():
    text = bench_tables.render(report(network(**GOOD), threads=1, isa="avx2"))
    (row,) = [line.split() for line in text.splitlines() if "eager" in line and "lenet5" in line]
    pair = ["2.00", "(1.90-2.20)"]
    assert row == ["lenet5", "64", *pair, "3", *pair, *pair, *pair, "2.00", "eager"]
    assert "Some CPU, 1 thread, restricted to AVX2, 2026-01-01, numba 1, torch 2" in text
    worse = network(**GOOD)
    worse["ratios"]["forward"]["uncertainty"] = 0.035
    assert "standard error: 1.0% in the middle, at most 3.5%" in bench_tables.render(report(worse))


def test_code_for_other_instructions_is_not_taken_from_the_cache_of_pytorch(monkeypatch):
    from handgrad.cli.bench import restricted_to

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    assert restricted_to(None) == {}
    assert restricted_to("avx2")["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere-avx2"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert restricted_to("avx2")["TORCHINDUCTOR_CACHE_DIR"].endswith("-avx2")


@pytest.mark.parametrize(
    ("instructions", "machine"),
    [("avx512f", "Some CPU with AVX-512"), ("avx2", "Some CPU with AVX2"), (None, "Some CPU")],
)
def test_instructions_of_the_machine_are_named(instructions, machine):
    text = bench_tables.render(report(network(), instructions=instructions))
    assert f"{machine}, 2 threads, 2026-01-01" in text


def test_markdown_holds_what_the_results_say():
    text = bench_tables.render_markdown(report(network(**GOOD), network("conv-1x1", 128, step=0.5, memory=1.0)))
    header, rule, first, second, _, caption = text.splitlines()
    assert header.count("|") == rule.count("|") == first.count("|") == second.count("|")
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["lenet5", "64", "2.00 (1.90-2.20)", "3", *["2.00 (1.90-2.20)"] * 3, "2.00", "eager"]
    assert "0.50 (0.40-0.70)" in second and "Some CPU, 2 threads, 2026-01-01" in caption
    with pytest.raises(
        ConfigurationError, match="got networks without peers, expected results of handgrad bench --peers"
    ):
        bench_tables.render_markdown(report(network()))


@pytest.mark.parametrize(("step", "code"), [(2.0, 0), (2.19, 0), (1.81, 0), (2.21, 1), (1.79, 1)])
def test_against_older_results(capsys, saved, step, code):
    old, new = saved("old.json", network(**GOOD)), saved("new.json", network(**GOOD | {"step": step}))
    assert run(["bench", "--results", new, "--against", old]) == code
    text = capsys.readouterr().out
    assert ("DIFFERS" in text) == bool(code) and f"{5 - code} of 5 ratios are within 10%" in text
    assert run(["bench", "--results", new, "--against", old, "--json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["agrees"] == (code == 0) and len(printed["against"]) == 5
    assert printed["against"][0]["deviation"] == pytest.approx(step / 2 - 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 4}, "--against: threads: got 4 then and 2 now, expected the same"),
        ({"isa": "avx2"}, "--against: instructions: got avx2 then and all now, expected the same"),
        ({"results": [network("mlp", 128, **GOOD)]}, "--against: got no network and size in common"),
        ({"results": [network()]}, "--against: the older results: got networks without peers"),
    ],
)
def test_results_that_cannot_be_compared(capsys, saved, changed, message):
    old, new = saved("old.json", network(**GOOD), **changed), saved("new.json", network(**GOOD))
    assert run(["bench", "--results", new, "--against", old]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--net", "vgg"], "--net: got vgg, expected one of lenet5"),
        (["--batch-size", "0"], ""),
        (["--ladder", "dense"], "--ladder: got dense, expected one of conv2d"),
        (["--ladder", "conv2d", "--peers"], "--ladder: got --peers as well, expected it alone, or with --repeats"),
        (["--layers", "--mnist99"], "--layers: got --mnist99 as well"),
        (["--mnist99", "--net", "mlp"], "--mnist99: got --net as well, expected it alone, or with --seeds"),
        (["--seeds", "3"], "bench: got --seeds as well"),
        (["--results", "a.json", "--peers"], "--results: got --peers as well"),
        (["--against", "a.json"], "--against: got no ratios to show, expected --peers as well"),
        (["--picture", "a.png"], "--picture: got no ratios to show, expected --peers as well"),
        (["--ladder", "conv2d", "--picture", "a.gif"], "picture a.gif: got the suffix '.gif'"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    assert run(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"kind": "soup", "machine": "m"}'])
def test_a_file_without_results(capsys, tmp_path, content):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    assert run(["bench", "--results", str(path)]) == 3
    assert "is no results file" in capsys.readouterr().err


def test_results_of_an_older_version_are_told(tmp_path, capsys):
    path = tmp_path / "r.json"
    ratio = {"ratio": 1.0, "lower": 0.9, "upper": 1.1, "uncertainty": 0.01}  # a median over turns, with quartiles
    path.write_text(json.dumps({"kind": "networks", "machine": "m", "results": [{"ratios": {"step": ratio}}]}))
    assert run(["bench", "--results", str(path)]) == 3
    assert "is no results file (of an older version); make one" in capsys.readouterr().err


def test_a_process_that_prints_nothing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: bench.subprocess.CompletedProcess([], 0, "", ""))
    assert run(["bench", *QUICK]) == 1
    assert "bench: lenet5 with 16 samples failed: printed no results" in capsys.readouterr().err


def test_a_failing_process_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(bench.MALLOC, "NUMBA_CPU_FEATURES", "not features")
    assert run(["bench", *QUICK]) == 1
    assert "bench: lenet5 with 16 samples failed: " in capsys.readouterr().err


def test_layers(capsys):
    arguments = ["bench", "--layers", "--net", "lenet5", "--batch-size", "16", *TURNS]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:6] == ["conv1,", "relu1", "6", "x", "28", "x"]
    assert run([*arguments, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["layers"][0]["layer"] == "conv1, relu1" and result["outside"]


def test_ladder_with_a_picture(capsys, tmp_path):
    picture, out = tmp_path / "ladder.png", tmp_path / "ladder.json"
    assert run(["bench", "--ladder", "conv2d", *TURNS, "--picture", str(picture), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["literal", "plain", "lanes", "tile", "fused"]
    assert "literal: timed on 1 sample" in "\n".join(lines)
    require_drawing(picture, 1800, 1232)
    (result,) = json.loads(out.read_text())["results"]
    speeds = [rung["forward"]["gflops"] for rung in result["rungs"]]
    assert min(speeds) > 0 and len(speeds) == 5


def require_drawing(path, width, height):
    """Demand a picture of about this size that has ink of several colours."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert abs(pixels.shape[1] - width) < 10 and abs(pixels.shape[0] - height) < 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()  # nothing is cut off


def test_picture_of_networks(saved, tmp_path):
    results = [
        network("lenet5", 64, **GOOD),
        network("mlp", 128, **GOOD | {"step": 3.5}),
        network("conv-1x1", 8, step=0.2),
    ]
    picture = tmp_path / "networks.png"
    assert run(["bench", "--results", saved("r.json", *results), "--picture", str(picture)]) == 0
    require_drawing(picture, 1800, 600)


def test_no_picture_of_a_table(capsys, saved):
    assert run(["bench", "--results", saved("r.json", kind="layers"), "--picture", "a.png"]) == 2
    assert "--picture: got results of --layers, expected networks or a ladder" in capsys.readouterr().err


def test_mnist_needs_its_files(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HANDGRAD_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run(["bench", "--mnist99"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.mnist
def test_whole_trainings(capsys, monkeypatch):
    if not os.path.isdir(os.path.join(os.environ.get("HANDGRAD_DATA", ""), "mnist")):
        pytest.skip("MNIST is not at $HANDGRAD_DATA")
    recipe = ("mlp", "--epochs", "1", "--limit", "256")
    monkeypatch.setattr(bench_mnist, "RECIPE", recipe)
    assert run(["bench", "--mnist99", "--seeds", "2", "--threads", "1", "--json"]) == 1  # so few samples do not suffice
    printed = json.loads(capsys.readouterr().out)
    assert [one["seed"] for one in printed["results"]] == [0, 1] and printed["recipe"] == list(recipe)
    accuracies = [one["test_accuracy"] for one in printed["results"]]
    assert printed["mean_accuracy"] == pytest.approx(sum(accuracies) / 2) and printed["least_accuracy"] == min(
        accuracies
    )
    assert all(0.2 < one["seconds"] < 60 for one in printed["results"]) and not printed["reached"]


@pytest.mark.parametrize(("accuracies", "code"), [((0.9905, 0.9895), 0), ((0.9905, 0.9894), 1)])
def test_the_mean_decides(capsys, monkeypatch, accuracies, code):
    answers = iter([{"seed": 0, "seconds": 9.0, "test_accuracy": a} for a in (0.1, *accuracies)])  # the first warms up
    monkeypatch.setattr(bench_mnist, "train", lambda *arguments: next(answers))
    monkeypatch.setattr("handgrad.datasets.load", lambda name, download: None)
    assert run(["bench", "--mnist99", "--seeds", "2"]) == code
    assert ("not reached" in capsys.readouterr().out) == bool(code)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_peers_without_pytorch(capsys):
    assert run(["bench", "--peers"]) == 2
    assert "--peers: got no PyTorch, expected pip install torch==2.13.0" in capsys.readouterr().err

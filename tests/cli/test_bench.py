"""``handgrad bench``: what is printed is what was measured, and options that exclude each other are one clear line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from handgrad.cli import bench, bench_mnist, bench_process, bench_tables, run
from handgrad.cli.bench_process import Process
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
        "processes": [value],
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


class Visited:
    """In place of the processes that measure: what each visit gives is scripted."""

    def __init__(self, speed):
        self.speed, self.log, self.running = speed, [], []

    def __call__(self, module, words, isa, what):
        return VisitedProcess(self, module, words, what)


class VisitedProcess:
    def __init__(self, all_, module, words, what):
        assert (module, words[1]) == ("one", "8") and "--peers" in words
        self.all, self.name, self.what, self.turns = all_, words[0], what, int(words[words.index("--repeats") + 1])
        self.number = len(self.all.log)  # another one each time, which an address in memory is not
        self.all.log.append(f"new {self.name}")
        self.all.running.append(self)

    def ask(self, racing):
        count = self.all.log.count(self.name) + 1
        assert (racing is None) == (count == 1)
        self.all.log.append(self.name)
        speed = self.all.speed(self.name, count)
        if speed is None:
            raise HandgradError(f"bench: {self.what} failed: MemoryError")
        found = {"threads": 1, "tile": 8, "operations": 1.0, "peak_gflops": 1.0, "rejected": 0, "disturbed": []}
        found |= {
            "process": self.number,
            "memory_bytes": {"handgrad": 1, "PyTorch eager": 1},
            "first_step_seconds": {},
            "left_out": {},
        }
        pieces = {"handgrad": [[[speed, 1.0]]] * self.turns, "PyTorch eager": [[[1.0, 1.0]]] * self.turns}
        return found | {"pieces": {"step": pieces}}

    def end(self):
        self.all.running.remove(self)


@pytest.fixture
def visited(monkeypatch):
    """Return a function that scripts how fast this engine is, by network and number of the visit; None fails."""

    def script(speed):
        visited = Visited(speed)
        monkeypatch.setattr(bench, "Process", visited)
        monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
        return visited

    return script


MLP = ["bench", "--net", "mlp", "--batch-size", "8", "--peers", "--json"]


@pytest.mark.parametrize(
    ("asked", "least", "counts", "lives"),
    [([], 15, (15, 25, 30), (3, 5, 6)), (["--visits", "1", "--repeats", "7"], 1, (2, 2, 2), (2, 2, 2))],
)
def test_networks_are_visited_in_turn_until_their_ratios_are_known(capsys, visited, asked, least, counts, lives):
    """The first is known at once, the second after more visits, and the third never; one visit says nothing.

    After LIFE = 5 visits each network gets a new process. The ratio of the second one's first process is another.
    """
    names = ("mlp", "two-conv", "conv-1x1")
    speeds = {
        "mlp": lambda count: 2.0,
        "two-conv": lambda count: 2.2 if count > 5 else 2.0,
        "conv-1x1": lambda count: 2.0 + 0.5 * ((count - 1) // 5 % 2),
    }
    found = visited(lambda name, count: speeds[name](count))
    nets = [word for name in names for word in ("--net", name)]
    assert run(["bench", *nets, "--batch-size", "8", "--peers", "--json", *asked]) == 0
    printed = json.loads(capsys.readouterr().out)
    order = [name for name in found.log if name in names]
    assert order[: 3 * least] == list(names) * least and printed["visits"] == least
    assert tuple(order.count(name) for name in names) == counts
    assert tuple(found.log.count(f"new {name}") for name in names) == lives
    assert [result["visits"] for result in printed["results"]] == list(counts)
    assert [result["turns"] for result in printed["results"]] == [(7 if asked else 3) * count for count in counts]
    assert found.running == []


def test_a_network_that_fails_at_once_ends_all_processes(capsys, visited):
    found = visited(lambda name, count: None if name == "two-conv" else 2.0)
    assert run([*MLP, "--net", "two-conv"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "two-conv with 8 samples failed: MemoryError" in err
    assert found.running == [] and found.log == ["new mlp", "mlp", "new two-conv", "two-conv"]


def test_a_later_visit_that_fails_does_not_lose_the_others(capsys, visited):
    """The next one goes to a new process."""
    found = visited(lambda name, count: None if count == 2 else 2.0)
    assert run([*MLP, "--visits", "6"]) == 1
    out, err = capsys.readouterr()
    (result,) = json.loads(out)["results"]
    reason = "bench: mlp with 8 samples failed: MemoryError"
    assert f"{reason}; its other visits count" in err
    assert result["visits"] == 5 and result["left_out"] == {"visit 2": reason}
    assert found.log == ["new mlp", "mlp", "mlp", *["new mlp", "mlp", "mlp"] * 2] and found.running == []


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
    from handgrad.cli.bench_process import restricted_to

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
    monkeypatch.setattr(bench, "Process", lambda module, words, isa, what: Process("nets", words, isa, what))
    assert run(["bench", *QUICK]) == 1
    assert "bench: lenet5 with 16 samples failed: printed no results" in capsys.readouterr().err


def test_a_failing_process_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(bench_process.MALLOC, "NUMBA_CPU_FEATURES", "not features")
    assert run(["bench", *QUICK]) == 1
    assert "bench: lenet5 with 16 samples failed: " in capsys.readouterr().err


def test_a_process_answers_every_question_and_ends_when_told():
    process = Process("one", ["mlp", "16", "--threads", "1", *TURNS], None, "mlp")
    answers = [
        process.ask(racing) for racing in (None, {"step": ["handgrad"], "forward": [], "backward": [], "latency": []})
    ]
    assert answers[0]["memory_bytes"] and answers[0]["memory_bytes"] == answers[1]["memory_bytes"]
    pieces = [answer["pieces"]["forward"]["handgrad"] for answer in answers]
    assert len(pieces[0][0]) > 0 and pieces[1] == [None] and answers[1]["pieces"]["step"]["handgrad"][0]
    process.end()
    with pytest.raises(ValueError, match="closed file"):
        process.ask()


def test_a_process_that_was_killed_between_two_questions_is_one_line():
    """The command line lets a broken pipe end most commands without a word; this one would lose half an hour."""
    script = (
        "import os, signal, sys\n"
        "from handgrad.cli import bench, main\n"
        "class Process(bench.Process):\n"
        "    def ask(self, racing):\n"
        "        if racing is not None:\n"
        "            os.kill(self._process.pid, signal.SIGKILL)\n"
        "            self._process.wait()\n"
        "        return super().ask(racing)\n"
        "bench.Process = Process\n"
        "sys.argv[1:] = ['bench', '--net', 'mlp', '--batch-size', '16', '--threads', '1', '--visits', '2',\n"
        "    '--repeats', '1', '--seconds', '0.01', '--json']\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "mlp with 16 samples failed: ended by signal 9; its other visits" in done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["visits"] == 1 and result["left_out"]["visit 2"].endswith("ended by signal 9")


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

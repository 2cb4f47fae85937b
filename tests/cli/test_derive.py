"""``handgrad derive``: complete, at most 100 columns wide, readable in plain ASCII, and without loading a compiler."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from handgrad.cli import derive, run
from handgrad.cli.plain import in_ascii

NAMES = derive.names()


def output_of(capsys, *arguments):
    assert run(["derive", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("name", NAMES)
def test_every_equation_is_shown_with_its_number_at_the_right_margin(capsys, name):
    lines = output_of(capsys, name).splitlines()
    assert max(map(len, lines)) <= derive.WIDTH
    for equation in importlib.import_module(f"handgrad.derivations.{name}").EQUATIONS:
        last = next(line for line in lines if line.endswith(f" ({equation.tag})") and len(line) == derive.WIDTH)
        at = lines.index(last)
        shown = " ".join(" ".join(lines[max(0, at - 6) : at + 1]).split()).removesuffix(f" ({equation.tag})")
        assert shown.endswith(" ".join(equation.text.split())), "the whole text, whatever its breaks"
        assert " ".join(equation.reason.split()[:3]) in lines[at + 1]


@pytest.mark.parametrize("name", NAMES)
def test_ascii_is_ascii_and_no_wider(capsys, name):
    text = output_of(capsys, name, "--ascii")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= derive.WIDTH
    assert "?" not in "".join(
        in_ascii(e.text) for e in importlib.import_module(f"handgrad.derivations.{name}").EQUATIONS
    )


def test_a_long_equation_is_broken_before_an_equals_sign():
    rows = derive._broken("∂L/∂x = " + "a " * 30 + "= " + "b " * 30 + "+ c", 90, 12)
    assert [row.strip()[:10] for row in rows] == ["∂L/∂x = a ", "= b b b b "]
    assert rows[1].index("=") == rows[0].index("="), "the equals signs stand under each other"


def test_the_parts_come_in_the_order_of_a_textbook(capsys):
    text = output_of(capsys, "conv2d")
    parts = [
        "Two-dimensional convolution",
        "\nLetters\n",
        "\nEquations\n",
        "\nThe literal code",
        "  def forward(x, W, b",
    ]
    parts += ["  def backward(", "\nWorked examples\n", ">>> window", "\nSources\n", "Dumoulin"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "computed in derivations/conv2d.py:" in text
    assert "no program computes it" in text


def test_lines_of_code_are_those_that_carry_the_number():
    for equation in derive.describe("conv2d")["equations"]:
        assert bool(equation["lines"]) == equation["computed"]
        for place in equation["lines"]:
            line = (derive.ROOT / place["file"]).read_text(encoding="utf-8").splitlines()[place["line"] - 1]
            assert line.strip() == place["code"]
            assert f"({equation['tag']})" in line.partition("# ")[2]
        if equation["computed"]:
            files = [place["file"] for place in equation["lines"]]
            assert files == sorted(files), "the literal code first"
            assert {file.partition("/")[0] for file in files} == {"derivations", "engine"}


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("conv2d", ["W, b", "H, W; a, b", "f, s, p, d", "C, c", "[A]"], ["p, t", "a", "N, n", "θ, g"]),
        ("dense", ["W, b", "x", "z", "[A]"], ["H, W; a, b", "a", "f, s, p, d"]),
        ("relu", ["a", "z", "[A]"], ["H, W; a, b", "W, b"]),
        ("softmax", ["p, t"], ["f, s, p, d"]),
        ("flatten", ["H, W; a, b", "C, c"], ["W, b", "a"]),
        ("global_avgpool2d", ["H, W; a, b", "C, c"], ["W, b", "a"]),
        ("batch_norm", ["n, k", "γ, β", "[A]"], ["N, n", "K, k"]),
        ("local_response_norm", ["k, α, β", "d"], ["α", "f, s, p, d", "C, c"]),
        ("simple_rnn", ["t, T", "f, f'"], ["p, t", "f, s, p, d", "i, j"]),
        ("sgd", ["θ, g", "α", "L"], ["p, t", "C, c"]),
        ("adam", ["θ, g", "α"], ["p, t", "i, j"]),
    ],
)
def test_only_the_letters_that_occur_are_explained(name, present, absent):
    letters = {head for head, _ in derive.describe(name)["letters"]}
    assert set(present) <= letters
    assert not letters & set(absent)


@pytest.mark.parametrize("name", NAMES)
def test_every_letter_is_explained(name):
    described = derive.describe(name)
    heads = " ".join(head for head, _ in described["letters"])
    for equation in described["equations"]:
        letters = {word for word in re.findall("[A-Za-zΑ-ω]+", equation["text"]) if len(word) == 1} - set("ΣΠ")
        assert letters <= set(re.findall("[A-Za-zΑ-ω]", heads)), equation["tag"]


def test_json_is_one_object(capsys):
    value = json.loads(output_of(capsys, "Conv2D", "--json"))
    assert {"layer", "title", "letters", "equations", "literal"} <= set(value)
    assert value["layer"] == "conv2d"
    assert set(value["equations"][0]) == {"tag", "text", "latex", "reason", "computed", "lines"}
    assert "∂L/∂x[c,a,b]" in value["equations"][6]["text"]
    assert value["literal"]["forward"].startswith("def forward(")
    assert value["literal"]["backward"].startswith("def backward(")


def test_without_a_name_all_are_listed_by_kind(capsys):
    text = output_of(capsys)
    assert [text.index(word) for word in ("Layers\n", "Losses\n", "Optimisers\n")] == sorted(
        text.index(word) for word in ("Layers\n", "Losses\n", "Optimisers\n")
    )
    assert all(f"  {name} " in text for name in NAMES)
    assert max(map(len, text.splitlines())) <= derive.WIDTH
    listed = json.loads(output_of(capsys, "--json"))["derivations"]
    assert {entry["layer"] for entry in listed} == set(NAMES)
    assert {entry["group"] for entry in listed if entry["layer"] == "adam"} == {"Optimisers"}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Conv2D", "conv2d"),
        ("conv", "conv2d"),
        ("max pool", "maxpool2d"),
        ("MaxPooling2D", "maxpool2d"),
        ("maxpool", "maxpool2d"),
        ("average-pooling", "avgpool2d"),
        ("ReLU", "relu"),
        ("Dense layer", "dense"),
        ("softmax", "softmax"),
        ("SoftmaxCrossEntropy", "softmax_cross_entropy"),
        ("cross entropy", "cross_entropy"),
        ("MSE", "mean_squared_error"),
    ],
)
def test_names_are_understood(asked, found):
    assert derive.find(asked) == found


@pytest.mark.parametrize(
    ("asked", "near"), [("conv3d", "conv2d"), ("rellu", "relu"), ("s", "sgd or sigmoid"), ("", ""), ("Σ", "")]
)
def test_an_unknown_name_is_one_line_with_the_nearest(capsys, asked, near):
    assert run(["derive", asked]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"'{asked}'" in captured.err
    assert (f"did you mean {near}" in captured.err) == bool(near)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("∂L/∂θ = Σ_k g[k]²", "dL/dtheta = sum_k g[k]^2"),
        ("θ - αg β1^t", "theta - alpha g beta1^t"),
        ("Π_m x[m]", "prod_m x[m]"),
        ("√v_hat + ε ≥ 4⁻¹⁰", "sqrt(v_hat) + epsilon >= 4^-10"),
        ("Wᵀ x · y … é", "W^T x * y ... e"),
    ],
)
def test_transliteration(text, expected):
    assert in_ascii({"key": [text]}) == {"key": [expected]}


def test_neither_numba_nor_unicode_is_needed():
    code = "import sys; from handgrad.cli import run; run(['derive', 'conv2d']); assert 'numba' not in sys.modules"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert b"dL/dx[c,a,b] = sum_o" in done.stdout

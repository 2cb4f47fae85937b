"""Classic bugs, planted one at a time in the engine, are noticed by the tests of the file that they stand in.

A test that never failed proves nothing: it may look at nothing, or compare a wrong number with the same wrong number.
Each bug of ``mutations.py`` gets a process of its own, as many at a time as there are cores.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from mutations import ENGINE, HARMLESS, MUTATIONS
from planted import EVERYTHING, NO_BUG, may_contain, names_with_a_bug, run

from handgrad.engine.cores import available_cores
from handgrad.engine.layers import conv2d, maxpool2d, relu, tanh

TESTS = Path(__file__).parent
KINDS = ("layers", "losses", "optimizers")
CONTROL = ("tests/layers/test_relu.py", "tests/losses/test_mean_squared_error.py", "tests/optimizers/test_sgd.py")
FORWARD = conv2d.forward_kernel(4, 1)
NONSENSE = replace(HARMLESS, name="nonsense", new="zero if a <= nothing else dL_da")
ABSENT = replace(HARMLESS, name="absent", old="a line that is not there")
AMBIGUOUS = replace(HARMLESS, name="ambiguous", old="zero, one = ")

# where the system can, a server that has imported what all of them need forks the processes
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PROCESSES = multiprocessing.get_context(METHOD)
PROCESSES.set_forkserver_preload(["pytest", "hypothesis.strategies", "handgrad.engine.backend"])
ONE_AT_A_TIME = threading.Lock()  # start and join read the exit codes of others too, and whoever comes second gets 255


def in_a_process(folder, mutation, tests):
    """Run tests with a bug; return the exit code, what was printed, and the lines in it that say who has noticed."""
    folder.mkdir()
    process = PROCESSES.Process(target=run, args=(mutation, tests, folder))
    with ONE_AT_A_TIME:
        process.start()
    has_ended = wait([process.sentinel], 300)
    with ONE_AT_A_TIME:
        if not has_ended:
            process.kill()
        process.join()
    output = (folder / "output").read_text(encoding="utf-8")
    return process.exitcode, output, [line for line in output.splitlines() if line.startswith("noticed by ")]


@pytest.fixture(scope="module")
def outcome(request, tmp_path_factory):
    """Return a function that waits for a run; those that the chosen tests ask for are all on their way."""
    folder, mine = tmp_path_factory.mktemp("mutations"), [i for i in request.session.items if i.path == request.path]
    asked = {item.callspec.params["asked"]: None for item in mine if "asked" in item.fixturenames}
    with ThreadPoolExecutor(available_cores()) as executor:
        futures = {key: executor.submit(in_a_process, folder / str(k), *key) for k, key in enumerate(asked)}
        yield lambda key: futures[key].result()
        executor.shutdown(cancel_futures=True)


def runs(*pairs):
    """Return a parameter for each mutation and the tests to be run."""
    return [pytest.param(pair, id=pair[0].id if pair[0] else "nothing") for pair in pairs]


@pytest.mark.parametrize("asked", runs(*((mutation, mutation.tests) for mutation in MUTATIONS)))
def test_a_planted_bug_is_noticed(outcome, asked):
    code, output, noticed = outcome(asked)
    assert (code, len(noticed)) == (1, 1), output
    print(asked[0].id, *noticed)


@pytest.mark.parametrize("asked", runs(*((m, (f"tests/{m.hidden_from}",)) for m in MUTATIONS if m.hidden_from)))
def test_what_one_test_cannot_see_is_the_reason_for_another(outcome, asked):
    code, output, noticed = outcome(asked)
    assert (code, noticed) == (0, []), output


@pytest.mark.parametrize("asked", runs((None, CONTROL), (HARMLESS, HARMLESS.tests)))
def test_without_a_bug_nothing_is_noticed(outcome, asked):
    code, output, noticed = outcome(asked)
    assert (code, noticed) == (0, []), output


@pytest.mark.parametrize("asked", runs((NONSENSE, NONSENSE.tests), (ABSENT, ABSENT.tests)))
def test_what_is_no_bug_does_not_count_as_one(outcome, asked):
    code, output, noticed = outcome(asked)
    message = {NONSENSE: "the planted text does not compile", ABSENT: "has 0 times, expected once"}[asked[0]]
    assert noticed == [] and code == {NONSENSE: NO_BUG, ABSENT: 1}[asked[0]] and message in output, output


@pytest.mark.parametrize(("mutation", "times"), [(ABSENT, 0), (AMBIGUOUS, 2)])
def test_a_text_must_be_there_once(mutation, times):
    with pytest.raises(ValueError) as caught:
        mutation.planted_in((ENGINE / mutation.file).read_text(encoding="utf-8"))
    assert (
        str(caught.value) == f"{mutation.id}: engine/layers/relu.py has {times} times, expected once: {mutation.old!r}"
    )


def test_every_file_has_a_bug_and_every_bug_a_name_of_its_own():
    files = {path.relative_to(ENGINE).as_posix() for kind in KINDS for path in (ENGINE / kind).glob("[!_]*.py")}
    assert files <= {mutation.file for mutation in MUTATIONS}
    assert len({mutation.id for mutation in MUTATIONS}) == len(MUTATIONS) >= 30


def test_the_place_of_a_bug_is_the_function_or_class_around_it():
    right = "import math\n\nA = 1\n\n@kernel\ndef f(x):\n    return x\n\n\nclass G:\n    x = 1\n    y = 2\n"
    for old, new, names in [
        ("return x", "return 2 * x", {"f"}),
        ("    return x", "    y = x\n    return y", {"f"}),
        ("@kernel\n", "", {"f"}),
        ("    y = 2\n", "", {"G"}),
        ("A = 1", "A = 2", {EVERYTHING}),
        ("import math", "import cmath as math", {EVERYTHING}),
    ]:
        assert names_with_a_bug(right, right.replace(old, new)) == names


@pytest.mark.parametrize(
    ("kernel", "module", "names", "contained"),
    [
        (FORWARD, "layers.conv2d", {"forward_kernel"}, True),
        (FORWARD, "layers.conv2d", {"conv2d_bias_gradient", "Conv2D"}, False),
        (FORWARD, "layers.conv2d", {EVERYTHING}, True),
        (FORWARD, "backend", {"registers"}, True),
        (maxpool2d.unpadded(2, 2), "layers.maxpool2d", {"unpadded"}, True),
        (tanh.tanh_forward, "scalar", {"_tanh_single"}, True),
        (relu.relu_forward, "scalar", {"_tanh_single"}, False),
        (relu.relu_forward, "scalar", {EVERYTHING}, True),
    ],
)
def test_kernels_that_contain_a_bug_are_known(kernel, module, names, contained):
    assert may_contain(kernel.py_func, f"handgrad.engine.{module}", names) == contained


def test_the_kernel_cache_neither_hides_a_bug_nor_keeps_it(tmp_path):
    """By hand, in the shell: the cache is filled without the bug, and is the same after a run with it."""
    test = "tests/layers/test_tanh.py::test_kernel_is_the_literal_code"
    environment = os.environ | {
        "HANDGRAD_CACHE": str(tmp_path),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "examples"),
    }

    def kernels():
        return {path: path.read_bytes() for path in (tmp_path / "kernels").rglob("*.bin")}

    right = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    wrong = [sys.executable, str(TESTS / "planted.py"), "scalar-tanh-of-half", test]
    outputs, found = [], []
    for command in (right, wrong):
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=300)
        outputs.append((done.returncode, f"noticed by {test}" in done.stdout))
        found.append(kernels())
    assert outputs == [(0, False), (1, True)], done.stdout + done.stderr
    assert found[0] == found[1] and any("tanh_forward" in path.name for path in found[0])

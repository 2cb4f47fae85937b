"""What the tests share: one layer at one random point, seen by its kernels, its literal code and finite differences.

CUDA kernels run in the simulator: where the value and the gradients of a layer are compared with the literal code, so
are those of its CUDA kernels, unless the point is so large that this would take long.
"""

from __future__ import annotations

import os

import numba  # noqa: F401  (which reads its own settings now)
import numpy as np
import pytest
from hypothesis import settings

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
from handgrad.engine import cuda

del os.environ["NUMBA_ENABLE_CUDASIM"]  # other processes choose for themselves
from handgrad.engine import Input, Network

settings.register_profile("handgrad", max_examples=20, derandomize=True, deadline=None, database=None)
settings.load_profile("handgrad")

LITERAL_LIMIT = 1e-10  # float64: two orders of the same sums of at most some thousand terms, 1e3 * 1e-16 with room
DIFFERENCE_LIMIT = 1e-6  # central differences, h = 1e-6: rounding 1e-16 * |L| / h = 1e-9 for |L| near 10, with room
SIMULATED = 4000  # multiplications and values that the simulator computes in about a tenth of a second
SINGLE = float(np.finfo(np.float32).eps)


def assert_close(actual, expected, limit, what=""):
    """Demand that two arrays of one shape differ by at most limit times the largest expected number."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit * max(largest, 1e-300), err_msg=what)


class Point:
    """A network of one layer at one point: its value, and the gradients for a random upstream gradient.

    Attributes are in user layout: ``x`` and ``dL_dx`` lists with one array per input, ``z``, ``dL_dz``, and
    ``gradients`` with the parameters' own names ("W").
    """

    def __init__(
        self,
        make_layer,
        *x,
        dtype="float64",
        threads=1,
        training=False,
        seed=0,
        parameters=None,
        statistics=None,
        dL_dz=None,
    ):
        rng = np.random.default_rng([seed, 1])
        self.make_layer, self.training, self.threads, self.seed = make_layer, training, threads, seed
        self.x = [np.asarray(array, dtype=dtype) for array in x]
        nodes = [Input(array.shape[1:], name=f"in{k}") for k, array in enumerate(self.x)]
        self.layer = make_layer()
        self.network = Network(nodes, self.layer(*nodes), dtype=dtype, threads=threads, seed=seed)
        self.name = self.network.outputs[0].name
        self.parameters = {name.split(".")[1]: array for name, array in self.network.parameters.items()}
        for name, array in self.parameters.items():
            array[...] = rng.normal(size=array.shape) if parameters is None else parameters[name]
        for name, array in (statistics or {}).items():
            self.network.statistics[f"{self.name}.{name}"] = array
        self._spoil_buffers()
        self._statistics = {name: array.copy() for name, array in self.network.statistics.items()}
        self.z = self.network.forward(self.x, training=training)
        self.dL_dz = np.asarray(rng.normal(size=self.z.shape) if dL_dz is None else dL_dz, dtype=dtype)
        self.dL_dx = self.network.backward(self.dL_dz)
        self.gradients = {name.split(".")[1]: array.copy() for name, array in self.network.gradients.items()}

    def _spoil_buffers(self):
        """Run both passes once and leave NaN in all that they filled: what is reused must be overwritten."""
        network, state = self.network, self.network.state()
        network.backward(np.ones_like(network.forward(self.x, training=self.training)))
        network.load_state(state)
        network.draw = 0
        for part in network.last_pass.active:
            part.values[self.name][...] = np.nan
            for array in (*part.edges.values(), *part.own_gradients.values(), network.dL_dtheta):
                array[...] = np.nan

    def all_gradients(self):
        """Return every gradient by name: inputs "x0", "x1", …, then parameters."""
        return {f"x{k}": array for k, array in enumerate(self.dL_dx)} | self.gradients

    def literal(self):
        """Return the value and all gradients as the derivation's literal code computes them, sample by sample.

        A layer whose samples act on each other gets the whole mini-batch at once.
        """
        derivation, z = self.layer.derivation, np.zeros(self.z.shape)
        parameters = [array.astype(object) for array in self.parameters.values()]
        totals = {name: np.zeros(array.shape) for name, array in self.all_gradients().items()}
        if self.layer.coupled:
            options = self.layer.literal_options(self.network.last_pass.active[0].shares[self.name])
            arguments = [array.astype(object) for array in self.x] + parameters
            results = derivation.backward(self.dL_dz.astype(object), *arguments, **options)
            z = derivation.forward(*arguments, **options).astype(np.float64)
            return z, {name: result.astype(np.float64) for name, result in zip(totals, results, strict=True)}
        for part in self.network.last_pass.active:
            for sample in range(part.samples):
                n = part.first_sample + sample
                options = self.layer.literal_options(part.shares[self.name], sample)
                arguments = [array[n].astype(object) for array in self.x] + parameters
                z[n] = derivation.forward(*arguments, **options)
                results = derivation.backward(self.dL_dz[n].astype(object), *arguments, **options)
                assert len(results) == len(totals)
                for (name, total), result in zip(totals.items(), results, strict=True):
                    target = total[n : n + 1] if name.startswith("x") else total
                    target += np.asarray(result, dtype=np.float64)
        return z, totals

    def check_literal(self):
        """Demand that the kernels and the literal code agree for the value and for every gradient."""
        z, gradients = self.literal()
        assert_close(self.z, z, LITERAL_LIMIT, f"value of {self.layer}")
        for name, gradient in self.all_gradients().items():
            assert_close(gradient, gradients[name], LITERAL_LIMIT, f"gradient of {name} in {self.layer}")
        self._check_cuda(z, gradients)

    def _check_cuda(self, z, gradients):
        """Demand the same of the CUDA kernels; their threads run in one order, or for every second point in the other."""
        work = (
            self.layer.multiply_adds(*(x.shape[1:] for x in self.x)) + self.z[0].size + sum(x[0].size for x in self.x)
        )
        if work * len(self.z) > SIMULATED or "HANDGRAD_TEST_WITHOUT_CUDA" in os.environ:
            return
        simulator = cuda.device().simulator
        simulator.order = ("forward", "reversed")[self.seed % 2]
        simulator.is_guarded = simulator.order == "forward"
        inputs, outputs = self.network.inputs, self.network.outputs
        twin = Network(inputs, outputs, dtype=self.network.dtype.name, device="cuda", seed=self.seed)
        for name, array in self.network.parameters.items():
            twin.parameters[name] = array
        for name, array in self._statistics.items():
            twin.statistics[name] = array
        for _ in range(2):  # the second time everything has been filled with NaN
            twin.draw = 0
            (on_gpu,), dL_dx = twin.forward(self.x, training=self.training), twin.backward([self.dL_dz])
            (part,) = twin.last_pass.active
            found = {f"x{k}": array for k, array in enumerate(dL_dx)}
            found |= {name.split(".")[1]: array.copy() for name, array in twin.gradients.items()}
            for name, array in self._statistics.items():
                twin.statistics[name] = array
            for array in (part.values[self.name], *part.edges.values(), twin.gradients_there):
                array[...] = np.nan
        assert_close(on_gpu, z, LITERAL_LIMIT, f"value of {self.layer} on a GPU")
        for name, gradient in found.items():
            assert_close(gradient, gradients[name], LITERAL_LIMIT, f"gradient of {name} in {self.layer} on a GPU")

    def check_differences(self, h=1e-6, limit=DIFFERENCE_LIMIT):
        """Demand that every gradient is (L(θ + h) - L(θ - h)) / 2h of L = Σ dL/dz z."""
        draw = self.network.draw - 1 if self.training else self.network.draw
        places = {f"x{k}": array for k, array in enumerate(self.x)} | self.parameters
        for name, array in places.items():
            quotients = np.empty(array.shape)
            for place in np.ndindex(*array.shape):
                before, losses = array[place], []
                for value in (before + h, before - h):
                    array[place] = value
                    self.network.draw = draw
                    losses.append((self.dL_dz * self.network.forward(self.x, training=self.training)).sum())
                array[place] = before
                quotients[place] = (losses[0] - losses[1]) / (2 * h)
            assert_close(self.all_gradients()[name], quotients, limit, f"gradient of {name} in {self.layer}")

    def check_single(self, terms):
        """Demand that float32 agrees with float64 for a layer that only multiplies and adds.

        A sum of n products that is rounded after every operation is off by at most (n + 2) eps times the sum of their
        absolute values, and that sum is what the same kernels give for the absolute values of all numbers.
        """
        x, dL_dz = [a.astype(np.float32) for a in self.x], self.dL_dz.astype(np.float32)
        parameters = {name: array.astype(np.float32) for name, array in self.parameters.items()}
        alike = {"training": self.training, "seed": self.seed, "threads": self.threads}
        single = Point(self.make_layer, *x, dtype="float32", parameters=parameters, dL_dz=dL_dz, **alike)
        double = Point(self.make_layer, *x, parameters=parameters, dL_dz=dL_dz, **alike)
        sizes = Point(
            self.make_layer,
            *map(np.abs, x),
            parameters={name: np.abs(array) for name, array in parameters.items()},
            dL_dz=np.abs(dL_dz),
            **alike,
        )
        limit = (terms + 2) * SINGLE
        assert single.z.dtype == np.float32
        assert (np.abs(single.z - double.z) <= limit * np.abs(sizes.z)).all(), f"value of {self.layer}"
        for name, gradient in single.all_gradients().items():
            assert gradient.dtype == np.float32
            error, bound = np.abs(gradient - double.all_gradients()[name]), limit * sizes.all_gradients()[name]
            assert (error <= bound).all(), f"gradient of {name} in {self.layer}"

    def check_parts(self, first):
        """Demand that a mini-batch gives what its first samples and the others give: joined values, summed gradients."""
        parts = [
            Point(
                self.make_layer,
                *(array[part] for array in self.x),
                parameters=self.parameters,
                dL_dz=self.dL_dz[part],
                training=self.training,
                seed=self.seed,
            )
            for part in (slice(None, first), slice(first, None))
        ]
        assert_close(np.concatenate([part.z for part in parts]), self.z, LITERAL_LIMIT, "joined values")
        for k, dL_dx in enumerate(self.dL_dx):
            assert_close(np.concatenate([part.dL_dx[k] for part in parts]), dL_dx, LITERAL_LIMIT, "joined gradients")
        for name, gradient in self.gradients.items():
            assert_close(sum(part.gradients[name] for part in parts), gradient, LITERAL_LIMIT, f"summed {name}")


@pytest.fixture(scope="session")
def at_point():
    """Return the class Point: ``at_point(lambda: Dense(3), x)``."""
    return Point


@pytest.fixture(scope="session")
def close():
    """Return ``assert_close(actual, expected, limit, what)``, relative to the largest expected number."""
    return assert_close


@pytest.fixture
def rng():
    """Return a random number generator that is the same for every test."""
    return np.random.default_rng(0)

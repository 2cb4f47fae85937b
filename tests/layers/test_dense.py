"""Dense layer: kernels, literal code, finite differences and the notes' numbers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Dense, Input, Network
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.initializers import zeros

LITERAL_WORK = 12_000  # multiplications that the literal loops may do in one example


@st.composite
def sizes(draw):
    """Outputs, inputs and samples: both weight-gradient kernels, and tiles and blocks that are not full."""
    I, J = draw(st.integers(1, 19)), draw(st.integers(1, 37))
    return I, J, draw(st.integers(1, max(1, min(40, LITERAL_WORK // (I * J)))))


@given(sizes(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, size, seed):
    I, J, N = size
    at_point(lambda: Dense(I), np.random.default_rng(seed).normal(size=(N, J)), seed=seed).check_literal()


@given(sizes(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, size, seed):
    I, J, N = size
    point = at_point(lambda: Dense(I), np.random.default_rng(seed).normal(size=(N, J)), seed=seed)
    point.check_single(terms=max(I, J + 1, N))


@pytest.mark.parametrize(("I", "J", "N"), [(1, 1, 1), (3, 5, 2), (9, 17, 3)])
def test_finite_differences(at_point, rng, I, J, N):
    at_point(lambda: Dense(I), rng.normal(size=(N, J))).check_differences()


def test_product_of_the_notes(at_point):
    A = np.array([[13, 9, 7], [8, 7, 4], [6, 4, 0]])  # S3, whose 87 needs a 9 in place of the 8
    point = at_point(lambda: Dense(3), [[3, 4, 2]], parameters={"W": A.T, "b": np.zeros(3)})
    assert point.z.tolist() == [[83, 63, 37]]
    A[1, 0] = 9
    point = at_point(lambda: Dense(3), [[3, 4, 2]], parameters={"W": A.T, "b": np.zeros(3)})
    assert point.z.tolist() == [[87, 63, 37]]


def test_gradients_by_hand(at_point):
    parameters = {"W": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([5.0, 6.0])}
    point = at_point(lambda: Dense(2), [[1, -1], [2, 0]], parameters=parameters, dL_dz=[[1, 10], [100, 0]])
    assert point.z.tolist() == [[4, 5], [7, 12]]
    assert point.gradients["W"].tolist() == [[201, -1], [10, -10]]  # dL/dz xᵀ: (1,10)(1,-1)ᵀ + (100,0)(2,0)ᵀ
    assert point.gradients["b"].tolist() == [101, 10]
    assert point.dL_dx[0].tolist() == [[31, 42], [100, 200]]  # Wᵀ dL/dz


@given(sizes(), st.integers(0, 99))
def test_linear_in_the_input_and_in_the_upstream_gradient(at_point, close, size, seed):
    I, J, N = size
    rng = np.random.default_rng(seed)
    W, nothing = rng.normal(size=(I, J)), np.zeros(I)
    x, y, g, k = rng.normal(size=(N, J)), rng.normal(size=(N, J)), rng.normal(size=(N, I)), rng.normal(size=(N, I))

    def at(x, dL_dz):
        return at_point(lambda: Dense(I), x, parameters={"W": W, "b": nothing}, dL_dz=dL_dz)

    both, one, other = at(2 * x - 3 * y, 2 * g - 3 * k), at(x, g), at(y, k)
    close(both.z, 2 * one.z - 3 * other.z, 1e-12, "z")
    close(both.dL_dx[0], 2 * one.dL_dx[0] - 3 * other.dL_dx[0], 1e-12, "dL/dx")


@pytest.mark.parametrize(("J", "first"), [(5, 1), (5, 16), (20, 17), (20, 30)])
def test_gradients_of_a_batch_are_the_sums_over_its_parts(at_point, rng, J, first):
    at_point(lambda: Dense(11), rng.normal(size=(37, J))).check_parts(first)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("J", [5, 20])
def test_a_number_that_is_none_stays_in_its_sample(at_point, rng, bad, J):
    x = rng.normal(size=(20, J))
    x[17, 3] = bad
    point = at_point(lambda: Dense(11), x)
    finite = np.isfinite(point.z).all(axis=1)
    assert finite.tolist() == [n != 17 for n in range(20)]
    assert not np.isfinite(point.z[17]).any()
    assert np.isfinite(point.dL_dx[0]).all()
    assert not np.isfinite(point.gradients["W"][:, 3]).any()
    assert np.isfinite(np.delete(point.gradients["W"], 3, axis=1)).all()


@pytest.mark.parity
@pytest.mark.parametrize(("I", "J", "N"), [(7, 9, 5), (19, 33, 20)])
def test_pytorch_agrees(at_point, close, rng, I, J, N):
    torch = pytest.importorskip("torch")
    point = at_point(lambda: Dense(I), rng.normal(size=(N, J)))
    x, W, b = (torch.tensor(a, requires_grad=True) for a in (point.x[0], *point.parameters.values()))
    z = torch.nn.functional.linear(x, W, b)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-12)
    for own, theirs in zip((point.dL_dx[0], *point.gradients.values()), (x, W, b), strict=True):
        close(own, theirs.grad.numpy(), 1e-12)


def test_shapes_names_and_start():
    x = Input((7,))
    network = Network(x, Dense(4, name="fc")(x), threads=1)
    assert {name: array.shape for name, array in network.parameters.items()} == {"fc.W": (4, 7), "fc.b": (4,)}
    assert not network.parameters["fc.b"].any() and network.parameters["fc.W"].any()
    assert network.nodes["fc"].layer.multiply_adds((7,)) == 28
    assert network.nodes["fc"].layer.settings() == {"features": 4}
    assert not Network(x, Dense(4, initializer=zeros)(x), threads=1).theta.any()


@pytest.mark.parametrize("features", [0, -3, 2.5, True, "4", None])
def test_number_of_features_is_checked(features):
    with pytest.raises(ConfigurationError, match=rf"^Dense: features: got {features!r}, expected an integer"):
        Dense(features)
    with pytest.raises(ConfigurationError, match="Dense 'fc': features"):
        Dense(features, name="fc")


def test_an_image_must_be_flattened_first():
    with pytest.raises(
        ShapeError, match=r"Dense 'fc1': got an input of 16 x 5 x 5, expected a flat one; put a Flatten"
    ):
        Dense(120, name="fc1")(Input((16, 5, 5)))

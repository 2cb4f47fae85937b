"""Every layer and loss of the curriculum agrees with itself in all views, and the table notices when one does not."""

from __future__ import annotations

import dataclasses
import pkgutil

import numpy as np
import pytest

import handgrad.engine.layers
import handgrad.engine.losses
from handgrad.engine import BatchNorm, Conv2D, MaxPool2D, Network, SoftmaxCrossEntropy
from handgrad.engine.cases import CASES, LAYERS, LOSSES, Case, Projection, examine
from handgrad.engine.invariants import invariants_of

BASES = {"layer", "pool", "window", "correlation", "winograd", "conv2d_one", "elementwise", "loss"}


def modules(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)} - BASES


def test_the_list_is_complete():
    assert set(LAYERS) == modules(handgrad.engine.layers)
    assert set(LOSSES) == modules(handgrad.engine.losses)
    for name, cases in CASES.items():
        layer = cases[0].layer()
        derivation = cases[0].loss.derivation if name in LOSSES else layer.derivation
        assert derivation.__name__.endswith(f".{name}")
        assert len({case.title for case in cases}) == len(cases)


@pytest.mark.parametrize("name", CASES)
def test_all_views_agree(name):
    for case in CASES[name]:
        result = examine(name, case, seed=1)
        table = {row.name: row.verdict for row in result.rows}
        expected = {"ok", "surrogate"} if "surrogate" in case.title else {"ok"}
        assert result.ok and set(table.values()) <= expected, f"{name}, {case.title}: {table}, {result.invariants}"
        for row in result.rows[1:]:
            assert set(row.views) == {"literal", "difference", "symbolic"}
            assert row.checked + row.kinks == np.prod(row.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sample_by_itself_is_one_of_a_mini_batch(name):
    """Layers that take one without lanes, and those that do not."""
    for case in LAYERS[name]:
        check = case.check(seed=2)
        network = check.network
        x = [case.x(np.random.default_rng(5), (3, *shape)) for shape in case.shapes]
        x = x[0] if len(x) == 1 else x
        together = network.forward(x)
        alone = network.forward(x[:1] if len(case.shapes) == 1 else [array[:1] for array in x])
        assert network.last_pass.is_one == network.order[-1].layer.states("takes_one")
        np.testing.assert_allclose(alone, together[:1], rtol=0, atol=1e-12 * max(1, np.abs(together).max()))


@pytest.mark.parametrize(
    "name", ["softmax", "softmax_cross_entropy", "batch_norm", "maxpool2d", "conv2d", "relu", "hinge", "upsample2d"]
)
def test_some_have_invariants(name):
    assert all(examine(name, case, exact=False).invariants for case in CASES[name][:1])


class Wrong(Conv2D):
    """The gradient of the bias, of one filter, is off by a tenth of a billionth."""

    def backward(self, share):
        super().backward(share)
        share.gradients["b"][0] *= 1 + 1e-9


def test_a_wrong_layer_fails_in_all_views():
    result = examine("conv2d", Case("", lambda: Wrong(3, 2, name="c"), ((1, 3, 3),)))
    bad = {row.name: row for row in result.rows}["c.b"]
    assert not result.ok and bad.verdict == "FAIL"
    assert bad.views["symbolic"].index == bad.views["literal"].index == (0,)
    assert [invariant.ok for invariant in result.invariants] == [True, False]  # Σ W dL/dW is right, dL/db is not


class Lost(BatchNorm):
    """The mini-batch's mean is taken as a constant in the backward pass."""

    def backward(self, share):
        before = share.all_reduce_sum

        def without_mean(sums):
            before(sums)
            sums[0] = 0

        super().backward(dataclasses.replace(share, all_reduce_sum=without_mean))


def test_lost_terms_break_the_invariants_of_batch_normalization():
    check = Case("", Lost, ((3,),), 5).check()
    first, second = invariants_of("batch_norm", check)
    assert not first.ok and first.error > 1e-3 and second.ok  # x_hat sums to 0, so the lost mean is orthogonal to it


class Leaking(MaxPool2D):
    """Half of each gradient is lost."""

    def backward(self, share):
        super().backward(share)
        share.dL_dx[0][...] *= 0.5


def test_lost_gradient_mass_is_noticed():
    (conserved,) = invariants_of("maxpool2d", Case("", lambda: Leaking(2), ((1, 4, 4),)).check())
    assert not conserved.ok and "Σ" in conserved.text


def test_projection_is_the_sum_of_products(rng):
    z, u = rng.normal(size=(19, 3)), rng.normal(size=(19, 3))
    L, dL_dz = Projection()(z, u)
    assert L == pytest.approx((u * z).sum(), rel=1e-13)
    np.testing.assert_array_equal(dL_dz, u)


def test_a_case_is_the_same_point_every_time():
    for case in (CASES["simple_rnn"][0], CASES["dropout"][0]):
        first, again = case.check(3), case.check(3)
        for name, gradient in first.kernel.items():
            np.testing.assert_array_equal(gradient, again.kernel[name])
        assert isinstance(first.network, Network) and not isinstance(first.loss, SoftmaxCrossEntropy)


@pytest.mark.parametrize("training", [False, True])
def test_equations_that_are_left_out_exist_and_are_computed(training):
    """What a configuration does not compute is named by tags, which must be those of its derivation."""
    for case in (case for cases in CASES.values() for case in cases):
        layer = case.layer()
        for owner, unused in (
            (layer, layer.unused_equations(training)),
            (case.loss, case.loss.unused_equations((3, *case.shapes[0]))),
        ):
            known = {e.tag for e in getattr(owner.derivation, "EQUATIONS", ()) if e.computed}
            assert unused <= known
            assert len(known - unused) >= 2 or owner.kind in ("dropout", "projection")

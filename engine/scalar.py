"""Functions of single numbers that more than one kernel needs and that the standard library does not vectorise.

Floor 1. The derivative of an activation function stands in its layer's file, under the function itself.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import by_precision, scalar


@scalar
def identity(z, zero, one):
    """Return z: the activation of a layer that has none; zero and one are of the type of z, as in all activations."""
    return z


@scalar
def _tanh_single(x):
    """tanh(x) = 2 t / (1 + t²) with t = tanh(x/2) from Lambert's continued fraction, cut after its eighth term, 15.

    t = y / (1 + s / (3 + s / (5 + …))), s = y², y = x/2, is the quotient y P(s) / Q(s) of two polynomials with
    integer coefficients, so tanh(x) = 2 y P Q / (Q² + s P²): one division, and all terms positive, so nothing
    cancels. The largest relative error in float32 is 3e-7; beyond |x| = 9.01 the value is 1 in float32.

    References
    ----------
    J. H. Lambert, "Mémoire sur quelques propriétés remarquables des quantités transcendentes circulaires et
    logarithmiques", 1761.
    """
    y = np.float32(0.5) * x
    s = y * y
    p = ((np.float32(36.0) * s + np.float32(6930.0)) * s + np.float32(270270.0)) * s + np.float32(2027025.0)
    q = ((s + np.float32(630.0)) * s + np.float32(51975.0)) * s + np.float32(945945.0)
    q = q * s + np.float32(2027025.0)
    t = np.float32(2.0) * y * p * q / (q * q + s * (p * p))
    t = np.float32(1.0) if (x > np.float32(9.01)) | (t > np.float32(1.0)) else t
    return np.float32(-1.0) if (x < np.float32(-9.01)) | (t < np.float32(-1.0)) else t


@scalar
def _tanh_double(x):
    return math.tanh(x)


tanh = by_precision("tanh", _tanh_single, _tanh_double, math.tanh)


@scalar
def mixed(h):
    """Return 32 bits each of which depends on every bit of h: the finaliser of MurmurHash3 (A. Appleby, 2011)."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@scalar
def random_bits(key, position):
    """Return 32 well-mixed bits for one position of one random draw, without any state.

    Neighbouring positions and neighbouring keys give unrelated bits, whichever worker asks for them, in whatever order.

    Parameters
    ----------
    key : uint64
        Names the draw: seed, layer and step.
    position : uint64
        Names the number within the draw.

    Returns
    -------
    uint32
    """
    first = mixed(np.uint32(np.uint32(key) + np.uint32(0x9E3779B9)))
    second = mixed(np.uint32(np.uint32(key >> np.uint64(32)) + first))
    h = mixed(np.uint32(position) ^ first)
    return mixed(np.uint32(np.uint32(h + second) ^ np.uint32(position >> np.uint64(32))))

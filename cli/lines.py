"""Why a network did not learn: no straight line separates two classes, or all units of a layer stayed alike."""

from __future__ import annotations

from itertools import combinations

import numpy as np

STRAIGHT = ("dense", "flatten", "linear", "reshape", "dropout")  # layers that map straight lines to straight lines
MONOTONE = ("step", "sigmoid", "tanh", "softmax", "logsoftmax", "leakyrelu")  # last layers that keep the order


def draws_straight_lines(network) -> bool:
    """Return whether all borders between the classes of a network are straight, whatever its parameters are."""
    kinds = [node.layer.kind for node in network.nodes.values() if node.layer is not None]
    return all(kind in STRAIGHT for kind in kinds[:-1]) and kinds[-1] in STRAIGHT + MONOTONE


def why_not(network, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> str | None:
    """Return why a network that draws straight lines cannot learn some samples, or None where it might.

    Parameters
    ----------
    network : Network
    images : numpy.ndarray of shape (N, ...)
    labels : numpy.ndarray of shape (N,)
    class_names : list of str
    """
    from ..engine.separability import LARGEST, common_point

    if not draws_straight_lines(network):
        return None
    points = images.reshape(len(images), -1)
    sets = [np.unique(points[labels == k], axis=0) for k in range(len(class_names))]
    if sum(map(len, sets)) > LARGEST or not all(map(len, sets)):
        return None
    for (one, first), (other, second) in combinations(zip(class_names, sets, strict=True), 2):
        common = common_point(first, second)
        if common is not None:
            mixtures = [" + ".join(f"{w:.3g} {_point(p)}" for p, w in share[:4]) for share in common.shares]
            return (
                f"no straight line separates class {one} from class {other}: {_point(common.point)} lies between "
                f"samples of class {one}, {mixtures[0]}, and between samples of class {other}, {mixtures[1]}. "
                "Neurons without a hidden layer before them draw straight lines only, so no training can teach them "
                'this; put a hidden layer before: "dense 4 > tanh > dense 2"'
            )
    return None


def units_alike(network) -> str | None:
    """Return which hidden layers have units that all have the same weights after training, and why, or None."""
    alike = []
    for name, array in network.parameters.items():
        layer, _, part = name.rpartition(".")
        hidden = network.nodes[layer] not in network.outputs and part in ("W", "W_x") and len(array) > 1
        if hidden and (array == array[:1]).all():
            alike.append(layer)
    if not alike:
        return None
    return (
        f"{', '.join(alike)}: all units of a layer still have the same weights. They started alike, so they got the "
        "same gradient in every step (initializers.10) and count as one; start weights at random: --init he or xavier"
    )


def _point(point: np.ndarray) -> str:
    shown = [f"{value:.3g}" for value in point[:4]]
    return "(" + ", ".join(shown + ["…"] * (len(point) > 4)) + ")"

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
    sets: list[dict[bytes, np.ndarray]] = [{} for _ in class_names]
    for point, label in zip(images.reshape(len(images), -1), labels, strict=True):
        sets[label][point.tobytes()] = point
        if sum(map(len, sets)) > LARGEST:  # too many to prove anything about
            return None
    if not all(sets):
        return None
    sets = [np.array(list(points.values())) for points in sets]
    for (one, first), (other, second) in combinations(zip(class_names, sets, strict=True), 2):
        common = common_point(first, second)
        if common is not None:
            mixtures = [" + ".join(f"{w:.3g} {_point(p)}" for p, w in share[:4]) for share in common.shares]
            return (
                f"no straight line separates class {one} from class {other}: {_point(common.point)} lies between "
                f"samples of class {one}, {mixtures[0]}, and between samples of class {other}, {mixtures[1]}. "
                "Neurons without a hidden layer before them draw straight lines only, so no training can teach them "
                f'this; put a hidden layer before: "dense 4 > tanh > dense {len(class_names)}"'
            )
    return None


def units_alike(network) -> str | None:
    """Return which hidden layers have units that are all the same after training, and why, or None."""
    layers: dict[str, list[np.ndarray]] = {}
    for name, array in network.parameters.items():
        layers.setdefault(name.rpartition(".")[0], []).append(array)
    alike = [
        name
        for name, arrays in list(layers.items())[:-1]  # the last one with parameters computes the outputs
        if any(a.ndim > 1 for a in arrays) and len(arrays[0]) > 1 and all((a == a[:1]).all() for a in arrays)
    ]
    if not alike:
        return None
    return (
        f"{', '.join(alike)}: all units of a layer still have the same weights. They started alike, so they got the "
        "same gradient in every step (initializers.10) and count as one; start weights at random: --init he or xavier"
    )


def _point(point: np.ndarray) -> str:
    shown = [f"{value:.3g}" for value in point[:4]]
    return "(" + ", ".join(shown + ["…"] * (len(point) > 4)) + ")"

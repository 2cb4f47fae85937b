"""Whether a straight line (a hyperplane) can separate two sets of points, with the proof in either case.

Floor 4. Two finite sets can be separated exactly when their convex hulls have no point in common. Looking for a common
point, Σ λ_i a_i = Σ μ_j b_j with λ, μ ≥ 0 and Σ λ = Σ μ = 1, is a least-squares problem with non-negative unknowns.
Where it has a solution, no line can separate the sets; where it has none, what is left over is the normal of a line
that does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 400  # points of both sets; the method takes the cube of their number
LIMIT = 1e-10  # of a distance, where every coordinate is scaled to an extent of 1


@dataclass(frozen=True)
class CommonPoint:
    """A point of both convex hulls.

    Attributes
    ----------
    point : numpy.ndarray of shape (d,)
    shares : tuple of list of (numpy.ndarray, float)
        For each set the points that it is a mixture of, with their weights, which are positive and sum to 1.
    """

    point: np.ndarray
    shares: tuple[list[tuple[np.ndarray, float]], list[tuple[np.ndarray, float]]]


def common_point(first: np.ndarray, second: np.ndarray) -> CommonPoint | None:
    """Return a point that proves that no hyperplane separates two sets, or None where one does.

    Parameters
    ----------
    first, second : numpy.ndarray of shape (n, d)
        At most ``LARGEST`` different points together.

    Examples
    --------
    >>> common_point(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]])).point.tolist()
    [0.5, 0.5]
    >>> common_point(np.array([[0, 0], [0, 1], [1, 0]]), np.array([[1, 1]])) is None
    True
    """
    first, second = (np.unique(np.asarray(points, dtype=np.float64), axis=0) for points in (first, second))
    every = np.concatenate([first, second])
    centre = every.mean(axis=0)
    extent = np.abs(every - centre).max(axis=0)
    size = np.where(extent > 0, extent, 1)  # scaling a coordinate changes nothing about lines between the sets
    n, m = len(first), len(second)
    A = np.zeros((every.shape[1] + 2, n + m))
    A[:-2, :n], A[:-2, n:] = ((first - centre) / size).T, -((second - centre) / size).T
    A[-2, :n], A[-1, n:] = 1, 1
    target = np.zeros(len(A))
    target[-2:] = 1
    weights = _non_negative_least_squares(A, target)
    left_over = A @ weights - target
    if np.abs(left_over).max() > LIMIT:
        return None
    shares = tuple(
        [(point, float(w)) for point, w in zip(points, part / part.sum()) if w > 1e-12]
        for points, part in ((first, weights[:n]), (second, weights[n:]))
    )
    return CommonPoint(sum(w * point for point, w in shares[0]), shares)


def _non_negative_least_squares(A: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return w ≥ 0 that makes |A w - target| as small as possible.

    References
    ----------
    C. L. Lawson, R. J. Hanson, "Solving least squares problems", 1974, chapter 23.
    """
    w, free = np.zeros(A.shape[1]), np.zeros(A.shape[1], dtype=bool)
    for _ in range(30 * A.shape[1]):
        slope = A.T @ (target - A @ w)
        slope[free] = -np.inf
        best = int(slope.argmax())
        if slope[best] <= 1e-12:
            break
        free[best] = True
        while True:
            trial = np.zeros_like(w)
            trial[free] = np.linalg.lstsq(A[:, free], target, rcond=None)[0]
            low = free & (trial <= 0)
            if not low.any():
                break
            step = np.min(w[low] / (w[low] - trial[low])) if (w[low] > 0).all() else 0.0
            w = w + step * (trial - w)
            free &= w > 1e-15
        w = trial
    return w

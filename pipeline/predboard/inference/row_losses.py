"""Compute the loss of each image of several labels after one slope and one offset are fitted to all logits.

Whoever compares two ways to prepare pictures must not compare their raw losses: inputs that are 255 times as large
give logits that are surer, and so lower losses where most are right anyway. A slope and an offset for all labels
together (Platt 1999) take that away, and leave what tells labels and images apart. It knows no model and no pictures.
"""

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.label_sets import MultiLabels

_STEPS = 12
"""Newton's method has converged by then on all that was tried."""

_RIDGE = 1e-4
"""Weight of the squared slope beside the mean loss, so that perfectly separated labels have a finite one."""

WORST_LOSS = 1e9
"""Loss of an image whose logits are not finite, nats."""


def calibrated_losses(logits: NDArray[np.float32], labels: MultiLabels) -> NDArray[np.float64]:
    """Return the binary cross-entropy of each image, the mean over its known labels, nats, [rows].

    Args:
        logits: [rows, classes].
        labels: [rows], every row labelled.
    """
    rows, classes = logits.shape
    usable = np.asarray(np.isfinite(logits).all(axis=1))
    known = ~labels.unknown.mask(classes) & usable[:, None]  # [rows, classes]
    if not known.any():
        return np.full(rows, WORST_LOSS)
    z = np.where(known, logits, 0).astype(np.float64)
    spread = float(z[known].std()) or 1.0
    z = np.where(known, (z - z[known].mean()) / spread, 0)
    sign = np.where(labels.labels.mask(classes), 1.0, -1.0)
    slope, offset = _fit(z[known], sign[known] > 0)
    each = np.where(known, np.logaddexp(0, -sign * (slope * z + offset)), 0)
    losses = each.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(usable, losses, WORST_LOSS)


def _fit(z: NDArray[np.float64], y: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope, at least 0, and the offset of a logistic regression of truth values on numbers, [decisions]."""
    slope, offset = 1.0, float(np.log((y.sum() + 1) / ((~y).sum() + 1)))
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(slope * z + offset, -500, 500)))
        weight, rest = p * (1 - p) + 1e-12, p - y
        gradient = np.array([(rest * z).mean() + _RIDGE * slope, rest.mean()])
        cross = float((weight * z).mean())
        curvature = np.array([[(weight * z**2).mean() + _RIDGE, cross], [cross, weight.mean()]])
        step = np.clip(np.linalg.solve(curvature, gradient), -2, 2)
        slope, offset = max(slope - float(step[0]), 0.0), offset - float(step[1])
    return slope, offset

"""Fits the temperature by which to divide logits on one half of a sample, and tests it on the other. It knows no bins.

The method is that of Guo et al. 2017.

A temperature needs all logits of a row at values that are not known before all rows were seen. So a sample, drawn by
the hash of the rows' keys, keeps what 17 inverse temperatures β make of each row: L(β) = ln Σ_j exp(-β (z_max - z_j))
and its first two derivatives. Between two of those, L is the polynomial of degree 5 through all six numbers (Hermite).
From L follow a row's confidence, exp(-L), and its loss, β (z_max - z_y) + L.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.sampling import Salt, mix
from predboard.predictions.table import Predictions, TileRows
from predboard.state import FIXED_LIMIT, Lowest

SAMPLE_ROWS = 8192
"""Rows on which a temperature is fitted and tested, about half of them each."""

INVERSE_TEMPERATURES = 2.0 ** (np.arange(17) / 2 - 4)
"""Inverse temperatures β from 1/16 to 16, each the square root of 2 above the last."""

CONFIDENCE_ERROR = 4e-4
"""Farthest that a confidence at the temperature found is from the exact one. Over 200 models of 2 to 400 classes it
was at most 1.5e-4 by interpolation and 2.3e-5 by the temperature's own error."""

MEAN_CONFIDENCE_ERROR = 2e-5
"""The same for the mean over rows, where errors have both signs: there at most 8e-6."""

MAX_LOGIT_GAP = 2000.0
"""Logits further below the highest count as this far below: exp(-2000/16) is below all float32."""

_BLOCK_NUMBERS = 2**17
"""Logits that are worked on at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it does to rows that it was not fitted on."""

    temperature: float
    fitted: int
    """Rows of fold 0, where it was fitted."""
    tried: int
    """Rows of fold 1, of which the rest speaks."""
    nll: tuple[float, float]
    """Mean negative log-likelihood before and after, nats."""
    ece: tuple[float, float]
    """Calibration error in 15 equal-width bins before and after."""
    ece_error: float
    """Farthest that the latter is from the exact one."""

    @property
    def helps(self) -> bool:
        """Whether it makes both the loss and the calibration error smaller."""
        return self.nll[1] < self.nll[0] and self.ece[1] < self.ece[0]


def fit_temperature(
    sample: Lowest, ece: Callable[[NDArray[np.float64], NDArray[np.bool_], float], tuple[float, float]]
) -> TemperatureFit | None:
    """Fit a temperature on the even groups of the sample, and test it on the odd ones.

    Args:
        sample: from `sample_curves`.
        ece: returns the calibration error of [rows] confidences and whether each row is right, and how far it is off
            because of rows that an error of their confidence puts into the next bin.

    Returns:
        None if no temperature from 1/16 to 16 is best, or half of the sample is missing.
    """
    rows = sample.rows
    fold = rows["fold"]
    if not (fold == 0).any() or not (fold == 1).any():
        return None
    loss = _loss(rows["gap"][fold == 0], rows["curve"][fold == 0]).mean(axis=0)  # [3, betas]
    slope = loss[1]
    if slope[0] >= 0 or slope[-1] <= 0:
        return None
    i = int(np.flatnonzero(slope < 0)[-1])  # the loss is convex: there it still falls, and from i + 1 on it rises
    low, high = 0.0, 1.0
    for _ in range(100):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if _between(loss, i, a) < _between(loss, i, b) else (a, high)
    u = (low + high) / 2
    beta = float(INVERSE_TEMPERATURES[i] * (INVERSE_TEMPERATURES[i + 1] / INVERSE_TEMPERATURES[i]) ** u)
    held_out = {name: column[fold == 1] for name, column in rows.items()}
    after = _between(_in_log(held_out["curve"]), i, u)  # L at the temperature found, of each row
    one = int(np.flatnonzero(INVERSE_TEMPERATURES == 1)[0])
    before = held_out["curve"][:, 0, one].astype(np.float64)
    ece_before, _ = ece(np.exp(-before), held_out["right"], 0.0)
    ece_after, off = ece(np.exp(-after), held_out["right"], CONFIDENCE_ERROR)
    return TemperatureFit(
        1 / beta,
        int((fold == 0).sum()),
        int((fold == 1).sum()),
        (float((held_out["gap"] + before).mean()), float((beta * held_out["gap"] + after).mean())),
        (ece_before, ece_after),
        off + MEAN_CONFIDENCE_ERROR,
    )


def sample_curves(rows: Predictions) -> Lowest:
    """Return what the inverse temperatures make of labelled rows: key, id, fold, right, gap = z_max - z_y, curve."""
    logits, predicted = rows.logits, rows.predicted
    curve = np.empty((len(rows), 3, len(INVERSE_TEMPERATURES)), np.float32)
    each = max(_BLOCK_NUMBERS // max(logits.shape[1], 1), 1)
    for start in range(0, len(rows), each):
        block = slice(start, start + each)
        curve[block] = _curves(logits[block], predicted[block])
    at = np.arange(len(rows))
    gap = logits[at, predicted].astype(np.float64) - logits[at, rows.label]
    columns: TileRows = {
        "key": rows.key,
        "id": rows.id,
        "fold": rows.jackknife_group % 2,
        "right": rows.right,
        "gap": np.minimum(gap, FIXED_LIMIT),
        "curve": curve,
    }
    group, score = np.zeros(len(rows), np.int64), mix(rows.key, Salt.CALIBRATION).view(np.uint64).astype(np.float64)
    stay = Lowest.choose(SAMPLE_ROWS, group, score, rows.key, rows.id)
    return Lowest(SAMPLE_ROWS, group[stay], score[stay], {name: column[stay] for name, column in columns.items()})


def _curves(logits: NDArray[np.float32], predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return L and its first two derivatives by β at each inverse temperature, [rows, 3, betas].

    The derivatives are -E[g] and Var[g], where g = z_max - z has the probabilities at that temperature.
    """
    each = np.arange(len(logits))
    with np.errstate(over="ignore"):  # logits that are further apart than the largest float
        gap = logits[each, predicted][:, None] - logits  # [rows, classes]
    np.minimum(gap, np.float32(MAX_LOGIT_GAP), out=gap)
    gap[each, predicted] = MAX_LOGIT_GAP  # left out of the sums: ln(1 + rest) keeps the digits of an almost sure row
    derivatives = np.empty((len(logits), 3, len(INVERSE_TEMPERATURES)), np.float32)
    e, weighed = np.empty_like(gap), np.empty_like(gap)
    for first in (0, 1):
        for i in range(first, len(INVERSE_TEMPERATURES), 2):
            if i in (first, first + 8):  # afresh, because squaring doubles the error
                np.exp(gap * np.float32(-INVERSE_TEMPERATURES[i]), out=e)
            else:
                np.multiply(e, e, out=e)  # twice the last β but one
            rest = e.sum(axis=1)
            np.multiply(gap, e, out=weighed)
            mean = weighed.sum(axis=1) / (1 + rest)
            derivatives[:, 0, i] = np.log1p(rest)
            derivatives[:, 1, i] = -mean
            derivatives[:, 2, i] = np.einsum("ij,ij->i", gap, weighed) / (1 + rest) - mean**2
    return derivatives


def _in_log(curve: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn derivatives by β of [rows, 3, betas] values into derivatives by ln β."""
    value, first, second = curve.astype(np.float64).swapaxes(0, 1)
    return np.stack(
        [value, INVERSE_TEMPERATURES * first, INVERSE_TEMPERATURES * first + INVERSE_TEMPERATURES**2 * second], axis=1
    )


def _loss(gap: NDArray[np.float64], curve: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the loss β gap + L with its derivatives by ln β, [rows, 3, betas]."""
    return _in_log(curve) + (gap[:, None] * INVERSE_TEMPERATURES)[:, None]


def _between(values: NDArray[np.float64], i: int, u: float) -> NDArray[np.float64]:
    """Return the quintic Hermite polynomial a share u of the way from the i-th β to the next, in ln β.

    Args:
        values: [..., 3, betas] value, first and second derivative.
    """
    h = float(np.log(INVERSE_TEMPERATURES[i + 1] / INVERSE_TEMPERATURES[i]))
    of_value = 1 - u**3 * (10 - 15 * u + 6 * u**2)
    of_slope = u - u**3 * (6 - 8 * u + 3 * u**2)
    of_curve = u**2 * (1 - u) ** 3 / 2
    v = 1 - u  # the right end is the left one of the mirror image
    to_slope = -(v - v**3 * (6 - 8 * v + 3 * v**2))
    to_curve = v**2 * (1 - v) ** 3 / 2
    left, right = values[..., i], values[..., i + 1]
    return np.asarray(
        of_value * left[..., 0]
        + (1 - of_value) * right[..., 0]
        + h * (of_slope * left[..., 1] + to_slope * right[..., 1])
        + h**2 * (of_curve * left[..., 2] + to_curve * right[..., 2])
    )

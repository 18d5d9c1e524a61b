"""Fits the temperature of the logits of labels, and gathers what calibration metrics follow from. It knows no drawing.

The cross-entropy of decisions at any temperature follows from the histograms of their logits, without a sample. It is
fitted on one half of the images and tested on the other (Guo et al. 2017). Logits of a bin count as its middle.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Floats
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_histograms import MAX_LOGIT, LabelHistograms, logit_edges
from predboard.metrics.reliability import BINS, equal_width_bin
from predboard.metrics.score_histograms import FINE_BINS

LOWEST, HIGHEST = 1 / 16, 16.0
"""Temperatures that are tried."""

MAX_BEYOND_SHARE = 1e-3
"""Share of decisions beyond the histograms from which the cross-entropy at a temperature is not known."""

_STEPS = 60
"""Steps of the search: each makes the interval of ln T 0.618 times as long."""


@dataclass(frozen=True)
class LabelTemperature:
    """A temperature, and what it does to decisions of images that it was not fitted on."""

    temperature: float
    bce: tuple[float, float]
    """Mean binary cross-entropy before and after, nats."""
    ece: tuple[float, float]
    """Pooled calibration error before and after."""

    @property
    def helps(self) -> bool:
        """Whether it makes both the loss and the calibration error smaller."""
        return self.bce[1] < self.bce[0] and self.ece[1] < self.ece[0]


@dataclass(frozen=True)
class LabelCalibrationEvidence:
    """The states that all calibration metrics follow from."""

    calibration: LabelCalibration
    histograms: LabelHistograms

    @property
    def images(self) -> int:
        """Images whose labels are all known, so that their set can be right."""
        return self.calibration.sets.rows

    @cached_property
    def tempered(self) -> LabelTemperature | None:
        """The temperature that fits best; None if there is none."""
        return fit_label_temperature(self.histograms.any_true, self.histograms.any_label)

    @cached_property
    def values(self) -> dict[str, tuple[float, tuple[float, float] | None]]:
        """Value and interval of each metric, by its short name; nan where it is undefined."""
        c, t = self.calibration, self.tempered
        known = c.ece[~np.isnan(c.ece)]
        fitted = (t.temperature, *t.bce) if t else (np.nan, np.nan, np.nan)
        return {
            "ece_classwise": (float(known.mean()) if len(known) else np.nan, None),
            "ece_pooled": (c.ece_pooled, None),
            "ece_sets": (c.sets.ece, c.sets.independent_ece_interval),
            **{n: (v, None) for n, v in zip(("temperature", "bce_before", "bce_after"), fitted, strict=True)},
        }


def fit_label_temperature(true: NDArray[np.int64], every: NDArray[np.int64]) -> LabelTemperature | None:
    """Return the temperature of the least cross-entropy on fold 0, and what it does on fold 1.

    Args:
        true, every: [folds, FINE_BINS] decisions by ascending logit: on labels that apply, and all.

    Returns:
        None where all or no labels apply, where the best is at an end of what is tried, or where too many logits are
        beyond the histograms.
    """
    beyond = every[:, [0, -1]].sum()
    if beyond > MAX_BEYOND_SHARE * every.sum() or not all(
        0 < t < e for t, e in zip(true.sum(1), every.sum(1), strict=True)
    ):
        return None
    z = logit_edges(FINE_BINS) + MAX_LOGIT / FINE_BINS  # [FINE_BINS] middles

    def loss(fold: int, log_temperature: float) -> float:
        scaled = z * np.exp(-log_temperature)
        nats = every[fold] * np.logaddexp(0, scaled) - true[fold] * scaled
        return float(nats.sum() / every[fold].sum())

    low, high = np.log(LOWEST), np.log(HIGHEST)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(_STEPS):  # the loss is convex in 1 / T, so it has one valley in ln T
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(0, a) < loss(0, b) else (a, high)
    best = float((low + high) / 2)
    if min(best - np.log(LOWEST), np.log(HIGHEST) - best) < 1e-6:
        return None
    errors = tuple(_ece(z * np.exp(-t), true[1], every[1]) for t in (0.0, best))
    return LabelTemperature(float(np.exp(best)), (loss(1, 0.0), loss(1, best)), (errors[0], errors[1]))


def _ece(z: Floats, true: NDArray[np.int64], every: NDArray[np.int64]) -> float:
    p = 1 / (1 + np.exp(-z))
    return float(np.abs(np.bincount(equal_width_bin(p), true - every * p, BINS)).sum() / every.sum())

"""Finds the probability from which to accept each label, on one half of the images, and tests it on the other.

Three ways are compared: 1/2 for all labels; one threshold for all, of the greatest micro F1; and one for each label, of
its greatest F1. Thresholds found on a few images of a label fit these images and no others, so a label with fewer than
`MIN_IMAGES` takes the common one (SCutFBR: Yang 2001; Lewis et al. 2004). Every threshold is an edge between two bins
of the histograms, so counts at it are exact. It knows no panel, no drawing and no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import classification
from predboard.metrics.counts import Margins
from predboard.metrics.intervals import Ends, Floats, grouped_half_width, jaccard_to_f1, wilson_intervals
from predboard.metrics.multi_label.label_counts import HITS, IMAGES, PREDICTED, TRUE, LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms, logit_edges
from predboard.metrics.score_histograms import FINE_BINS

MIN_IMAGES = 10
"""Images of a label in the half where thresholds are found, below which it takes the common threshold."""

HALF, COMMON, EACH = "half", "common", "each"
"""Ways to choose thresholds."""

FITTED, TESTED = 0, 1
"""The half of the images where thresholds are found, and that where they are tested."""


@dataclass(frozen=True)
class Decided:
    """Counts of the images of one half at some thresholds, [labels] each."""

    hits: NDArray[np.int64]
    predictions: NDArray[np.int64]
    support: NDArray[np.int64]

    @cached_property
    def margins(self) -> Margins:
        """The same for the metrics that average over labels."""
        return Margins(*(n.astype(np.float64) for n in (self.hits, self.support, self.predictions)))

    @property
    def f1(self) -> Floats:
        """[labels] F1; 0 without hits."""
        return self.margins.f1

    @property
    def f1_ends(self) -> Ends:
        """[labels] ends of the 95 % interval of F1: Wilson's of the Jaccard index."""
        return jaccard_to_f1(wilson_intervals(self.hits, self.support + self.predictions - self.hits))

    @property
    def averages(self) -> dict[str, float]:
        """Macro and micro F1."""
        return {name: float(function(self.margins)) for name, function in AVERAGES.items()}


AVERAGES = {"f1_macro": classification.f1_macro, "f1_micro": classification.f1_micro}
"""Metrics by which the ways are compared."""


@dataclass(frozen=True)
class LabelThresholds:
    """Thresholds found on one half of the images, and what they do on the other."""

    log_odds: Floats
    """[labels] logit from which each label is accepted."""
    own: NDArray[np.bool_]
    """[labels] whether the threshold is the label's own, and not the common one."""
    common: float
    """Logit of the common threshold."""
    fitted: Mapping[str, Decided]
    """Counts on the half where thresholds were found, by way."""
    tested: Mapping[str, Decided]
    """Counts on the other half, by way."""
    half_widths: Mapping[str, Mapping[str, float]]
    """Half widths of the intervals of `Decided.averages` of `tested`, by way and name; nan where there is none."""
    tested_images: int
    """Images in the other half."""


def find_thresholds(counts: LabelCounts, histograms: LabelHistograms) -> LabelThresholds | None:
    """Return the thresholds; None if one half has no true label, or there are no images in the other."""
    true, every = histograms.true_by_fold.astype(np.int64), histograms.every_by_fold.astype(np.int64)
    if not true[FITTED].any() or not every[TESTED].any():
        return None
    classes, bins = true.shape[1:]
    edges = logit_edges(bins)
    common = int(_best(histograms.any_true[FITTED], histograms.any_label[FITTED])) * bins // FINE_BINS
    own = true[FITTED].sum(axis=-1) >= MIN_IMAGES
    place = np.where(own, _best(true[FITTED], every[FITTED]), common)
    ways = {COMMON: np.full(classes, common), EACH: place}

    def decided(half: int) -> dict[str, Decided]:
        decisions = counts.decisions[half::2].sum(axis=0)
        at_half = Decided(decisions[HITS], decisions[PREDICTED], decisions[TRUE])
        return {HALF: at_half, **{way: _at(true[half], every[half], at) for way, at in ways.items()}}

    groups, images = counts.decisions[TESTED::2], int(counts.sums[TESTED::2, IMAGES].sum())
    half_widths = {HALF: _half_widths(groups[:, HITS], groups[:, PREDICTED], groups[:, TRUE])}
    for way, at in ways.items():
        # The spread between groups at the nearest edge of their coarser bins.
        coarse = histograms.true_grouped.shape[2]
        hits = _from(histograms.true_grouped[TESTED::2], np.rint(at * coarse / bins).astype(np.int64))
        predicted = _from(histograms.every_grouped[TESTED::2], np.rint(at * coarse / bins).astype(np.int64))
        half_widths[way] = _half_widths(hits, predicted, groups[:, TRUE])
    return LabelThresholds(
        edges[place], own, float(edges[common]), decided(FITTED), decided(TESTED), half_widths, images
    )


def _best(true: NDArray[np.int64], every: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin from which on F1 is the greatest, of equal ones the highest, [...]; counts are [..., bins]."""
    hits, predicted = (np.cumsum(counts[..., ::-1], axis=-1) for counts in (true, every))  # of the highest 1, 2, … bins
    f1 = 2 * hits / np.maximum(predicted + hits[..., -1:], 1)
    return np.asarray(true.shape[-1] - 1 - f1.argmax(axis=-1))


def _from(counts: NDArray[np.integer], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many there are from a bin of each label on, [..., labels]; counts are [..., labels, bins]."""
    above = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.int64)[..., ::-1]
    above = np.concatenate([above, np.zeros((*above.shape[:-1], 1), np.int64)], axis=-1)
    index = np.broadcast_to(at[:, None], (*above.shape[:-1], 1))
    return np.asarray(np.take_along_axis(above, index, axis=-1)[..., 0])


def _at(true: NDArray[np.int64], every: NDArray[np.int64], at: NDArray[np.int64]) -> Decided:
    return Decided(_from(true, at), _from(every, at), true.sum(axis=-1))


def _half_widths(hits: NDArray[np.int64], predicted: NDArray[np.int64], true: NDArray[np.int64]) -> dict[str, float]:
    """Return the half widths of the averages, leaving out each group of images; counts are [groups, labels]."""
    some = (predicted.sum(axis=1) + true.sum(axis=1)) > 0
    totals = (hits.sum(axis=0) - hits[some], true.sum(axis=0) - true[some], predicted.sum(axis=0) - predicted[some])
    without = Margins(*(n.astype(np.float64) for n in totals))
    return {name: float(grouped_half_width(function(without))) for name, function in AVERAGES.items()}

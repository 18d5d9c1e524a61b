"""Draws precision–recall, ROC and risk–coverage curves from histograms of scores. It knows no image and no state.

Each point of a curve is an edge between two bins, and exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.drawing import plots
from predboard.drawing.palette import CURVE_COLOURS, INK, RIGHT, TRACK, UNKNOWN, WRONG
from predboard.drawing.plots import Axis, Curve
from predboard.metrics import score_histograms
from predboard.metrics.score_histograms import mean_of_defined, positives_by_threshold
from predboard.summaries import Pixels, PrCurve

POINTS = 201
"""Points of a precision–recall curve: all images, then recall 1, .995, … .005."""

MIN_FALSE_POSITIVE_RATE = 1e-3
"""Beginning of the logarithmic axis of the ROC picture."""

BinCounts = NDArray[np.int64]


@dataclass(frozen=True)
class RankedClasses:
    """Counts of images by the score of each class, ascending, and of all decisions."""

    true: BinCounts  # [classes, bins] those that are of the class
    every: BinCounts  # [classes, bins]
    micro_true: BinCounts  # [bins]
    micro_every: BinCounts  # [bins]


def _recalls() -> NDArray[np.float64]:
    return np.linspace(1, 1 / (POINTS - 1), POINTS - 1)


def _at_recalls(tp: BinCounts) -> NDArray[np.int64]:
    """Find where each recall is first reached, falling.

    Args:
        tp: true positives by falling threshold, [classes, bins].

    Returns:
        [classes, POINTS] bins: the last one, then the first that reaches each recall.
    """
    wanted = np.ceil(_recalls() * tp[:, -1:] - 1e-9).astype(np.int64)
    reached = [of_class.searchsorted(least) for of_class, least in zip(tp, wanted, strict=True)]
    return np.column_stack([np.full(len(tp), tp.shape[1] - 1), reached])


def precision_recall(
    ranked: RankedClasses, names: tuple[str, ...], chosen: NDArray[np.int64], page: str = "report/calibration"
) -> Iterator[PrCurve]:
    """Yield the curves of all decisions, of the mean over classes, and of the chosen classes.

    `page` is the one that lists the true thresholds.
    """
    thresholds = f"The thresholds that TensorBoard shows are not the true ones: see the page {page}."
    micro = ranked.micro_true, ranked.micro_every
    yield _curve("micro", *micro, f"Each class of each image is one decision. {thresholds}")
    yield _macro(
        ranked, f"Mean precision at equal recall, over the classes that occur; its counts are not images. {thresholds}"
    )
    for c in chosen.tolist():
        tag = f"{names[c]} (class)" if names[c] in ("micro", "macro") else names[c]
        yield _curve(tag, ranked.true[c], ranked.every[c], f"{names[c]} against all others. {thresholds}")


def _curve(tag: str, true: BinCounts, every: BinCounts, description: str) -> PrCurve:
    tp, fp = positives_by_threshold(true, every)
    at = _at_recalls(tp[None])[0]
    right, wrong = tp[at].astype(np.float64), fp[at].astype(np.float64)
    return PrCurve(f"curves/pr/{tag}", right, wrong, wrong[0] - wrong, right[0] - right, description)


def _macro(ranked: RankedClasses, description: str) -> PrCurve:
    """Make counts with the mean precision at each recall, as if the class had 1,000 images."""
    some = ranked.true.any(axis=1)
    tp, fp = positives_by_threshold(ranked.true[some], ranked.every[some])
    at = _at_recalls(tp)
    right = np.take_along_axis(tp, at, axis=1)
    precision = np.mean(right / (right + np.take_along_axis(fp, at, axis=1)), axis=0)
    hits = np.concatenate([[1000], 1000 * _recalls()])
    wrong = hits / precision - hits
    hits, wrong = (np.rint(n * 2**16) / 2**16 for n in (hits, wrong))  # so that the four add up exactly
    most = np.ceil(wrong.max())
    return PrCurve("curves/pr/macro", hits, wrong, most - wrong, 1000 - hits, description)


def draw_roc(ranked: RankedClasses, area: NDArray[np.float64], names: tuple[str, ...], drawn: int) -> Pixels:
    """Draw the ROC curves: macro, micro, and the classes with the smallest `area`, [classes]."""
    tp, fp = positives_by_threshold(ranked.true, ranked.every)
    rate = np.geomspace(MIN_FALSE_POSITIVE_RATE, 1, 185)
    by_class = {c: _hits(tp[c], fp[c], rate) for c in np.flatnonzero(~np.isnan(area)).tolist()}
    micro = ranked.micro_true, ranked.micro_every
    lines = [
        ("macro", mean_of_defined(area), np.mean(list(by_class.values()), axis=0), INK, True),
        (
            "micro",
            float(score_histograms.auroc(*micro).value),
            _hits(*positives_by_threshold(*micro), rate),
            UNKNOWN,
            True,
        ),
    ]
    worst = sorted(by_class, key=lambda c: (area[c], c))[:drawn]
    lines += [
        (names[c], float(area[c]), by_class[c], colour, False)
        for c, colour in zip(worst, CURVE_COLOURS[: len(worst)], strict=True)
    ]
    x = np.linspace(0, 1, len(rate))
    curves = [Curve(x, y, name, f"{value:.4f}", colour, thick) for name, value, y, colour, thick in lines]
    curves.append(Curve(x, rate, "chance", "0.5000", TRACK))
    ticks = Axis("false positive rate, logarithmic", [(0, "0.1 %"), (1 / 3, "1 %"), (2 / 3, "10 %"), (1, "100 %")])
    title = f"AUROC, {drawn} of {len(by_class):,}" if len(by_class) > drawn else "area under ROC"
    return plots.draw_curves(title, ticks, Axis("true positive rate", _TICKS), curves)


_TICKS = [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")]


def _hits(tp: BinCounts, fp: BinCounts, rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the true positive rates at some false positive rates, taking the rows of one bin as evenly mixed."""
    return np.asarray(np.interp(rate, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])))


def draw_risk_coverage(confidence: BinCounts) -> Pixels:
    """Draw the error rate of the most confident images over their share; `confidence`: [wrong and right, bins]."""
    right, wrong = positives_by_threshold(confidence[1], confidence.sum(axis=0))
    rows = right + wrong
    some = rows > 0
    total, errors = int(rows[-1]), int(wrong[-1])
    overall = errors / total
    coverage, risk = rows[some] / total, wrong[some] / rows[some]
    coverage, risk = np.append(0, coverage), np.append(risk[0], risk)
    top, ticks = _scale(max(float(risk[coverage > 0.05].max()), overall))
    shares = np.linspace(0, 1, 185)
    best = np.maximum(shares - (1 - overall), 0) / np.maximum(shares, 1e-9)
    perfect = np.array([[errors, 0], [0, total - errors]])
    flat = np.array([0.0, 1.0])
    curves = [
        Curve(
            coverage,
            risk / top,
            "this model",
            _short(float(score_histograms.aurc(confidence).value)),
            WRONG,
            True,
        ),
        Curve(flat, np.full(2, overall / top), "random", _short(overall), UNKNOWN),
        Curve(shares, best / top, "ideal", _short(float(score_histograms.aurc(perfect).value)), RIGHT),
    ]
    x = Axis("images kept, most confident first", _TICKS)
    return plots.draw_curves("area under curve", x, Axis("error rate of those kept", ticks), curves)


def _short(area: float) -> str:
    return f"{area:.4f}"


def _scale(most: float) -> tuple[float, list[tuple[float, str]]]:
    """Choose the upper end of an axis of shares that has room for `most`, and its ticks."""
    step = next((s for s in (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if most <= 4 * s), 0.25)
    top = 4 * step if step < 0.25 else 1.0
    return top, [(i * step / top, f"{100 * i * step:.3g} %") for i in range(round(top / step) + 1)]

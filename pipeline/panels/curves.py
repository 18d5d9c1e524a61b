"""How well the scores rank images: precision–recall, ROC and risk–coverage. Knows no image.

All curves come from the histograms of `ranking`: every point of theirs is an edge between two bins, and exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import draw, ranking, tally
from pipeline.draw import Axis, Curve, percent
from pipeline.panels import Subject
from pipeline.predictions import Predictions, Run
from pipeline.ranking import Ranking, mean_defined
from pipeline.summaries import Picture, PrCurve, Summary, Text, cell
from pipeline.tally import Scores, Tally, wilson

POINTS = 201
"""Of a precision–recall curve: all images, then recall 1, .995, … .005."""

FLOOR = 1e-3
"""Lowest false positive rate that the ROC picture shows; its axis is logarithmic."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """What other panels count as well."""

    tally: Tally
    ranking: Ranking


@dataclass(frozen=True)
class Panel:
    """PR curves: micro, macro and by class (at most 20). Pictures: ROC, risk–coverage. Text: thresholds to choose."""

    classes: int = 20
    drawn: int = 4
    """Classes in the ROC picture, those of smallest area."""
    columns: frozenset[str] = tally.COLUMNS | ranking.COLUMNS

    def zero(self, run: Run) -> State:
        """No rows."""
        return State(Tally.zero(), Ranking.zero(run))

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        return State(Tally.measure(run, batch), Ranking.measure(run, batch))

    def render(self, subject: Subject, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Curves and pictures at each step that has labelled rows; one page of thresholds, at the last of them."""
        names = subject.run.classes
        states = {step: state for step, state in states.items() if state.ranking.confidence.any()}
        if not states:
            return
        last = max(states)
        chosen = Scores(states[last].tally, len(names)).worth_seeing(self.classes)
        for step, state in states.items():
            if len(names) > 1:
                yield from ((step, curve) for curve in _precision_recall(state.ranking, names, chosen))
                roc = _roc(state.ranking, names, self.drawn)
                if roc is not None:
                    yield step, Picture("curves/roc", roc, "ROC curves, one class against all others.")
            picture = _risk_coverage(state.ranking.confidence.sum(axis=0))
            yield step, Picture("curves/risk_coverage", picture, "Errors if the least certain images are left out.")
        page = _thresholds(states[last], names, chosen)
        yield last, Text("report/thresholds", page, "Which images to accept at which probability.")


def _falling(true: Counts, every: Counts) -> tuple[Counts, Counts]:
    """[..., bins] true and false positives if rows of the top 1, 2, … bins are taken."""
    tp, all_ = np.cumsum(true[..., ::-1], axis=-1), np.cumsum(every[..., ::-1], axis=-1)
    return tp, all_ - tp


def _at_recalls(tp: Counts) -> NDArray[np.int64]:
    """[POINTS] places in [bins] true positives: all rows, then the fewest that reach each recall, falling."""
    wanted = np.ceil(np.linspace(1, 1 / (POINTS - 1), POINTS - 1) * tp[-1] - 1e-9)
    return np.concatenate([[len(tp) - 1], np.searchsorted(tp, wanted)])


def _precision_recall(state: Ranking, names: tuple[str, ...], chosen: NDArray[np.int64]) -> Iterator[PrCurve]:
    said = "Thresholds are not those that TensorBoard shows: see the text report/thresholds."
    micro = state.given.sum(axis=0), state.any_class.sum(axis=0)
    yield _curve("micro", *micro, f"Every class of every image is one decision. {said}")
    yield _macro(state, f"Mean precision of the classes that have images, at equal recall; counts are not rows. {said}")
    for c in chosen.tolist():
        tag = f"{names[c]} (class)" if names[c] in ("micro", "macro") else names[c]
        yield _curve(tag, state.true[c], state.every[c], f"{names[c]} against all others. {said}")


def _curve(tag: str, true: Counts, every: Counts, description: str) -> PrCurve:
    tp, fp = _falling(true, every)
    at = _at_recalls(tp)
    right, wrong = tp[at].astype(np.float64), fp[at].astype(np.float64)
    return PrCurve(f"curves/pr/{tag}", right, wrong, wrong[0] - wrong, right[0] - right, description)


def _macro(state: Ranking, description: str) -> PrCurve:
    """Counts that have the mean precision at each recall, as if 1,000 rows were of the class."""
    tp, fp = _falling(state.true, state.every)
    precision = np.mean(
        [tp[c, at] / (tp[c, at] + fp[c, at]) for c in np.flatnonzero(tp[:, -1]) for at in [_at_recalls(tp[c])]], axis=0
    )
    hits = np.concatenate([[1000], 1000 * np.linspace(1, 1 / (POINTS - 1), POINTS - 1)])
    wrong = hits / precision - hits
    hits, wrong = (np.rint(n * 2**16) / 2**16 for n in (hits, wrong))  # so that the four add up exactly
    most = np.ceil(wrong.max())
    return PrCurve("curves/pr/macro", hits, wrong, most - wrong, 1000 - hits, description)


def _roc(state: Ranking, names: tuple[str, ...], drawn: int) -> NDArray[np.uint8] | None:
    """Macro, micro and the classes of smallest area; None if no class has both images and others."""
    area = ranking.auroc(state.true, state.every).value
    if np.isnan(area).all():
        return None
    tp, fp = _falling(state.true, state.every)
    rate = np.geomspace(FLOOR, 1, 185)
    by_class = {c: _hits(tp[c], fp[c], rate) for c in np.flatnonzero(~np.isnan(area)).tolist()}
    micro = state.given.sum(axis=0), state.any_class.sum(axis=0)
    lines = [
        ("macro", mean_defined(area), np.mean(list(by_class.values()), axis=0), draw.INK, True),
        ("micro", float(ranking.auroc(*micro).value), _hits(*_falling(*micro), rate), draw.UNKNOWN, True),
    ]
    worst = sorted(by_class, key=lambda c: (area[c], c))[:drawn]
    lines += [
        (names[c], float(area[c]), by_class[c], colour, False)
        for c, colour in zip(worst, draw.MARKS[: len(worst)], strict=True)
    ]
    x = np.linspace(0, 1, len(rate))
    curves = [Curve(x, y, name, f"{value:.4f}", colour, thick) for name, value, y, colour, thick in lines]
    curves.append(Curve(x, rate, "chance", "0.5000", draw.TRACK))
    ticks = Axis("false positive rate, logarithmic", [(0, "0.1 %"), (1 / 3, "1 %"), (2 / 3, "10 %"), (1, "100 %")])
    return draw.graph("area under ROC", ticks, Axis("true positive rate", _TICKS), curves)


_TICKS = [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")]


def _hits(tp: Counts, fp: Counts, rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """True positive rates at false positive rates; rows of one bin are evenly mixed."""
    return np.asarray(np.interp(rate, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])))


def _risk_coverage(confidence: Counts) -> NDArray[np.uint8]:
    """Error rate of the images that are kept, most confident first. `confidence`: [wrong and right, bins]."""
    right, wrong = _falling(confidence[1], confidence.sum(axis=0))
    rows = right + wrong
    some = rows > 0
    total, errors = int(rows[-1]), int(wrong[-1])
    overall = errors / total
    coverage, risk = rows[some] / total, wrong[some] / rows[some]
    coverage, risk = np.append(0, coverage), np.append(risk[0], risk)
    top, ticks = _scale(max(float(risk[coverage > 0.05].max()), overall))
    kept = np.linspace(0, 1, 185)
    best = np.maximum(kept - (1 - overall), 0) / np.maximum(kept, 1e-9)
    perfect = np.array([[errors, 0], [0, total - errors]])
    flat = np.array([0.0, 1.0])
    curves = [
        Curve(coverage, risk / top, "this model", _short(float(ranking.aurc(confidence).value)), draw.WRONG, True),
        Curve(flat, np.full(2, overall / top), "random", _short(overall), draw.UNKNOWN),
        Curve(kept, best / top, "ideal", _short(float(ranking.aurc(perfect).value)), draw.RIGHT),
    ]
    x = Axis("images kept, most confident first", _TICKS)
    return draw.graph("area under curve", x, Axis("errors among the kept", ticks), curves)


def _short(area: float) -> str:
    return f"{area:.4f}"


def _scale(most: float) -> tuple[float, list[tuple[float, str]]]:
    """Upper end of an axis of shares that has room for `most`, and its ticks."""
    step = next((s for s in (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if most <= 4 * s), 0.25)
    top = 4 * step if step < 0.25 else 1.0
    return top, [(i * step / top, f"{100 * i * step:.3g} %") for i in range(round(top / step) + 1)]


def _thresholds(state: State, names: tuple[str, ...], chosen: NDArray[np.int64]) -> str:
    confidence = state.ranking.confidence.sum(axis=0)
    parts = [_keeping(confidence)]
    if len(names) > 1:
        parts += [_micro(state.ranking), _by_class(state, names, chosen)]
    return "\n\n".join(part for part in parts if part)


def _keeping(confidence: Counts) -> str:
    """Confidence below which to send an image to a person. `confidence`: [wrong and right, bins]."""
    right, wrong = _falling(confidence[1], confidence.sum(axis=0))
    rows, edge = right + wrong, ranking.edges(ranking.FINE)[-2::-1]
    total = int(rows[-1])

    def line(first: str, i: int) -> str:
        n, hits = int(rows[i]), int(right[i])
        lower, upper = wilson(hits, n)
        return (
            f"| {first} | {_digits(edge[i])} | {percent(n / total)} ({n:,}) | {percent(hits / n)} "
            f"| {percent(lower)} to {percent(upper)} | {n - hits:,} |"
        )

    shares = (1.0, 0.95, 0.9, 0.8, 0.5)
    keep = [line(f"{100 * s:.0f} %", int(np.searchsorted(rows, np.ceil(s * total - 1e-9)))) for s in shares]
    reach = []
    for target in (0.9, 0.95, 0.99, 0.999):
        enough = np.flatnonzero((rows > 0) & (right >= target * rows - 1e-9))
        first = f"{100 * target:g} %"
        # The fewest bins of the most rows: below them there may be empty ones.
        reach.append(
            line(first, int(np.searchsorted(rows, rows[enough[-1]])))
            if len(enough)
            else f"| {first} | – | not reached | – | – | – |"
        )
    head = "confidence at least | kept | accuracy | 95 % interval | errors left |\n|---:|---:|---:|---:|---|---:|"
    return "\n".join(
        [
            "### Which images to decide by themselves, by confidence",
            "",
            f"| to keep | {head}",
            *keep,
            "",
            f"| for accuracy | {head}",
            *reach,
            "",
            f"Of {total:,} labelled images. Confidence is the probability of the predicted class. An accuracy that was "
            "aimed at was found on these same images: expect a little less on others. Intervals are Wilson's.",
        ]
    )


def _micro(state: Ranking) -> str:
    """Where the points of the micro curve are."""
    tp, fp = _falling(state.given.sum(axis=0), state.any_class.sum(axis=0))
    edge = ranking.edges(ranking.FINE)[-2::-1]
    lines = []
    for recall in (0.99, 0.95, 0.9, 0.8, 0.5):
        i = int(np.searchsorted(tp, np.ceil(recall * tp[-1] - 1e-9)))
        lines.append(
            f"| {percent(tp[i] / tp[-1])} | {_digits(edge[i])} | {percent(tp[i] / (tp[i] + fp[i]))} "
            f"| {tp[i]:,} | {fp[i]:,} |"
        )
    return "\n".join(
        [
            "### Precision and recall, every class of every image a decision (micro)",
            "",
            "| recall | probability at least | precision | right | wrong |",
            "|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "TensorBoard labels the points of PR curves with thresholds from 0 to 1 in equal steps whatever they were. "
            "These points are at equal steps of recall, and the true thresholds are here.",
        ]
    )


def _by_class(state: State, names: tuple[str, ...], chosen: NDArray[np.int64]) -> str:
    """Threshold of greatest F1 for each chosen class against all others."""
    scores = Scores(state.tally, len(names))
    every = state.ranking.every
    edge = ranking.edges(every.shape[1])[-2::-1]
    lines = []
    for c in sorted(chosen.tolist(), key=lambda c: (scores.f1[c], c)):
        tp, fp = _falling(state.ranking.true[c], every[c])
        f1 = 2 * tp / (tp + fp + tp[-1])
        i = int(f1.argmax())
        precision = ranking.average_precision(state.ranking.true[c], every[c])
        lines.append(
            f"| {cell(names[c])} | {scores.support[c]:,} | {float(precision.value):.4f} | {scores.f1[c]:.4f} "
            f"| {f1[i]:.4f} | {_digits(edge[i])} | {percent(tp[i] / (tp[i] + fp[i]))} | {percent(tp[i] / tp[-1])} |"
        )
    if not lines:
        return ""
    return "\n".join(
        [
            "### Each class against all others",
            "",
            "| class | images | average precision | F1 | best F1 | at probability | precision | recall |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "F1 is of the predictions as they are. The best one accepts a class at its own probability, found on these "
            f"same images. Average precision is within {_bound(state.ranking, chosen)} of the exact one.",
        ]
    )


def _bound(state: Ranking, chosen: NDArray[np.int64]) -> str:
    bound = ranking.average_precision(state.true[chosen], state.every[chosen]).bound
    return f"{np.nanmax(bound):.1g}"


def _digits(p: float) -> str:
    """A probability with three digits of what it is above 0 or lacks to 1.

    >>> _digits(0.25), _digits(0.9999876), _digits(1.234e-7), _digits(0.0)
    ('0.2500', '0.9999876', '1.234e-07', '0')
    """
    if 0.5 < p < 1:
        return f"{p:.{max(4, 3 - int(np.floor(np.log10(1 - p))) - 1)}f}"
    return f"{p:.4f}" if 0.1 <= p <= 0.5 else f"{p:.4g}"

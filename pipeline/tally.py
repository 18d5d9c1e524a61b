"""Counts that several panels share, and the metrics that follow from them. Knows no drawing and no files.

Failed rows and rows without a label are outside every denominator that needs them, and counted. A class is in a macro
mean if it has support or predictions; division by zero counts 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions import Predictions, Run
from pipeline.state import UNIT, Counted, fixed, summed

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Tally:
    """Mergeable counts of rows."""

    confusion: Counted  # of true * classes + predicted, over the labelled rows
    rows: np.int64 = summed()
    failed: np.int64 = summed()  # rows without logits
    unlabelled: np.int64 = summed()  # rows without a label, failed or not
    loss: np.int64 = summed()  # sum over the labelled rows, fixed point

    @classmethod
    def zero(cls) -> "Tally":
        """No rows."""
        none = np.int64(0)
        return cls(Counted.of(np.zeros(0, np.int64)), none, none, none, none)

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "Tally":
        """These rows alone, counted once for all panels that share it."""

        def count() -> Tally:
            labelled = batch.labelled
            return cls(
                Counted.of(labelled.label * len(run.classes) + labelled.predicted),
                np.int64(len(batch)),
                np.int64((batch.predicted < 0).sum()),
                np.int64((batch.label < 0).sum()),
                fixed(labelled.loss),
            )

        return batch.once(Tally, count)


COLUMNS = frozenset({"label", "predicted", "loss"})
"""Columns that `Tally.measure` reads."""


@dataclass(frozen=True)
class Counting:
    """What a panel does that measures a tally and nothing else."""

    columns: frozenset[str] = COLUMNS

    def zero(self, run: Run) -> Tally:  # noqa: ARG002  the counts are sparse and need no size
        """No rows."""
        return Tally.zero()

    def measure(self, run: Run, batch: Predictions) -> Tally:
        """These rows alone."""
        return Tally.measure(run, batch)


@dataclass(frozen=True)
class Scores:
    """Metrics of a tally over `classes` classes."""

    tally: Tally
    classes: int

    @cached_property
    def _true_predicted_count(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        true, predicted = np.divmod(self.tally.confusion.value, self.classes)
        return true, predicted, self.tally.confusion.count

    def _by_class(self, of: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
        totals = np.zeros(self.classes, np.int64)
        np.add.at(totals, of, count)
        return totals

    @cached_property
    def counted(self) -> int:
        """Rows with logits and a label: the denominator of accuracy."""
        return int(self.tally.confusion.count.sum())

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """[classes] rows of each true class."""
        true, _, count = self._true_predicted_count
        return self._by_class(true, count)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """[classes] rows predicted as each class."""
        _, predicted, count = self._true_predicted_count
        return self._by_class(predicted, count)

    @cached_property
    def hits(self) -> NDArray[np.int64]:
        """[classes] rows of each class that were predicted as it."""
        true, predicted, count = self._true_predicted_count
        same = true == predicted
        return self._by_class(true[same], count[same])

    @cached_property
    def recall(self) -> NDArray[np.float64]:
        """[classes] hits / support."""
        return self.hits / np.maximum(self.support, 1)

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """[classes] hits / predictions."""
        return self.hits / np.maximum(self.predictions, 1)

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """[classes] harmonic mean of precision and recall: 2 hits / (support + predictions)."""
        return np.asarray(2 * self.hits / np.maximum(self.support + self.predictions, 1))

    @cached_property
    def _present(self) -> NDArray[np.bool_]:
        return np.asarray(self.support + self.predictions > 0)

    @property
    def accuracy(self) -> float:
        """Share of rows whose highest logit is the true class."""
        return float(self.hits.sum() / self.counted)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes with support."""
        return float(self.recall[self.support > 0].mean())

    @property
    def precision_macro(self) -> float:
        """Mean over the classes with support or predictions."""
        return float(self.precision[self._present].mean())

    @property
    def recall_macro(self) -> float:
        """Mean over the classes with support or predictions."""
        return float(self.recall[self._present].mean())

    @property
    def f1_macro(self) -> float:
        """Mean over the classes with support or predictions."""
        return float(self.f1[self._present].mean())

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats."""
        return float(self.tally.loss * UNIT / self.counted)

    def worst(self, limit: int) -> NDArray[np.int64]:
        """Classes with support that were not all found, worst first.

        Ordered by the upper end of the recall's interval, so that 0 of 1 does not come before 10 of 100.
        """
        upper = np.array(
            [wilson(int(h), int(n))[1] if n else 1.0 for h, n in zip(self.hits, self.support, strict=True)]
        )
        order = np.lexsort((np.arange(self.classes), -self.support, upper))
        return order[(self.hits < self.support)[order]][:limit].astype(np.int64)

    def pairs(self, limit: int) -> list[tuple[int, int, int]]:
        """(true, predicted, count) of the most frequent confusions, then by class."""
        true, predicted, count = self._true_predicted_count
        wrong = true != predicted
        true, predicted, count = true[wrong], predicted[wrong], count[wrong]
        order = np.lexsort((predicted, true, -count))[:limit]
        return list(zip(true[order].tolist(), predicted[order].tolist(), count[order].tolist(), strict=True))

    def worth_seeing(self, limit: int) -> NDArray[np.int64]:
        """Classes with support, those with most errors (missed or wrongly predicted) chosen first; ascending."""
        errors = self.support + self.predictions - 2 * self.hits
        order = np.lexsort((np.arange(self.classes), -self.support, -errors))
        return np.sort(order[(self.support > 0)[order]][:limit]).astype(np.int64)

    def matrix(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """[chosen, chosen] counts; row: true class, column: predicted class; with a last row and column of all others
        if some class is not chosen.
        """
        other = len(chosen)
        place = np.full(self.classes, other, np.int64)
        place[chosen] = np.arange(len(chosen))
        size = other + (other < self.classes)
        counts = np.zeros((size, size), np.int64)
        true, predicted, count = self._true_predicted_count
        np.add.at(counts, (place[true], place[predicted]), count)
        return counts


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927); (0, 1) of no rows.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if rows == 0:
        return 0.0, 1.0
    p, zz = hits / rows, Z95**2
    centre = p + zz / (2 * rows)
    half = Z95 * math.sqrt(p * (1 - p) / rows + zz / (4 * rows**2))
    return max((centre - half) / (1 + zz / rows), 0.0), min((centre + half) / (1 + zz / rows), 1.0)


def warnings(
    scores: Scores, names: tuple[str, ...], rows: int, manifest_rows: int, before: Sequence[str] = ()
) -> list[str]:
    """What a person should know before believing the numbers, gravest first; `before` is what stage one warned of."""
    found = []
    if rows < manifest_rows:
        found.append(f"{manifest_rows - rows:,} of {manifest_rows:,} rows are missing: run infer again")
    found += before
    if scores.tally.failed:
        found.append(f"{scores.tally.failed:,} of {scores.tally.rows:,} images failed and are in no figure")
    if scores.tally.unlabelled:
        found.append(f"{scores.tally.unlabelled:,} of {scores.tally.rows:,} images have no label")
    n = scores.counted
    if n and scores.classes > 1:
        common = int(scores.support.argmax())
        always = float(scores.support[common] / n)
        if wilson(int(scores.hits.sum()), n)[0] <= always and np.count_nonzero(scores.support) > 1:
            found.append(f"accuracy is not clearly better than always saying {names[common]} ({100 * always:.0f} %)")
        favourite = int(scores.predictions.argmax())
        share, due = float(scores.predictions[favourite] / n), float(scores.support[favourite] / n)
        if share > 0.5 and share > 2 * due:
            found.append(
                f"{100 * share:.0f} % of predictions are {names[favourite]}, which is {100 * due:.0f} % of the images"
            )
        never = np.flatnonzero((scores.predictions == 0) & (scores.support > 0))
        if len(never):
            found.append(
                f"{len(never)} of {scores.classes} classes never predicted: {', '.join(names[c] for c in never[:3])}"
            )
    return found

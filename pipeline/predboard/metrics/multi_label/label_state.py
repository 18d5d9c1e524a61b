"""The mergeable states that all metrics of several labels are computed from. It knows no metric by name, no drawing."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from predboard.metrics.multi_label import label_counts, label_histograms
from predboard.metrics.multi_label.label_counts import LabelCountMetrics, LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.multi_label.label_pairs import LabelPairs
from predboard.metrics.multi_label.label_ranks import LabelRanks
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run

COLUMNS = label_counts.COLUMNS | label_histograms.COLUMNS
"""Columns that `LabelState.measure` reads; `LabelCountState.measure` reads those of `label_counts`."""


@dataclass(frozen=True)
class LabelCountState:
    """Mergeable state of the metrics that need no logits."""

    counts: LabelCounts

    @classmethod
    def zero(cls, run: Run) -> "LabelCountState":
        """Return the state of no rows."""
        return cls(LabelCounts.zero(run))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelCountState":
        """Return the state of these rows alone."""
        return cls(LabelCounts.measure(run, batch))

    @property
    def metrics(self) -> LabelCountMetrics:
        """Counts by label and the metrics that follow from them."""
        return self.counts.metrics

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Results computed from this state, so that panels that share it compute them once."""
        return {}


@dataclass(frozen=True)
class LabelState(LabelCountState):
    """Mergeable state of all metrics of several labels."""

    ranks: LabelRanks
    histograms: LabelHistograms

    @classmethod
    def zero(cls, run: Run) -> "LabelState":
        """Return the state of no rows."""
        return cls(LabelCounts.zero(run), LabelRanks.zero(run), LabelHistograms.zero(run))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelState":
        """Return the state of these rows alone, measured once for all panels that share it."""

        def measured() -> LabelState:
            parts = LabelCounts.measure(run, batch), LabelRanks.measure(run, batch), LabelHistograms.measure(run, batch)
            return cls(*parts)

        return batch.memoize(LabelState, measured)


@dataclass(frozen=True)
class LabelPairState:
    """Mergeable state of all metrics, and of the errors between labels."""

    metrics: LabelState
    pairs: LabelPairs


@dataclass(frozen=True)
class LabelStatePanel:
    """Base of a panel whose state is the shared one, or that of the counts alone if nothing else is wanted."""

    state: type[LabelCountState] = LabelState
    columns: frozenset[str] = COLUMNS

    def zero(self, run: Run) -> LabelCountState:
        """Return the state of no rows."""
        return self.state.zero(run)

    def measure(self, run: Run, batch: Any) -> LabelCountState:
        """Return the state of these rows alone."""
        return self.state.measure(run, batch)


@dataclass(frozen=True)
class LabelPairPanel:
    """Base of a panel that shows all metrics and the errors between labels."""

    columns: frozenset[str] = COLUMNS

    def zero(self, run: Run) -> LabelPairState:
        """Return the state of no rows."""
        return LabelPairState(LabelState.zero(run), LabelPairs.zero(run))

    def measure(self, run: Run, batch: Any) -> LabelPairState:
        """Return the state of these rows alone."""
        return LabelPairState(LabelState.measure(run, batch), LabelPairs.measure(run, batch))

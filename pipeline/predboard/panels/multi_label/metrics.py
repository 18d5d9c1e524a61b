"""Shows how good the model is over the steps, in standard metrics of several labels. It knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_counts
from predboard.metrics.multi_label.label_state import LabelCountState, LabelStatePanel
from predboard.metrics.multi_label.label_values import all_label_metrics
from predboard.metrics.values import count_images, metric_curves
from predboard.panels import RunInfo
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import Metrics, Summary


@dataclass(frozen=True)
class Panel(LabelStatePanel):
    """Scalars: mAP, AUROC, F1 (macro, micro, weighted), exact match, Jaccard, Hamming, ranking metrics; intervals."""

    def render(self, info: RunInfo, states: Mapping[int, LabelCountState]) -> Iterator[tuple[int, Summary]]:
        """Yield a point of each curve at each step with labelled rows, and the bands of the intervals."""
        values = {step: all_label_metrics(state) for step, state in states.items()}
        yield from metric_curves(registry.rows("overall", task=MULTI_LABEL), values)
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; counts of images have no better and worse."""
        return registry.directions("images", "overall", "nothing", task=MULTI_LABEL)

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if nothing wanted needs them."""
        if registry.need_logits(wanted, MULTI_LABEL):
            return self
        return replace(self, state=LabelCountState, columns=label_counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, LabelCountState]) -> Iterator[tuple[int, Metrics]]:
        """Yield the counts of images, and all metrics of steps with labelled images."""
        for step, state in states.items():
            images = count_images(state.counts, info.steps[step].manifest_rows, MULTI_LABEL)
            yield step, Metrics("metrics", {**images, **all_label_metrics(state)})

"""Shows how good the model is over the steps, in standard metrics. It knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.metrics import counts, metric_state, registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.metric_state import AnyState, CountState, MetricState
from predboard.metrics.values import count_images, metric_curves, overall_metrics
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Metrics, Summary


@dataclass(frozen=True)
class Panel:
    """Scalars: accuracy, top-2, top-5, balanced; macro P, R, F1; MCC, NLL, Brier, AUROC, AP, AURC; intervals."""

    state: type[CountState] | type[MetricState] = MetricState
    columns: frozenset[str] = metric_state.COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> AnyState:
        """Return the state of no rows."""
        return self.state.zero(run)

    def measure(self, run: Run, batch: Predictions) -> AnyState:
        """Return the state of these rows alone."""
        return self.state.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Summary]]:
        """Yield a point of each curve at each step with labelled rows, and the bands of the intervals."""
        values = {step: overall_metrics(state) for step, state in states.items()}
        yield from metric_curves(registry.rows("overall"), values)
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; counts of images have no better and worse."""
        return registry.directions("images", "overall")

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if nothing wanted needs them."""
        return self if registry.need_logits(wanted) else replace(self, state=CountState, columns=counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Metrics]]:
        """Yield the counts of images, and all metrics of steps with labelled images."""
        for step, state in states.items():
            images = count_images(state.counts, info.steps[step].manifest_rows)
            yield step, Metrics("metrics", {**images, **overall_metrics(state)})

"""Shows how well each label is told to apply or not. It knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.formatting import escape_markdown, markdown_table
from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_counts
from predboard.metrics.multi_label.label_state import LabelCountState, LabelStatePanel
from predboard.metrics.multi_label.label_values import label_columns
from predboard.metrics.values import class_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.classes import (
    TABLE_CLASSES,
    ClassesAtStep,
    class_figures,
    left_out,
    show_classes,
    with_interval,
)
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import Metrics, Summary


@dataclass(frozen=True)
class Panel(LabelStatePanel):
    """Scalars, text: precision, recall, F1, average precision, AUROC of each label; curves of 20 with most errors."""

    count: int = 20
    """Labels with curves: those with the most wrong decisions at the last step."""

    def render(self, info: RunInfo, states: Mapping[int, LabelCountState]) -> Iterator[tuple[int, Summary]]:
        """Yield curves over the steps, a chart for each metric, and the table and file of the last step with labels."""
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        if not counted:
            return
        last = counted[max(counted)]
        chosen = last.metrics.most_errors(self.count).tolist()
        steps = {step: _at_step(state) for step, state in counted.items()}
        table = _table(last, info.run.classes, info.thresholds)
        yield from show_classes(
            registry.rows("classes", task=MULTI_LABEL), info.run.classes, chosen, steps, table, "labels"
        )
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; a number of images has no better and worse."""
        return registry.directions("classes", task=MULTI_LABEL)

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if none of the wanted metrics needs them."""
        if registry.need_logits(wanted, MULTI_LABEL):
            return self
        return replace(self, state=LabelCountState, columns=label_counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, LabelCountState]) -> Iterator[tuple[int, Metrics]]:
        """Yield all metrics of all labels; of many labels at the last step only."""
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        yield from class_figures(registry.rows("classes", task=MULTI_LABEL), info.run.classes, counted, _at_step)


def _at_step(state: LabelCountState) -> ClassesAtStep:
    m = state.metrics
    return ClassesAtStep(m.support, m.predictions, m.hits, label_columns(state), {"known": m.known})


def _table(state: LabelCountState, names: tuple[str, ...], thresholds: str) -> str:
    m = state.metrics
    shown = m.worst_first[(m.support + m.predictions > 0)[m.worst_first]]
    worst = shown[:TABLE_CLASSES].tolist()
    rows = []
    for c, metrics in zip(
        worst, class_metrics(worst, label_columns(state), registry.rows("classes", task=MULTI_LABEL)), strict=True
    ):
        row = [escape_markdown(names[c]), f"{m.support[c]:,}", f"{m.predictions[c]:,}"]
        for name in ("recall", "precision"):
            row += with_interval(metrics.get(name))
        f1 = metrics.get("f1")
        ends = f"{f1.interval[0]:.3f} to {f1.interval[1]:.3f}" if f1 and f1.interval else "–"
        row += [f"{f1.value:.3f}" if f1 else "–", ends]
        row += [f"{metrics[name].value:.3f}" if name in metrics else "–" for name in ("average_precision", "auroc")]
        rows.append(row)
    titles = ("label", "images", "predicted", "recall", "95 %", "precision", "95 %", "F1", "95 %", "AP", "AUROC")
    notes = [
        "The worst labels come first, by the upper end of F1's interval, so that no label is the worst just because it "
        "has few images. Recall, precision and F1 are those "
        + (
            f"at other thresholds than 1/2: {escape_markdown(thresholds)}."
            if thresholds
            else "at probability 1/2: a label with a high AUROC and a low F1 needs another threshold "
            "(`report/thresholds`)."
        ),
        *left_out(len(shown), m.classes, "label", "labels"),
    ]
    return f"{markdown_table(titles, 'lrrrlrlrlrr', rows)}\n\n{' '.join(notes)}"

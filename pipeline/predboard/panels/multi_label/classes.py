"""Shows how well each label is told to apply or not. It knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.formatting import escape_markdown, markdown_table, plural, unique_names
from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_counts
from predboard.metrics.multi_label.label_state import AnyLabelState, LabelCountState, LabelStatePanel
from predboard.metrics.multi_label.label_values import label_columns, label_specs
from predboard.metrics.values import class_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.classes import (
    TABLE_CLASSES,
    ClassesAtStep,
    class_curves,
    class_summary,
    classes_csv,
    with_interval,
)
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import File, Metrics, Summary, Text

ALL_STEPS_MAX_CLASSES = 100
"""With more labels, `summary.json` has their metrics at the last step only."""


@dataclass(frozen=True)
class Panel(LabelStatePanel):
    """Scalars, text: precision, recall, F1, average precision, AUROC of each label; curves of 20 with most errors."""

    count: int = 20
    """Labels with curves: those with the most wrong decisions at the last step."""

    def render(self, info: RunInfo, states: Mapping[int, AnyLabelState]) -> Iterator[tuple[int, Summary]]:
        """Yield curves over the steps, a chart for each metric, and the table and file of the last step with labels."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        if not counted:
            return
        last = max(counted)
        chosen = counted[last].metrics.most_errors(self.count).tolist()
        steps = {step: _at_step(state) for step, state in counted.items()}
        yield from class_curves(label_specs("classes"), names, chosen, steps)
        yield (
            last,
            Text(
                "report/classes",
                _table(counted[last], info.run.classes, info.thresholds),
                "All labels, the worst first.",
            ),
        )
        csv = classes_csv(label_specs("classes"), info.run.classes, steps)
        yield last, File("classes.csv", csv, "All labels at every step.")
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

    def metrics(self, info: RunInfo, states: Mapping[int, AnyLabelState]) -> Iterator[tuple[int, Metrics]]:
        """Yield all metrics of all labels; of many labels at the last step only."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        for step, state in counted.items():
            if step == max(counted) or len(names) <= ALL_STEPS_MAX_CLASSES:
                yield step, Metrics("classes", class_summary(label_specs("classes"), names, _at_step(state)))


def _at_step(state: AnyLabelState) -> ClassesAtStep:
    m = state.metrics
    return ClassesAtStep(m.support, m.predictions, m.hits, label_columns(state), {"known": m.known})


def _table(state: AnyLabelState, names: tuple[str, ...], thresholds: str) -> str:
    m = state.metrics
    shown = m.worst_first[(m.support + m.predictions > 0)[m.worst_first]]
    worst = shown[:TABLE_CLASSES].tolist()
    rows = []
    for c, metrics in zip(worst, class_metrics(worst, label_columns(state), label_specs("classes")), strict=True):
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
        )
    ]
    if len(shown) > TABLE_CLASSES:
        rest = f"The table has the worst {TABLE_CLASSES} of {len(shown):,} labels"
        notes.append(f"{rest}; `classes.csv` beside the event file has all of them.")
    if absent := m.classes - len(shown):
        occur = "occurs" if absent == 1 else "occur"
        notes.append(f"{absent:,} of {plural(m.classes, 'label')} {occur} in no image and no prediction.")
    return f"{markdown_table(titles, 'lrrrlrlrlrr', rows)}\n\n{' '.join(notes)}"

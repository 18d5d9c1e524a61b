"""Fills the landing page: one picture and three curves that show how good the model is. It knows no single image."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.drawing import report_card
from predboard.drawing.report_card import ReportCard
from predboard.formatting import plural
from predboard.metrics import registry
from predboard.metrics.multi_label.label_confusions import NOTHING, LabelConfusions
from predboard.metrics.multi_label.label_state import LabelPairPanel, LabelPairState, LabelState
from predboard.metrics.multi_label.label_values import all_label_metrics
from predboard.metrics.multi_label.label_warnings import label_warnings
from predboard.panels import RunInfo
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import Metric, Picture, Pixels, Scalar, Summary

CURVES = ("average_precision_macro", "f1_macro", "f1_micro")

HEADLINES = ("average_precision_macro", "exact")
"""The first of these metrics that is there is the headline: mAP needs labels that some images have and some lack."""

MANY_LABELS = 50
"""From here on hardly any set is exactly right, so the card has F1 by image instead of the exact match."""


@dataclass(frozen=True)
class Panel(LabelPairPanel):
    """Picture: report card with mAP, exact match, F1, worst labels, errors between labels, warnings. Three scalars."""

    def render(self, info: RunInfo, states: Mapping[int, LabelPairState]) -> Iterator[tuple[int, Summary]]:
        """Yield a card and a point of each curve for each step; the card has the headline of all steps as a curve."""
        values = {step: all_label_metrics(state.metrics) for step, state in states.items()}
        headline = next((name for name in HEADLINES if any(name in v for v in values.values())), HEADLINES[-1])
        spec = registry.require(headline, MULTI_LABEL)
        trend = [(step, *_with_ends(v[headline])) for step, v in values.items() if headline in v]
        for step, metrics in values.items():
            for name in CURVES:
                if name in metrics:
                    yield step, Scalar(f"1_glance/{name}", metrics[name].value, metrics[name].definition)
            point = _with_ends(metrics[headline]) if headline in metrics else None
            label = spec.column or spec.label
            card = functools.partial(_report_card, info, step, states[step], metrics, (label, point), trend)
            yield step, Picture("1_glance/report_card", card, "Start here.")


def _with_ends(metric: Metric) -> tuple[float, float, float]:
    return metric.value, *(metric.interval or (metric.value, metric.value))


def _report_card(
    info: RunInfo,
    step: int,
    state: LabelPairState,
    metrics: Mapping[str, Metric],
    headline: tuple[str, tuple[float, float, float] | None],
    trend: list[tuple[int, float, float, float]],
) -> Pixels:
    names, known, m = info.run.classes, info.steps[step], state.metrics.metrics
    stage_one = [warning.partition(": ")[0] for warning in known.warnings]  # the report says what to do
    warnings = label_warnings(state.metrics, names, known.rows, known.manifest_rows, stage_one)
    if known.rows < known.manifest_rows:
        warnings[0] = warnings[0].partition(": ")[0]
    confusions = LabelConfusions(state.pairs, m, with_nothing=False)
    pairs = [(names[i], names[j], f"{n:,}") for i, j, n in confusions.pairs(4)]
    if not pairs:
        with_nothing = LabelConfusions(state.pairs, m)
        pairs = [((*names, NOTHING)[i], (*names, NOTHING)[j], f"{n:,}") for i, j, n in with_nothing.pairs(4)]
    corrected = "" if known.new_labels is None else plural(known.new_labels.replaced, "corrected label")
    card = ReportCard(
        title="  ·  ".join(filter(None, (info.name, f"step {step}", corrected, info.thresholds and "thresholds"))),
        accuracy=headline[1],
        facts=_facts(state.metrics, metrics, len(names), len(trend) > 1),
        worst=[(names[c], float(m.f1[c]), f"{m.support[c]:,} images") for c in m.worst(3).tolist()],
        pairs=pairs,
        warnings=warnings,
        trend=trend,
        step=step,
        headline=headline[0],
        worst_title="worst labels, by F1",
        no_worst="no decision was wrong",
        pairs_title="missed → wrongly predicted",
    )
    return report_card.draw_report_card(card)


def _facts(state: LabelState, metrics: Mapping[str, Metric], labels: int, few: bool) -> list[tuple[str, str]]:
    """Return names and values for the left of the card; fewer where a curve needs the room."""
    facts = [("images", f"{state.counts.rows:,}")]
    if not few:
        facts.append(("labels", f"{labels:,}"))
    if metrics:
        each = {"true labels": "labels_per_image", "predicted": "predicted_per_image"}
        right = {"F1 by image": "f1_images"} if labels >= MANY_LABELS else {"exact match": "exact"}
        shown = {**({} if few else each), **right, "micro F1": "f1_micro"}
        for name, metric in shown.items():
            facts.append((name, f"{metrics[metric].value:.{2 if name in each else 3}f}"))
    return facts

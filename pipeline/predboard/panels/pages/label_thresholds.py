"""Writes the page on thresholds of labels, and the file that applies them. It knows no image and no histogram."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from predboard.formatting import escape_markdown, markdown_table, percent
from predboard.metrics.grouped import hash_of
from predboard.metrics.multi_label.label_thresholds import (
    COMMON,
    EACH,
    HALF,
    MIN_IMAGES,
    Decided,
    LabelThresholds,
)
from predboard.metrics.threshold_tables import format_threshold

FORMAT = 1
"""Version of `thresholds.json`."""

TABLE_LABELS = 200
"""Rows of the table."""

WAYS = {HALF: "1/2 for all labels", COMMON: "one for all labels", EACH: "one for each label"}
"""What each way is called."""


def probability(log_odds: float) -> float:
    """Return the probability of a logit."""
    return float(1 / (1 + np.exp(-log_odds)))


def thresholds_page(thresholds: LabelThresholds, names: Sequence[str], column: str = "") -> str:
    """Write the page: what each way to choose thresholds does on the other half, and the thresholds of all labels."""
    t, tested = thresholds, thresholds.tested
    rows = []
    for way, words in WAYS.items():
        cells = [words if way != COMMON else f"{words}: {format_threshold(probability(t.common))}"]
        for name, value in tested[way].averages.items():
            half = t.half_widths[way][name]
            cells += [f"{value:.3f}", f"{max(value - half, 0):.3f} to {min(value + half, 1):.3f}" if half > 0 else "–"]
        m = tested[way].margins
        hits, predicted, support = float(m.hits.sum()), float(m.predictions.sum()), float(m.support.sum())
        cells += [percent(hits / predicted) if predicted else "–", percent(hits / support) if support else "–"]
        rows.append(cells)
    titles = ("threshold", "macro F1", "95 %", "micro F1", "95 %", "precision", "recall")
    few = int((~t.own).sum())
    taken = f" {few:,} of {len(names):,} labels do." if few else ""
    return "\n\n".join(
        [
            "# From which probability to accept a label",
            _verdict(thresholds),
            markdown_table(titles, "lrlrlrr", rows),
            f"Thresholds are chosen on one half of the images, by {escape_markdown(hash_of(column))}, and the figures "
            "are those of the **other half**: on the images on which a threshold was chosen it always looks better. "
            "*Precision* and *recall* are of all decisions together.",
            "### Each label",
            _table(thresholds, names),
            "*Images*: in the half where thresholds are chosen, and in the other. F1, its interval (Wilson score of "
            "the Jaccard index), precision and recall are those of the other half. A threshold fits the images that it "
            f"was chosen on, so a label with fewer than {MIN_IMAGES} takes the common one, marked *common*.{taken}",
            "`thresholds.json` beside the event file has all of them, with all digits.",
        ]
    )


def _verdict(t: LabelThresholds) -> str:
    half, each = (t.tested[way].averages["f1_macro"] for way in (HALF, EACH))
    if each > half:
        return f"**One threshold for each label raises macro F1 from {half:.3f} to {each:.3f}**, and changes no logit."
    return f"One threshold for each label does not raise macro F1: {half:.3f} at 1/2, {each:.3f} with them."


def _table(t: LabelThresholds, names: Sequence[str]) -> str:
    at_half, own = t.tested[HALF], t.tested[EACH]
    lower, upper = own.f1_ends
    gain = own.f1 - at_half.f1
    order = np.lexsort((np.arange(len(names)), -own.support, -gain))[:TABLE_LABELS]
    rows = []
    for c in order.tolist():
        precision = percent(own.hits[c] / own.predictions[c]) if own.predictions[c] else "–"
        rows.append(
            (
                escape_markdown(names[c]),
                f"{t.fitted[HALF].support[c]:,}",
                f"{own.support[c]:,}",
                format_threshold(probability(float(t.log_odds[c]))) + ("" if t.own[c] else " *common*"),
                f"{at_half.f1[c]:.3f}",
                f"{own.f1[c]:.3f}",
                f"{lower[c]:.3f} to {upper[c]:.3f}",
                f"{gain[c]:+.3f}",
                precision,
                percent(own.hits[c] / own.support[c]) if own.support[c] else "–",
            )
        )
    titles = ("label", "images", "other half", "from", "F1 at 1/2", "F1", "95 %", "gain", "precision", "recall")
    rest = len(names) - len(rows)
    more = f"\n\n`thresholds.json` has {rest:,} more labels." if rest else ""
    return markdown_table(titles, "lrrrrrlrrr", rows) + more


def thresholds_json(
    thresholds: LabelThresholds, names: Sequence[str], run: str, step: int, fingerprint: str, column: str = ""
) -> bytes:
    """Return `thresholds.json`: the threshold of each label, and its figures on both halves.

    JSON without NaN or Infinity. A label is accepted if its logit is at least `log_odds`, which has all digits.

    Args:
        thresholds: what was found.
        names: of the labels.
        run: name of the run.
        step: at which the thresholds were found.
        fingerprint: of the run at that step.
        column: whose equal values make images belong together; empty if each stands for itself.
    """
    t = thresholds
    record = {
        "predboard_thresholds": FORMAT,
        "run": run,
        "step": step,
        "fingerprint": fingerprint,
        "rule": "a label is predicted if its probability is at least `probability`, its logit at least `log_odds`",
        "fitted": f"the half of the images, by {hash_of(column)}, on which the thresholds were chosen",
        "tested": "the other half",
        "common": _threshold(t.common),
        "averages": {
            way: {"fitted": t.fitted[way].averages, "tested": t.tested[way].averages} for way in (HALF, COMMON, EACH)
        },
        "labels": {
            name: {
                **_threshold(float(t.log_odds[c])),
                "own": bool(t.own[c]),
                "fitted": _figures(t.fitted[EACH], c),
                "tested": _figures(t.tested[EACH], c),
                "tested_at_half": _figures(t.tested[HALF], c),
            }
            for c, name in enumerate(names)
        },
    }
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _threshold(log_odds: float) -> dict[str, float]:
    return {"probability": probability(log_odds), "log_odds": log_odds}


def _figures(decided: Decided, label: int) -> dict[str, Any]:
    lower, upper = (float(end[label]) for end in decided.f1_ends)
    return {
        "images": int(decided.support[label]),
        "predicted": int(decided.predictions[label]),
        "hits": int(decided.hits[label]),
        "f1": float(decided.f1[label]),
        "f1_lower": lower,
        "f1_upper": upper,
    }

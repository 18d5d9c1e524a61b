"""Figures of a run -> a first file of rules that this run passes, to be edited. Knows no files and no predictions."""

import json
import math
from collections.abc import Iterator, Mapping

from predboard.comparison.differences import Difference
from predboard.formatting import plural
from predboard.gating.evaluate import format_change, format_number, group_name
from predboard.gating.rules import Rule
from predboard.summaries import Metric

SUGGESTED_METRICS = (
    *("accuracy", "f1_macro", "calibration/ece", "images/failed", "images/counted"),
    *("classes/*/support", "classes/*/recall", "slices/*/accuracy"),
)
"""Figures that `suggest_rules` looks at, `*` for a class or a slice."""

SLICES = 2
"""Slices that get a rule: those that are clearly worse than all images, the worst first."""

LEAST = 50
"""Images that such a slice must have."""

DROP = 0.005
"""Of the accuracy that is allowed, if the run has not lost more."""

DROP_OF_A_CLASS = 0.02


def suggest_rules(
    run: str, step: int, figures: Mapping[str, Metric], differences: Mapping[str, Difference], unpaired: float = 0.0
) -> str:
    """TOML with comments. Every limit is rounded to the side on which the run passes.

    Args:
        run, step: what it is made from.
        figures: its figures by name.
        differences: from the baseline, by name; none without one.
        unpaired: share of the images of either run that are not in these.
    """
    parts = [
        f"# Rules for `predboard gate`, made from {_comment(run)}, step {step}.\n"
        "# Limits are where the 95 % intervals of its own figures end, so that it passes: make them what you need.\n"
        "# docs/gates.md explains all keys."
    ]
    for record, said in (*_rules(figures), *_drops(differences, unpaired)):
        keys = [f"{key} = {_value(value)}" for key, value in record.items()]
        parts.append("\n".join(["[[rule]]", *keys[:-1], f"{keys[-1]}{f'  # {_comment(said)}' if said else ''}"]))
    if "accuracy" not in figures:
        parts.append("# No image has both logits and a label, so there is nothing else to test.")
    return "\n\n".join(parts) + "\n"


def _rules(figures: Mapping[str, Metric]) -> Iterator[tuple[dict[str, str | float], str]]:
    """Keys and values of each rule, and a remark on the last of them."""
    if "accuracy" in figures:
        said = f'{_told(figures["accuracy"])}; with bound = "lower" it asks for proof'
        yield {"metric": "accuracy", "min": _down(figures["accuracy"])}, said
    if "f1_macro" in figures:
        yield {"metric": "f1_macro", "min": _down(figures["f1_macro"])}, _told(figures["f1_macro"])
    if "calibration/ece" in figures:
        yield {"metric": "calibration/ece", "max": _up(figures["calibration/ece"])}, _told(figures["calibration/ece"])
    classes = [
        name.removesuffix("/support") for name in figures if name.startswith("classes/") and name.endswith("/support")
    ]
    recalls = {name: figures[f"{name}/recall"] for name in classes if f"{name}/recall" in figures}
    if recalls and len(recalls) == len(classes) > 1:
        name, lowest = min(recalls.items(), key=lambda item: _down(item[1]))
        if _down(lowest) > 0:
            said = f"every class; lowest is {group_name(name + '/recall')}, {_told(lowest)}"
            yield {"metric": "classes/*/recall", "min": _down(lowest)}, said
    for name, figure in _weak(figures):
        yield {"metric": name, "min": _down(figure)}, f"{_told(figure)}, {plural(figure.rows or 0, 'image')}"
    if "images/failed" in figures:
        yield {"metric": "images/failed", "max": figures["images/failed"].value}, ""
        if figures["images/counted"].value:
            yield {"metric": "images/counted", "min": figures["images/counted"].value}, "no fewer than now"


def _drops(differences: Mapping[str, Difference], unpaired: float) -> Iterator[tuple[dict[str, str | float], str]]:
    """Rules against the baseline: how much is lost on the whole, and whether a class clearly loses."""
    more: dict[str, str | float] = {}
    if unpaired > Rule.max_unpaired:
        more["max_unpaired"] = math.ceil(unpaired * 100) / 100
    if "accuracy" in differences:
        of = differences["accuracy"]
        said = f"now {format_change(of.difference)} over {plural(of.rows, 'image')}" + (
            f" ({_span(of)})" if of.interval else ""
        )
        yield {"metric": "accuracy", **more, "max_drop": max(DROP, _ceil(-of.difference))}, said
    recalls = {
        n: d for n, d in differences.items() if n.startswith("classes/") and n.endswith("/recall") and d.interval
    }
    if recalls:
        name, of = min(recalls.items(), key=lambda item: (item[1].interval or (0, 0))[1])
        limit = max(DROP_OF_A_CLASS, _ceil(-(of.interval or (0, 0))[1]))
        record = {"metric": "classes/*/recall", **more, "bound": "upper", "max_drop": limit}
        yield (
            record,
            f"no class surely loses more; nearest is {group_name(name)}, {format_change(of.difference)} ({_span(of)})",
        )


def _span(of: Difference) -> str:
    return " to ".join(map(format_change, of.interval or ()))


def _weak(figures: Mapping[str, Metric]) -> list[tuple[str, Metric]]:
    """Accuracies of values of a column that are clearly below that of all images, the lowest first. Ranges are left
    out: where they are cut depends on the images.
    """
    found = [
        (name, figure)
        for name, figure in figures.items()
        if name.startswith("slices/") and name.endswith("/accuracy") and "=" in name
        if (figure.rows or 0) >= LEAST and figure.interval is not None
        if figure.interval[1] < figures["accuracy"].value and _down(figure) > 0
    ]
    return sorted(found, key=lambda item: (item[1].value, item[0]))[:SLICES]


def _down(figure: Metric) -> float:
    """The lower end, else the value, rounded down to three decimals; 0 and below is 0."""
    end = figure.value if figure.interval is None else figure.interval[0]
    return max(math.floor(end * 1000) / 1000, 0.0)


def _up(figure: Metric) -> float:
    return _ceil(figure.value if figure.interval is None else figure.interval[1])


def _ceil(value: float) -> float:
    return math.ceil(value * 1000) / 1000


def _told(figure: Metric) -> str:
    ends = "" if figure.interval is None else f" ({' to '.join(map(format_number, figure.interval))})"
    return f"{format_number(figure.value)}{ends}"


def _value(value: str | float) -> str:
    """As TOML has it, whose texts are JSON's but for one control character."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _comment(text: str) -> str:
    """On one line and without control characters, which TOML does not allow in a comment."""
    return "".join(c if c.isprintable() else " " for c in text)

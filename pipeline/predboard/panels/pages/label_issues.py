"""The page on labels that may be wrong, and its table for other tools. It knows no thresholds and no pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.csv_lines import TextCodes, format_csv_lines
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.predictions.table import TOP_CLASSES, TileRows
from predboard.state import Counted


@dataclass(frozen=True)
class LabelIssues:
    """The facts that the page states about the labels of one step."""

    names: tuple[str, ...]
    """Names of the classes."""
    labelled: int
    """Labelled images."""
    suspected: int
    """Images whose label may be wrong."""
    estimated_share: float
    """Share of wrong labels, by confident learning."""
    overlooked: int
    """Images that may be suspected as well: only a class beyond the stored ones may stand out on them."""
    is_near_chance: bool
    """Whether the model is too poor to doubt a label."""
    joint: Counted
    """Images by label * classes + the class that stands out."""
    suspects: TileRows
    """The suspected images, the most likely first, with `suspected`; at most as many as `suspects.csv` holds."""
    duplicates: TileRows
    """Images that may occur more than once, with `digest`."""
    clashing: NDArray[np.int64]
    """Places in `duplicates` of equal images with different labels, equal images together."""
    possible_duplicates: int
    """Images that may occur more than once; `duplicates` is a sample of them if there are more."""


def label_issues_page(issues: LabelIssues, listed: int, csv_rows: int) -> str:
    """Write the page.

    Args:
        issues: what it says.
        listed: rows of a table.
        csv_rows: rows of `suspects.csv` at most.
    """
    limit = (
        "This is exact here."
        if not issues.overlooked
        else f"Only the {TOP_CLASSES} most probable classes of an image are examined: on at most "
        f"{plural(issues.overlooked, 'further image')} another one may stand out, and the label be suspected."
    )
    doubt = (
        "**The model is not clearly better than always predicting one class, so it says nothing about labels.** What "
        "follows is for a better one.\n\n"
    )
    parts = [
        f"{doubt * issues.is_near_chance}**{issues.suspected:,} of {issues.labelled:,} labels are suspected to be "
        f"wrong.** Confident learning (Northcutt et al. 2021) estimates that {percent(issues.estimated_share)} of all "
        "labels are wrong. This holds only for images that the model was not trained on: a model that has learned a "
        "wrong label agrees with it.",
        "A class *stands out* on an image if its probability is at least its mean probability over the images with "
        "that label; of several the predicted class counts. A label is suspected if another class stands out and the "
        "model predicts another class, as cleanlab has it. " + limit,
        _classes(issues, listed // 4),
        _suspects(issues, listed),
    ]
    more = issues.suspected - min(len(issues.suspects["id"]), listed)
    if len(issues.suspects["id"]) and more:
        parts.append(f"{more:,} more are not listed; `suspects.csv` holds the first {csv_rows:,} of all.")
    parts.append(_duplicates(issues, listed))
    return "\n\n".join(part for part in parts if part)


def _classes(issues: LabelIssues, limit: int) -> str:
    """List the most frequent pairs of a label and another class that stands out."""
    names, joint = issues.names, issues.joint
    label, suspected = np.divmod(joint.value, len(names))
    off = label != suspected
    label, suspected, count = label[off], suspected[off], joint.count[off]
    order = np.lexsort((suspected, label, -count))[:limit]
    rows = [
        (escape_markdown(names[label[i]]), escape_markdown(names[suspected[i]]), f"{count[i]:,}")
        for i in order.tolist()
    ]
    table = markdown_table(("label", "suspected", "images"), "llr", rows)
    return f"### Labels that may be wrong, by class\n\n{table}" if rows else ""


def _suspects(issues: LabelIssues, limit: int) -> str:
    """List the images whose label is most likely wrong."""
    names, rows = issues.names, issues.suspects
    lines = [
        (
            str(rows["id"][i]),
            escape_markdown(str(rows["image"][i] or "")),
            escape_markdown(names[rows["label"][i]]),
            escape_markdown(names[rows["suspected"][i]]),
            percent(float(np.exp(-rows["loss"][i]))),
            percent(_suspected_probability(rows, i)),
        )
        for i in range(min(len(rows["id"]), limit))
    ]
    titles = ("row", "image", "label", "suspected", "p(label)", "p(suspected)")
    return f"### Most suspicious labels\n\n{markdown_table(titles, 'rlllrr', lines)}" if lines else ""


def _suspected_probability(rows: TileRows, i: int) -> float:
    """Return the probability of the suspected class of one image; that class is among the most probable."""
    return float(rows["top_probability"][i][rows["top_class"][i] == rows["suspected"][i]].sum())


def _duplicates(issues: LabelIssues, limit: int) -> str:
    """Say which images occur more than once, and list those of them with different labels."""
    names, rows, clashing, possible = issues.names, issues.duplicates, issues.clashing, issues.possible_duplicates
    _, count = np.unique(rows["digest"], return_counts=True)
    repeated = count[count > 1]
    if not len(repeated):
        return "No image occurs more than once." if len(count) or not possible else ""
    occur = plural(len(repeated), "image occurs", "images occur")
    text = f"### Duplicate images\n\n{occur} more than once, byte for byte, in {int(repeated.sum()):,} rows"
    if possible > len(rows["id"]):
        text += f" (of {len(rows['id']):,} rows examined, a random sample of {possible:,} that may be duplicates)"
    if not len(clashing):
        return f"{text}. None of them has different labels."
    different = plural(len(np.unique(rows["digest"][clashing])), "of them has", "of them have")
    lines = [
        (str(rows["id"][i]), escape_markdown(str(rows["image"][i] or "")), escape_markdown(names[rows["label"][i]]))
        for i in clashing[:limit].tolist()
    ]
    return f"{text}. {different} different labels:\n\n{markdown_table(('row', 'image', 'label'), 'rll', lines)}"


def suspects_csv(rows: TileRows, names: tuple[str, ...]) -> bytes:
    """Write `suspects.csv`: a line for each suspect, the most likely first."""
    header = "row,key,image,label,suspected,predicted,confidence,probability_of_label\n"
    images = [image or "" for image in rows["image"].tolist()]
    classes = [TextCodes(names, rows[column]) for column in ("label", "suspected", "predicted")]
    label_probability = np.exp(-rows["loss"])
    return header.encode() + format_csv_lines(
        [rows["id"], rows["key"], images, *classes, rows["confidence"], label_probability]
    )

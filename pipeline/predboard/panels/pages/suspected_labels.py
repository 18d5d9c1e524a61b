"""Writes the page and the file of labels that may be wrong, where images have several. It knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.predictions.table import TileRows

DIGITS = 6
"""Significant digits in `suspects.csv`."""


@dataclass(frozen=True)
class SuspectedLabels:
    """The content of the page."""

    names: Sequence[str]
    support: NDArray[np.int64]
    """[classes] images that have each label."""
    by_label: NDArray[np.int64]
    """[lacking and too many, classes] suspected decisions."""
    decisions: TileRows
    """Suspected decisions, the likeliest first: what `tile_rows` has of their images, and `suspected` (the label),
    `suspected_probability` and `is_given`."""
    suspected: int
    suspected_images: int
    lacking: int
    too_many: int


def suspected_labels_page(issues: SuspectedLabels, listed: int, csv_rows: int) -> str:
    """Write the page; at most `listed` rows of each table, and `csv_rows` decisions in the file."""
    if not issues.suspected:
        return "# Labels that may be wrong\n\nNo label is suspected."
    rest = f", the likeliest {csv_rows:,} of them" if issues.suspected > csv_rows else ""
    return "\n\n".join(
        [
            "# Labels that may be wrong",
            f"**{plural(issues.suspected, 'label')} of {plural(issues.suspected_images, 'image')} may be wrong**: "
            f"{issues.lacking:,} may be lacking, {issues.too_many:,} too many. The model contradicts them with more "
            "confidence than it usually has (confident learning, each label against the rest). It may be wrong itself: "
            "look at the images in `examples/suspected_label_errors` before changing a label.",
            _by_label(issues, listed),
            "### The likeliest",
            _likeliest(issues, listed),
            f"`suspects.csv` beside the event file lists them{rest}.",
        ]
    )


def _by_label(issues: SuspectedLabels, listed: int) -> str:
    lacking, too_many = issues.by_label
    order = np.lexsort((np.arange(len(issues.names)), -(lacking + too_many)))[:listed]
    rows = [
        (
            escape_markdown(issues.names[c]),
            f"{issues.support[c]:,}",
            f"{too_many[c]:,}",
            percent(too_many[c] / issues.support[c]) if issues.support[c] else "–",
            f"{lacking[c]:,}",
        )
        for c in order.tolist()
        if lacking[c] + too_many[c]
    ]
    return markdown_table(("label", "images", "too many", "of its images", "lacking"), "lrrrr", rows)


def _likeliest(issues: SuspectedLabels, listed: int) -> str:
    d = issues.decisions
    rows = [
        (
            escape_markdown(str(image or "")),
            str(row),
            escape_markdown(issues.names[label]),
            "given" if given else "not given",
            f"{p:.4f}",
        )
        for image, row, label, given, p in zip(
            *(d[name][:listed].tolist() for name in ("image", "id", "suspected", "is_given", "suspected_probability")),
            strict=True,
        )
    ]
    return markdown_table(("image", "row", "label", "it is", "probability"), "lrllr", rows)


def suspected_labels_csv(issues: SuspectedLabels) -> bytes:
    """Return `suspects.csv`: a line for each suspected decision, the likeliest first."""
    d = issues.decisions
    header = b"image,row,suspected,given,probability\n"
    images = [str(image or "") for image in d["image"]]
    columns: list[csv_lines.CsvColumn] = [
        images,
        d["id"],
        TextCodes(issues.names, d["suspected"]),
        d["is_given"].astype(np.int64),
    ]
    return header + csv_lines.format_csv_lines([*columns, d["suspected_probability"]], DIGITS)

"""Names the labels and predictions of rows as tiles show them. It knows no pictures."""

from collections.abc import Sequence

from predboard.predictions.table import TILE_CLASSES, TileRows

NONE = "none"
"""Name of an empty set of labels."""


def name_labels(rows: TileRows, classes: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """Return the names of the true and of the predicted classes of some rows, None where the labels are not known.

    Of several labels of a row the first few are named, and how many more there are: `cloud, river, road +2`.

    Args:
        rows: as `tile_rows` returns them.
        classes: names.
    """
    if "label" in rows:
        true = [classes[label] if label >= 0 else None for label in rows["label"].tolist()]
        return true, [classes[label] for label in rows["predicted"].tolist()]

    def name(labels: list[int], count: int) -> str:
        listed = ", ".join(classes[label] for label in labels[:count])
        return f"{listed} +{count - TILE_CLASSES}" if count > TILE_CLASSES else listed or NONE

    def name_all(kind: str) -> list[str]:
        return list(map(name, rows[f"{kind}_class"].tolist(), rows[f"{kind}_count"].tolist()))

    known = rows["is_labelled"].tolist()
    return [text if k else None for k, text in zip(known, name_all("true"), strict=True)], name_all("predicted")

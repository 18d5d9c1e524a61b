"""Draws rows as tiles: what a tile says of a row of one label, and of one with a set of them. It knows no files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.label_tiles import LabelTileText, draw_label_tile
from predboard.drawing.tiles import TileText, draw_tile
from predboard.predictions.table import TileRows


def draw_row(
    image: Image.Image | None, rows: TileRows, i: int, classes: Sequence[str], ref: str, shared: int
) -> Image.Image:
    """Draw the tile of one row.

    Args:
        image: fitted; None if it was not found.
        rows: as `tile_rows` returns them, of one label each or of sets of them.
        i: place of the row.
        classes: names.
        ref: name of the image.
        shared: characters at its beginning that all names beside it have.
    """
    loss = float(rows["loss"][i])
    known: dict[str, Any] = {"name": ref, "shared": shared, "id": int(rows["id"][i])}

    def named(places: NDArray[np.int64], probabilities: NDArray[np.float32]) -> list[tuple[str, float]]:
        return [
            (classes[c], float(p)) for c, p in zip(places[i].tolist(), probabilities[i].tolist(), strict=True) if c >= 0
        ]

    if "label" in rows:
        label = int(rows["label"][i])
        true, top = classes[label] if label >= 0 else None, named(rows["top_class"], rows["top_probability"])
        return draw_tile(image, TileText(true, top, loss=None if label < 0 or loss != loss else loss, **known))
    is_labelled = bool(rows["is_labelled"][i])
    sets = {kind: named(rows[kind], rows[f"{kind}_probability"]) for kind in ("missed", "wrongly_predicted", "hit")}
    counts = [int(rows[f"{kind}_count"][i]) for kind in ("missed", "wrongly_predicted", "hit")]
    if not is_labelled:
        sets["hit"] = [(name, p) for name, p in named(rows["top_class"], rows["top_probability"]) if p > 0.5]
        counts[2] = int(rows["predicted_count"][i])
    text = LabelTileText(
        missed=sets["missed"],
        wrong=sets["wrongly_predicted"],
        right=sets["hit"],
        missed_count=counts[0],
        wrong_count=counts[1],
        right_count=counts[2],
        is_labelled=is_labelled,
        loss=None if loss != loss else loss,
        confidence=float(rows["confidence"][i]),
        **known,
    )
    return draw_label_tile(image, text)

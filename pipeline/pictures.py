"""Rows -> their source pictures, as tiles with words. Knows no panels and no event files."""

import contextlib
import functools
from pathlib import Path

from PIL import Image

from pipeline import draw, events, images, sources, store
from pipeline.config import Exif
from pipeline.store import Step
from pipeline.summaries import Encoded, Tiles

KEPT = 512
"""Fitted source pictures in memory, at most 115 kB each: the same image is in many galleries and steps."""


class Pictures:
    """Source pictures by row: from the source, else from the thumbnail that the predictions hold."""

    def __init__(self, steps: tuple[Step, ...], image_root: Path | None) -> None:
        """Of these steps. `image_root` is where the source pictures are now, if they were moved."""
        self._steps = {step.step: step for step in steps}
        self._root = image_root
        # Where all steps find the same pictures, one step stands for all.
        same = len({(s.run.root, s.run.transform.get("exif"), s.run.thumbnails) for s in steps}) == 1
        self._shared = steps[0].step if same and not steps[0].run.thumbnails else None
        self.missing: set[str] = set()
        self._fitted = functools.lru_cache(KEPT)(self._fit)

    def encode(self, step: int, tiles: Tiles) -> Encoded:
        """The tiles with their words: PNG where a picture was enlarged or is missing, JPEG where it was reduced."""
        run, rows, samples = self._steps[step].run, tiles.rows, []
        for i in range(len(rows["id"])):
            label, loss = int(rows["label"][i]), float(rows["loss"][i])
            words = draw.Words(
                true=run.classes[label] if label >= 0 else None,
                top=[
                    (run.classes[c], float(p))
                    for c, p in zip(rows["top_class"][i], rows["top_probability"][i], strict=True)
                ],
                name=str(rows["image"][i] or ""),
                id=int(rows["id"][i]),
                loss=loss if label >= 0 else None,
            )
            picture, exact = self._fitted(step if self._shared is None else self._shared, words.id, words.name)
            pixels = draw.tile(picture, words)
            samples.append(events.png(pixels) if exact else events.jpeg(pixels))
        return Encoded(tiles.tag, draw.WIDTH, draw.HEIGHT, tuple(samples), tiles.description)

    def _fit(self, step: int, row: int, ref: str) -> tuple[Image.Image | None, bool]:
        """A fitted picture, and whether it is shown with its own pixels."""
        run = self._steps[step].run
        exif: Exif = "apply" if run.transform.get("exif") == "apply" else "ignore"
        root = run.root if self._root is None else str(self._root)
        ways = ["source", "thumbnail"] if run.thumbnails else ["source"]
        if "dataset" in run.transform:  # its item may be a part of its file
            ways.reverse()
        for way in ways:
            stored = store.pick(self._steps[step], [row], "thumbnail").get(row) if way == "thumbnail" else None
            with contextlib.suppress(Exception):  # as in stage one, a picture file may fail in any way
                if way == "source":
                    return draw.fit_picture(images.open_image(sources.read(root, ref), exif=exif))
                if stored is not None:
                    return draw.fit_picture(images.open_image(stored))
        self.missing.add(ref)  # the tile and the count say so
        return None, True

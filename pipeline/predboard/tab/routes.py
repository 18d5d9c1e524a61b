"""Turns the parameters of a request into the bytes of its answer. It knows nothing of headers, methods and sockets.

Every parameter has a limit, and one that is not understood is refused by one sentence.
"""

import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.storage.runs import release_memory
from predboard.tab import selection
from predboard.tab.answers import View, class_order
from predboard.tab.columns import StepRows
from predboard.tab.export import FORMATS, export_rows
from predboard.tab.log_runs import LogRun
from predboard.tab.query import Query, read_query
from predboard.tab.shared_tags import find_key
from predboard.tab.tags import check_tag
from predboard.tab.thumbnails import PNG_START, SIDES

Parameters = Mapping[str, Sequence[str]]

MAX_ROWS = 1000
"""Rows of one page."""

MAX_BINS = 200
MAX_NEIGHBOURS = 48
MAX_PICTURES = 64
"""Pictures of one answer."""

MAX_TAGGED = 10_000
"""Images that one request may name by their keys."""

MAX_COLUMNS = 100
"""Columns of one page of rows."""

MIN_MADE_BYTES = 2**20
"""Bytes of columns after whose reading memory is given back."""

RELEASE_SECONDS = 1.0
"""Time after which memory that reading columns took is given back, unless more is read."""

BINARY = "application/octet-stream"

_ANY = 2**62


class NotFoundError(InputError):
    """What was asked for is not there."""

    status = 404


@dataclass(frozen=True)
class Answer:
    """The answer to a request; without content there is nothing to show, and nothing wrong."""

    content: bytes
    content_type: str = "application/json"
    etag: str = ""
    """Names the content where a browser should hold it."""
    is_compressed: bool = False
    """Whether compressing it would be of no use."""
    immutable: bool = False
    """Whether the same address will have the same content as long as it lives."""
    filename: str = ""
    """Name under which a browser should save the content; empty if it should not."""


class Routes:
    """Answers the requests of the tab."""

    def __init__(self, logdir: Path) -> None:
        """Look at nothing yet."""
        # Arrow's own pools keep 30 MB of what reading a step's columns took; what malloc has can be given back.
        pa.set_memory_pool(pa.system_memory_pool())
        self._view = View(logdir)
        self._released_at = 0
        self._release = threading.Timer(0, release_memory)
        self._answers: dict[str, Callable[[_Request], Answer]] = {
            "confusion": self._confusion,
            "order": lambda request: _json({"order": class_order(request.step)}),
            "rows": self._rows,
            "row": self._row,
            "hist": self._histogram,
            "curve": self._curve,
            "compare": lambda request: _json(self._view.compare(request.query, request.run, request.step)),
            "points": self._points,
            "mask": self._mask,
            "values": self._values,
            "images": self._images,
            "image": self._image,
            "neighbours": self._neighbours,
            "export": self._export,
        }

    def warm(self) -> None:
        """Read what the first view of the first run needs, that which is shown unless the address names another."""
        runs = self._view.runs.all()
        if runs:
            run = runs[min(runs)]
            step = run.rows.last
            _, rows = self._view.rows(Query(), run, step, "loss", True, 0, 1)
            self._view.describe_rows(Query(), run, step, rows)
            _ = step.classes.cells
            step.texts("image")
            self._release_soon()

    def _release_soon(self) -> None:
        """Give unused memory back when nothing has been read for a while: some 40 MB after the first view."""
        made = self._view.runs.cache.made
        if made > self._released_at + MIN_MADE_BYTES:
            self._released_at = made
            self._release.cancel()
            self._release = threading.Timer(RELEASE_SECONDS, release_memory)
            self._release.daemon = True
            self._release.start()

    def read(self, name: str, parameters: Parameters) -> Answer:
        """Answer a request that changes nothing. Raises InputError for a parameter that is not understood."""
        if name == "runs":
            return _json(self._view.list_runs())
        answer = self._answers[name](_Request(self._view, parameters))
        self._release_soon()
        return answer

    def write(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change tags, and return how many images have each. Raises InputError for what is not understood."""
        if name == "undo":
            undone = self._view.tags.undo()
            done = undone and {"tag": undone.tag, "on": undone.on, "images": len(undone.keys)}
            return {"tags": self._view.tags.counts(), "undone": done}
        tag, on, label = body.get("tag"), body.get("on"), body.get("label")
        if not isinstance(tag, str) or not isinstance(on, bool) or not (label is None or isinstance(label, str)):
            raise InputError("expected a tag, on (true or false), and keys or a query")
        check_tag(tag)
        changed = self._view.tags.change(tag, on, self._tagged_keys(body, on), label)
        return {"tags": self._view.tags.counts(), "changed": changed}

    def _tagged_keys(self, body: Mapping[str, Any], on: bool) -> NDArray[np.int64]:
        """Return the keys of the images whose tags change; a tag is taken off all names of an image."""
        keys, query = body.get("keys"), body.get("query")
        if keys is not None and (not isinstance(keys, list) or not 0 < len(keys) <= MAX_TAGGED):
            raise InputError(f"expected 1 to {MAX_TAGGED:,} keys")
        asked = np.array([_read_key(key) for key in keys or ()], np.int64)
        if not isinstance(query, str):
            if keys is None:
                raise InputError("expected keys, or a query")
            return asked
        request = _Request(self._view, urllib.parse.parse_qs(query, keep_blank_values=True))
        run, step = request.run, request.step
        if keys is None:
            rows = selection.chosen_rows(self._view.mask(request.query, run, step), step.rows)
        else:
            rows = find_key(step, asked)
        own, *others = self._view.shared_tags(run, step).keys_of(rows[rows >= 0])
        return np.unique(np.concatenate([asked, own, *(() if on else others)]))

    def _confusion(self, request: "_Request") -> Answer:
        query, axes = request.query, request.one_of("axes", ("true", "old"), "true")
        if axes == "old":
            if query.other is None:
                raise InputError("axes=old needs other=RUN@STEP, the step to compare with")
            mask = self._view.mask(query.without("predicted", "was"), request.run, request.step)
            cells = selection.change_matrix(self._view.runs.pair(request.step, query.other), mask)
        else:
            mask = self._view.mask(query.without(*request.step.classes.matrix), request.run, request.step)
            cells = selection.confusion(request.step, mask)
        return Answer(cells.astype("<i4").tobytes(), BINARY)

    def _rows(self, request: "_Request") -> Answer:
        sort = request.text("sort", "id")
        descending = request.one_of("desc", ("0", "1"), "0") == "1"
        offset, limit = request.number("offset", _ANY, 0), request.number("limit", MAX_ROWS, 100)
        columns = [column for column in request.text("columns").split(",") if column]
        if len(columns) > MAX_COLUMNS:
            raise InputError(f"{len(columns)} columns; expected at most {MAX_COLUMNS}")
        query, run, step = request.query, request.run, request.step
        total, rows = self._view.rows(query, run, step, sort, descending, offset, limit)
        return _json({"total": total, "rows": self._view.describe_rows(query, run, step, rows, columns)})

    def _row(self, request: "_Request") -> Answer:
        return _json(self._view.describe_row(request.query, request.run, request.step, request.row()))

    def _histogram(self, request: "_Request") -> Answer:
        column, bins = request.text("column"), request.number("bins", MAX_BINS, 60, least=1)
        return _json(self._view.histogram(request.query, request.run, request.step, column, bins))

    def _curve(self, request: "_Request") -> Answer:
        classes = len(request.run.rows.classes)
        index = request.number("class", classes - 1) if request.text("class") else None
        return _json(self._view.curve(request.query, request.run, request.step, index))

    def _points(self, request: "_Request") -> Answer:
        points = request.run.points(request.step)
        if points is None:
            raise NotFoundError("there is no map of the images: run predboard visualize --map always")
        planes = [*points, request.step.verdict, *map(request.step.classes.first, ("true", "predicted"))]
        content = b"".join(plane.astype("<i2").tobytes() for plane in planes)
        return Answer(content, BINARY, immutable=request.is_current)

    def _mask(self, request: "_Request") -> Answer:
        mask = self._view.mask(request.query, request.run, request.step)
        bits = np.ones(request.step.rows, bool) if mask is None else mask
        return Answer(np.packbits(bits, bitorder="little").tobytes(), BINARY)

    def _values(self, request: "_Request") -> Answer:
        step, column = request.step, request.run.rows.column(request.text("column"), "number", "category")
        if column.kind == "number":
            return Answer(step.numbers(column.name).astype("<f4").tobytes(), BINARY, immutable=request.is_current)
        codes, names = step.category(column.name)
        place = {value: i for i, value in enumerate(column.values)}
        listed = np.array([place[name] for name in names] + [-1], "<i2")
        return Answer(listed[codes].tobytes(), BINARY, immutable=request.is_current)

    def _images(self, request: "_Request") -> Answer:
        rows = request.numbers("ids", request.step.rows - 1, MAX_PICTURES)
        side = int(request.one_of("side", [str(side) for side in SIDES[:3]], "128"))
        pictures = [self._view.pictures.encode(request.run, request.step, row, side) for row in rows]
        lengths = np.array([len(picture) for picture in pictures], "<u4")
        content = lengths.tobytes() + b"".join(pictures)
        return Answer(content, BINARY, is_compressed=True, immutable=request.is_current)

    def _image(self, request: "_Request") -> Answer:
        row, side = request.row(), int(request.one_of("side", [str(side) for side in SIDES], "128"))
        picture = self._view.pictures.encode(request.run, request.step, row, side)
        if not picture:  # an error would be a red line in the browser's console for each image that is not there
            return Answer(b"")
        kind = "image/png" if picture.startswith(PNG_START) else "image/jpeg"
        etag = f"{request.run.version}-{request.step.step}-{row}-{side}"
        return Answer(picture, kind, etag, immutable=request.is_current)

    def _neighbours(self, request: "_Request") -> Answer:
        limit = request.number("limit", MAX_NEIGHBOURS, 12, least=1)
        return _json(self._view.neighbours(request.query, request.run, request.step, request.row(), limit))

    def _export(self, request: "_Request") -> Answer:
        format_ = request.one_of("format", list(FORMATS), "csv")
        query, run, step = request.query, request.run, request.step
        if request.text("ids"):
            rows = np.array(request.numbers("ids", step.rows - 1, MAX_ROWS), np.int64)
        else:
            descending = request.one_of("desc", ("0", "1"), "0") == "1"
            _, rows = self._view.rows(query, run, step, request.text("sort", "id"), descending, 0, None)
        ending = "txt" if format_ == "paths" else format_
        name = f"{run.name.replace('/', '_')}-step-{step.step}.{ending}"
        return Answer(export_rows(self._view, run, step, rows, format_), FORMATS[format_], filename=name)


class _Request:
    """The parameters of a request, with the run and the step that they name."""

    def __init__(self, view: View, parameters: Parameters) -> None:
        self._parameters = parameters
        self.query: Query = read_query(parameters)
        name = self.text("run")
        if not name:
            raise InputError("run is missing; expected the name of a run")
        if name not in view.runs.all():
            raise NotFoundError(view.runs.broken().get(name) or f"there is no run {name[:80]!r} in the log folder")
        self.run: LogRun = view.runs.get(name)
        number = self.number("step", _ANY) if self.text("step") else None
        if number is not None and number not in self.run.rows.steps:
            raise NotFoundError(f"{name} has no step {number}")
        self.step: StepRows = self.run.step(number)

    @property
    def is_current(self) -> bool:
        """Whether the address names the run as it is now, so that its answer never changes."""
        return self.text("v") == self.run.version

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter."""
        values = self._parameters.get(name, ())
        if len(values) > 1:
            raise InputError(f"{name} is given {len(values)} times: expected once")
        return values[0] if values and values[0] else default

    def one_of(self, name: str, options: Sequence[str], default: str) -> str:
        """Return a parameter that has one of some values."""
        value = self.text(name, default)
        if value not in options:
            raise InputError(f"{name} is {value[:40]!r}; expected {' or '.join(options)}")
        return value

    def number(self, name: str, most: int, default: int | None = None, least: int = 0) -> int:
        """Return a parameter that is a whole number."""
        text = self.text(name, "" if default is None else str(default))
        if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            limit = f" to {most:,}" if most < _ANY else ""
            raise InputError(f"{name} is {text[:40]!r}; expected a whole number from {least}{limit}")
        return int(text)

    def numbers(self, name: str, most: int, count: int) -> list[int]:
        """Return a parameter that is a list of whole numbers."""
        texts = self.text(name).split(",")
        if len(texts) > count or not all(re.fullmatch(r"\d{1,18}", t, re.ASCII) and int(t) <= most for t in texts):
            raise InputError(f"{name} is {self.text(name)[:40]!r}; expected 1 to {count} rows from 0 to {most:,}")
        return list(map(int, texts))

    def row(self) -> int:
        """Return the row that is asked for, by its place or by its image's key."""
        if not self.text("key"):
            row = self.number("id", _ANY)
            if row >= self.step.rows:
                raise NotFoundError(f"there is no row {row}; the step has {self.step.rows:,}")
            return row
        row = int(find_key(self.step, np.array([_read_key(self.text("key"))]))[0])
        if row < 0:
            raise NotFoundError(f"the image is not in step {self.step.step} of {self.run.name}")
        return row


def _read_key(text: object) -> int:
    if (
        not isinstance(text, str)
        or not re.fullmatch(r"-?\d{1,19}", text, re.ASCII)
        or not -(2**63) <= int(text) < 2**63
    ):
        raise InputError(f"{str(text)[:40]!r} is no key; expected a whole number of 64 bits as a text")
    return int(text)


def _json(answer: object) -> Answer:
    return Answer(json.dumps(answer, separators=(",", ":")).encode("ascii"))

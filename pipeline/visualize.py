"""Stage two, one straight function: Parquet -> states -> summaries -> event files. Knows no torch and no model."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from pipeline import draw, events, images, panels, sources, store, workers
from pipeline.config import Exif, VisualizeConfig
from pipeline.errors import InputError, first_line
from pipeline.predictions import digest_of, hash64
from pipeline.store import Step, unwritable
from pipeline.summaries import Encoded, File, Picture, Pixels, Summary, Tiles
from pipeline.summarize import States, look_again, summarize

EVENTS = "events"
"""Name of the event file while it is written: TensorBoard opens whatever has `tfevents` in its name."""

ROWS = "rows.parquet"
"""One line for every row of every step, for DuckDB and pandas."""

RECORD = ".predboard.json"
"""Our own list of the files we wrote into a run's log folder, and what they were made from."""

STEPS_WITH_PICTURES = 10
"""TensorBoard keeps the pictures of ten steps of a tag."""

PICTURES_KEPT = 512
"""Fitted source pictures in memory, at most 115 kB each: the same image is in many galleries and steps."""


@dataclass(frozen=True)
class Written:
    """What stage two did with one run."""

    run: str
    folder: Path
    event_file: Path
    rows: int
    steps: tuple[int, ...]
    missing_rows: int
    missing_pictures: int
    unchanged: bool
    """Nothing had changed, so nothing was written."""


def visualize(config: VisualizeConfig, say: Callable[[str], None] = lambda _: None) -> tuple[Written, ...]:
    """Write the TensorBoard logs of one or more runs.

    Each run has one event file, whose bytes depend on the Parquet, the panels and the source pictures alone. A run that
    has not changed since is skipped.

    Args:
        config: what to draw.
        say: takes a line of progress for a person.

    Raises:
        InputError: for bad input; the logs that are there stay as they are.
    """
    if not config.predictions:
        raise InputError("which predictions? For example: predboard visualize predictions/digits")
    names = [folder.resolve().name for folder in config.predictions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two folders are called {twice!r}, and a run's logs are named after its folder: rename one")
    chosen = panels.choose(config.panels)
    if config.image_root is not None and not config.image_root.is_dir():
        raise InputError(f"no folder {config.image_root}: --image-root is where the source images are now")
    return tuple(
        _visualize_run(name, folder, chosen, config, say)
        for name, folder in zip(names, config.predictions, strict=True)
    )


def _visualize_run(
    name: str,
    predictions: Path,
    chosen: Mapping[str, panels.Panel],
    config: VisualizeConfig,
    say: Callable[[str], None],
) -> Written:
    steps = store.open_run(predictions)
    folder = config.logdir / name
    sheets = {step.step: _sheet(predictions, step.step, say) for step in steps}
    made_from = _made_from(steps, tuple(chosen), config, sheets)
    record = _read_record(folder)
    rows = sum(step.rows for step in steps)
    missing = sum(stop - start for step in steps for start, stop in step.missing)
    numbers = tuple(step.step for step in steps)
    if record.get("made_from") == made_from and all((folder / file).is_file() for file in record["files"]):
        return Written(name, folder, folder / record["files"][0], rows, numbers, missing, 0, unchanged=True)

    say(f"{name}: {rows:,} rows in {len(steps)} steps, panels {', '.join(chosen)}")
    subject = panels.Subject(name, steps[-1].run, {step.step: _facts(step, sheets[step.step]) for step in steps})
    pictures = _Pictures(steps, config.image_root)
    times = {step.step: step.finished for step in steps}
    with_pictures = _spread(numbers, STEPS_WITH_PICTURES)
    threads = workers.count(config.workers)
    with unwritable(folder), store.lock(folder, "--logdir", ".predboard-*.partial"):
        record = _read_record(folder)
        aside = folder / f".predboard-{os.getpid()}.partial"
        try:
            aside.mkdir()
            states = _states(steps, chosen, threads, aside, keep_rows=not config.panels)
            with (
                events.Writer(aside / EVENTS, times[numbers[0]]) as writer,
                tqdm(unit=" summaries", desc="write", disable=None, file=sys.stderr) as bar,
            ):
                for panel_name, panel in chosen.items():
                    of_panel = {number: states[number][panel_name] for number in numbers}
                    summaries = _drawable(panel.render(subject, of_panel), with_pictures)
                    for step, summary in _with_pictures(summaries, pictures, threads):
                        if isinstance(summary, File):
                            _write_file(aside, summary)
                        else:
                            writer.write(step, times[step], summary)
                        bar.update()
            event_file = _publish(folder, aside, times[numbers[0]], record, made_from if not pictures.missing else "")
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return Written(name, folder, event_file, rows, numbers, missing, len(pictures.missing), unchanged=False)


def _states(
    steps: tuple[Step, ...], chosen: Mapping[str, panels.Panel], threads: int, aside: Path, keep_rows: bool
) -> dict[int, States]:
    """States of all panels, and `rows.parquet` in the folder if it is to be kept or a panel looks again."""
    total = sum(step.rows for step in steps)
    with tqdm(total=total, unit=" rows", desc="read", disable=None, file=sys.stderr) as bar:
        if not keep_rows and not any(isinstance(panel, panels.LooksAgain) for panel in chosen.values()):
            return summarize(steps, chosen, threads, bar.update)
        writer = store.RowsWriter(aside / ROWS, steps[0].run)
        try:
            states = summarize(steps, chosen, threads, bar.update, writer.write)
        finally:
            writer.close()
    return look_again(steps, chosen, states, store.read_rows(aside / ROWS))


def _write_file(aside: Path, file: File) -> None:
    path = aside / file.tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)


def _facts(step: Step, sheet: Pixels | None) -> panels.Facts:
    provenance = step.parts[0].part.provenance
    warnings = [str(warning) for file in step.parts for warning in file.part.provenance.get("warnings", ())]
    return panels.Facts(
        rows=step.rows,
        manifest_rows=step.manifest_rows,
        checkpoint=str(provenance.get("checkpoint", "")),
        device=str(provenance.get("device", "")),
        warnings=tuple(dict.fromkeys(warnings)),
        sheet=sheet,
    )


def _sheet(run: Path, step: int, say: Callable[[str], None]) -> Pixels | None:
    """What stage one drew of the model's inputs; None if it drew none."""
    path = store.preflight_path(run, step, ".png")
    try:
        return images.pixels(images.open_image(path.read_bytes()))
    except FileNotFoundError:
        return None
    except Exception as error:  # a picture file may fail in any way, and all else can be drawn without this one
        say(f"{path} cannot be read and is left out: {first_line(error)}")
        return None


def _spread(numbers: tuple[int, ...], limit: int) -> frozenset[int]:
    """At most `limit` of the numbers, evenly spread, with the first and the last.

    >>> sorted(_spread((0, 1, 2, 3, 4, 5, 6), 4))
    [0, 2, 4, 6]
    """
    if len(numbers) <= limit:
        return frozenset(numbers)
    return frozenset(numbers[round(i * (len(numbers) - 1) / (limit - 1))] for i in range(limit))


def _drawable(summaries: Iterator[tuple[int, Summary]], with_pictures: frozenset[int]) -> Iterator[tuple[int, Summary]]:
    """The summaries that TensorBoard would keep."""
    for step, summary in summaries:
        if step in with_pictures or not isinstance(summary, Tiles | Picture):
            yield step, summary


def _with_pictures(
    summaries: Iterator[tuple[int, Summary]], pictures: "_Pictures", threads: int
) -> Iterator[tuple[int, Summary]]:
    """The summaries with their tiles drawn, on threads, in their order."""

    def drawn(item: tuple[int, Summary]) -> tuple[int, Summary]:
        step, summary = item
        return step, pictures.encode(step, summary) if isinstance(summary, Tiles) else summary

    yield from workers.in_order(drawn, summaries, threads)


class _Pictures:
    """Source pictures by row: from the source, else from the thumbnail that the predictions hold."""

    def __init__(self, steps: tuple[Step, ...], image_root: Path | None) -> None:
        self._steps = {step.step: step for step in steps}
        self._root = image_root
        # Where all steps find the same pictures, one step stands for all.
        same = len({(s.run.root, s.run.transform.get("exif"), s.run.thumbnails) for s in steps}) == 1
        self._shared = steps[0].step if same and not steps[0].run.thumbnails else None
        self.missing: set[str] = set()
        self._fitted = functools.lru_cache(PICTURES_KEPT)(self._fit)

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


def _made_from(
    steps: tuple[Step, ...], names: tuple[str, ...], config: VisualizeConfig, sheets: Mapping[int, Pixels | None]
) -> str:
    """Digest of all that decides the bytes of an event file, as far as it can be known without reading the rows."""
    code = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    parts = [[asdict(part.part), part.run.fingerprint] for step in steps for part in step.parts]
    root = None if config.image_root is None else str(config.image_root.resolve())
    drawn = [None if sheet is None else [*sheet.shape, hash64(sheet.tobytes())] for sheet in sheets.values()]
    record = {"parts": parts, "panels": names, "image_root": root, "code": code.hexdigest(), "sheets": drawn}
    return digest_of(record)


def runs_in(logdir: Path) -> list[str]:
    """Names of the runs that we wrote into a log folder, the newest first."""
    records = sorted(logdir.glob(f"*/{RECORD}"), key=lambda record: (-record.stat().st_mtime, record))
    return [record.parent.name for record in records]


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files = [str(name) for name in record["files"]]
        inside = [
            f for f in files if not Path(f).is_absolute() and ".." not in Path(f).parts
        ]  # never beyond our folder
        return {"made_from": str(record["made_from"]), "files": inside}
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: then we own no file there
        return {"made_from": None, "files": []}


def _write_record(folder: Path, made_from: str, files: list[str]) -> None:
    aside = folder / f"{RECORD}.partial"
    aside.write_text(json.dumps({"made_from": made_from, "files": files}, indent=1) + "\n", "utf-8")
    aside.replace(folder / RECORD)


def _publish(folder: Path, aside: Path, time: float, record: dict[str, Any], made_from: str) -> Path:
    """Put the files from `aside` into their places, and remove our old ones.

    The event file's name changes with its content, so that an open TensorBoard notices. It comes last: whatever happens
    in between, at least one whole event file of ours is there and listed, and no other file is touched.
    """
    content = hashlib.blake2b(digest_size=8)
    with (aside / EVENTS).open("rb") as file:
        while piece := file.read(2**20):
            content.update(piece)
        os.fsync(file.fileno())
    event_file = f"events.out.tfevents.{int(time):010d}.{content.hexdigest()}.predboard"
    beside = sorted(p.relative_to(aside).as_posix() for p in aside.rglob("*") if p.is_file() and p != aside / EVENTS)
    old = [name for name in record["files"] if name not in (event_file, *beside)]
    _write_record(folder, "", [event_file, *beside, *old])
    for name in beside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).replace(folder / name)
    (aside / EVENTS).replace(folder / event_file)
    for name in old:
        (folder / name).unlink(missing_ok=True)
        if (parent := (folder / name).parent) != folder and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
    _write_record(folder, made_from, [event_file, *beside])
    return folder / event_file

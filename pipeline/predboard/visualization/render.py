"""Renders the panels of a run, draws their pictures, and writes every summary where its kind says it goes.

It knows neither how states are measured nor where the files end up.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Event

from tqdm import tqdm

from predboard import panels
from predboard.errors import InputError
from predboard.evaluation.measure import States
from predboard.images import decode
from predboard.parallel.threads import ordered_map
from predboard.predictions.derived_rows import DerivedRows
from predboard.summaries import File, Output, Picture, Projector, Summary, Text, Tiles
from predboard.visualization import events, image_pages, log_folder, summary_json
from predboard.visualization.source_images import SourceImages

MAX_PICTURE_STEPS = 10
"""Steps of a tag whose pictures TensorBoard keeps; those of more would be drawn for nothing."""

SUMMARIES_AHEAD = 64
"""Summaries that are drawn or wait to be written; a tag of pictures has a dozen of some 20 kB each."""


@dataclass(frozen=True)
class RenderJob:
    """Everything that is rendered for one run."""

    run: panels.RunInfo
    times: Mapping[int, float]
    """When each step was finished, seconds since 1970; by step, ascending."""
    panels: Mapping[str, panels.Panel]
    images: SourceImages
    threads: int
    log_every: int | None = None
    """Log every N-th image; None for none."""

    @property
    def picture_steps(self) -> frozenset[int]:
        """The steps at which pictures are drawn."""
        return spread_steps(tuple(self.times), MAX_PICTURE_STEPS)


def spread_steps(steps: tuple[int, ...], limit: int) -> frozenset[int]:
    """Return at most `limit` of the steps, evenly spread, with the first and the last.

    >>> sorted(spread_steps((0, 1, 2, 3, 4, 5, 6), 4))
    [0, 2, 4, 6]
    """
    if len(steps) <= limit:
        return frozenset(steps)
    return frozenset(steps[round(i * (len(steps) - 1) / (limit - 1))] for i in range(limit))


def render_run(
    job: RenderJob,
    states: Mapping[int, States],
    rows: Callable[[], Iterable[tuple[int, DerivedRows]]],
    draft: log_folder.LogDraft,
    log: Callable[[str], None],
) -> None:
    """Write the event file, `summary.json` and the files of panels into the draft of a log folder.

    Args:
        job: what to render.
        states: of all panels, by step.
        rows: returns step and derived rows of all steps, in order; called only where images are logged.
        draft: takes the files.
        log: takes a line of progress for a person.
    """
    first_time = next(iter(job.times.values()))
    numbers: list[tuple[int, Summary]] = []
    with (
        decode.silence_pillow(),
        events.EventWriter(draft.events_path, first_time) as writer,
        tqdm(unit=" summaries", desc="write", disable=None, file=sys.stderr) as bar,
    ):
        for step, summary in _draw(_render_panels(job, states), job.images, job.threads):
            if Output.SUMMARY_JSON in summary.output:
                numbers.append((step, summary))
            if Output.EVENTS in summary.output:
                writer.write(step, job.times[step], summary)
            if isinstance(summary, File):
                draft.add_file(summary)
            bar.update()
        for step, page in _render_pages(job, rows, writer.size):
            if isinstance(page, Text):
                log(f"warning: {job.run.name}: {page.markdown.partition(chr(10))[0]}")
            writer.write(step, job.times[step], page)
            bar.update()
    for name, panel in job.panels.items():
        if isinstance(panel, panels.HasNotes):
            for note in panel.notes(job.run, {step: of_step[name] for step, of_step in states.items()}):
                log(f"warning: {job.run.name}: {note}")
    last = list(job.times)[-1]
    labels = {step: known.new_labels for step, known in job.run.steps.items() if known.new_labels is not None}
    content = summary_json.encode_summary(
        job.run.name, job.run.run, job.times[last], numbers, labels, job.run.thresholds
    )
    draft.add_file(File(log_folder.SUMMARY_FILE, content))


def _render_panels(job: RenderJob, states: Mapping[int, States]) -> Iterator[tuple[int, Summary]]:
    """Yield (step, summary) of all panels in their order, one panel after another.

    Raises InputError if two panels write the same tag.
    """
    picture_steps = job.picture_steps
    written: dict[str, tuple[str, panels.WrittenTag]] = {}  # by tag: the panel, and what it wrote

    def render(name: str, panel: panels.Panel, run: panels.RunInfo) -> list[tuple[int, Summary]]:
        rendered = panel.render(run, {step: of_step[name] for step, of_step in states.items()})
        return [(step, summary) for step, summary in rendered if step in picture_steps or not summary.has_pictures]

    for together in panels.render_rounds(job.panels):
        run = dataclasses.replace(job.run, written=tuple(tag for _, tag in written.values()))
        for name, panel in together.items():
            summaries = render(name, panel, run)
            for _, summary in summaries:
                other, _ = written.get(summary.tag, (name, None))
                if other != name:
                    raise InputError(
                        f"the panels {other!r} and {name!r} both write {summary.tag!r}, and one would hide the other: "
                        "choose others by --panels"
                    )
                written[summary.tag] = (name, panels.WrittenTag(summary.tag, type(summary), summary.description))
            job.images.expect(summaries)
            yield from summaries


def _draw(
    summaries: Iterable[tuple[int, Summary]], images: SourceImages, threads: int
) -> Iterator[tuple[int, Summary]]:
    """Yield the summaries in their order, with pictures encoded and the Projector as files.

    What waits for images is drawn on threads, while the next panel renders. Everything else would only wait for
    Python's lock there, and is drawn by the thread that renders.
    """
    abandoned = Event()

    def draw(item: tuple[int, Summary]) -> list[tuple[int, Summary]]:
        step, summary = item
        if isinstance(summary, Projector):
            sprite, side = images.sprite(step, summary, threads, abandoned.is_set)
            return [(step, file) for file in events.encode_projector(summary, sprite, side)]
        if isinstance(summary, Tiles):
            return [(step, images.encode(step, summary))]
        return [(step, events.encode_picture(summary) if isinstance(summary, Picture) else summary)]

    def draw_here(item: tuple[int, Summary]) -> list[tuple[int, Summary]] | None:
        step, summary = item
        if images.waits(step, summary):
            return None
        return [(step, images.encode_locally(step, summary))] if isinstance(summary, Tiles) else draw(item)

    for drawn in ordered_map(draw, summaries, threads, SUMMARIES_AHEAD, on_exit=abandoned.set, at_once=draw_here):
        yield from drawn


def _render_pages(
    job: RenderJob, rows: Callable[[], Iterable[tuple[int, DerivedRows]]], used_bytes: int
) -> Iterator[tuple[int, Summary]]:
    """Yield the pages of every N-th image, where they are wanted."""
    if job.log_every is not None:
        yield from image_pages.render_pages(
            rows, job.log_every, job.picture_steps, job.run.run.classes, job.images, job.threads, used_bytes
        )

"""Stage two, one straight function: Parquet -> states -> summaries -> event files. Knows no torch and no model."""

import contextlib
import dataclasses
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from threading import Event

from tqdm import tqdm

from predboard import panels
from predboard.config import VisualizeConfig
from predboard.errors import InputError, first_line
from predboard.evaluation.cache import CACHE_FOLDER, StateCache
from predboard.evaluation.fold import DEFAULT_SETTINGS, FoldSettings, States, count_logits, measure_run
from predboard.evaluation.state_versions import outside_code, state_versions
from predboard.formatting import plural
from predboard.images import decode
from predboard.parallel.executor import Executor, open_executor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import ordered_map, worker_count
from predboard.predictions.schema import digest_records, hash64
from predboard.storage.paths import AnyPath, is_inside, is_remote
from predboard.storage.rows import read_derived_rows
from predboard.storage.runs import Step, open_run, preflight_path
from predboard.summaries import File, Output, Picture, Pixels, Projector, Summary, Text, Tiles
from predboard.visualization import events, image_pages, leaderboard, log_folder, summary_json
from predboard.visualization.source_images import SourceImages

ROWS_FILE = "rows.parquet"
"""One line for every row of every step, for DuckDB and pandas."""

MAX_PICTURE_STEPS = 10
"""TensorBoard keeps the pictures of ten steps of a tag."""


POOL_MIN_PICTURES = 1000
"""Pictures for which another process pays: drawing them takes one more than a second, starting it a third."""

SUMMARIES_AHEAD = 64
"""Summaries that are drawn or wait for it; a tag of pictures has a dozen, of some 20 kB each."""


@dataclass(frozen=True)
class VisualizeResult:
    """What stage two did with one run."""

    run: str
    folder: AnyPath
    event_file: AnyPath
    rows: int
    steps: tuple[int, ...]
    missing_rows: int
    missing_pictures: int
    unchanged: bool
    """Nothing had changed, so nothing was written."""


def visualize(
    config: VisualizeConfig,
    say: Callable[[str], None] = lambda _: None,
    pool: ProcessPool | None = None,
    settings: FoldSettings = DEFAULT_SETTINGS,
) -> tuple[VisualizeResult, ...]:
    """Write the TensorBoard logs of one or more runs.

    Each run has one event file, whose bytes depend on the Parquet, the panels and the source pictures alone. A run that
    has not changed since is skipped. Where the log folder holds two or more runs, `runs.rank` adds one that ranks them.

    Args:
        config: what to draw.
        say: takes a line of progress for a person.
        pool: processes that work on it, `config.workers` by default.
        settings: how work is cut into pieces, and when states are cached.

    Raises:
        InputError: for bad input; the logs that are there stay as they are.
    """
    if not config.predictions:
        raise InputError("which predictions? For example: predboard visualize predictions/digits")
    names = [folder.resolve().name for folder in config.predictions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two folders are called {twice!r}, and a run's logs are named after its folder: rename one")
    if log_folder.LEADERBOARD_RUN in names:
        raise InputError(
            f"a folder of predictions is called {log_folder.LEADERBOARD_RUN!r}, as the ranking of all runs is: "
            f"rename it"
        )
    for name, folder in zip(names, config.predictions, strict=True):
        if is_inside(config.logdir / name, folder):
            raise InputError(
                f"--logdir {config.logdir} would mix logs into the predictions {folder}: name another folder"
            )
    chosen = panels.choose(config.panels)
    if config.image_root is not None and not config.image_root.is_dir():
        raise InputError(f"no folder {config.image_root}: --image-root is where the source images are now")
    with (
        contextlib.nullcontext(pool)
        if pool
        else ProcessPool(worker_count(config.workers), f"{__name__}:{warm.__name__}") as processes
    ):
        written = tuple(
            _visualize_run(name, folder, chosen, config, say, processes, settings)
            for name, folder in zip(names, config.predictions, strict=True)
        )
    leaderboard.write_leaderboard(config.logdir, log_folder.code_digest())
    return written


def warm() -> None:
    """What another process does before it is asked for anything: this module is imported, and all panels are."""
    panels.choose(())


def _visualize_run(
    name: str,
    predictions: AnyPath,
    chosen: Mapping[str, panels.Panel],
    config: VisualizeConfig,
    say: Callable[[str], None],
    pool: ProcessPool,
    settings: FoldSettings,
) -> VisualizeResult:
    steps = open_run(predictions)
    folder = config.logdir / name
    sheets = {step.step: _sheet(predictions, step.step, say) for step in steps}
    made_from = _made_from(steps, chosen, config, sheets)
    rows = sum(step.rows for step in steps)
    missing = sum(stop - start for step in steps for start, stop in step.missing)
    numbers = tuple(step.step for step in steps)
    if current := log_folder.find_current(folder, made_from):
        return VisualizeResult(name, folder, current, rows, numbers, missing, 0, unchanged=True)

    say(f"{name}: {plural(rows, 'row')} in {plural(len(steps), 'step')}, panels {', '.join(chosen)}")
    subject = panels.RunInfo(name, steps[-1].run, {step.step: _facts(step, sheets[step.step]) for step in steps})
    pictures = SourceImages(steps, config.image_root, pool)
    times = {step.step: step.finished for step in steps}
    with_pictures = _spread(numbers, MAX_PICTURE_STEPS)
    every = None if config.log_every is None else 1 if config.log_every == "all" else config.log_every
    if every is not None:
        pool.start(1 + sum(step.rows for step in steps if step.step in with_pictures) // (every * POOL_MIN_PICTURES))
    counted: list[tuple[int, Summary]] = []
    with log_folder.replace_logs(folder, "run", [predictions], say) as draft:
        keep = not config.panels or config.log_every is not None
        with (
            open_executor(config.engine, config.ray_address, pool) as executor,
            tqdm(total=rows, unit=" rows", desc="read", disable=None, file=sys.stderr) as bar,
        ):
            cache = _open_cache(steps, chosen, folder, config, executor, settings)
            rows_file = draft.staging / ROWS_FILE
            states = measure_run(steps, chosen, executor, rows_file, keep, bar.update, cache, settings)
        with (
            decode.silence_pillow(),
            events.EventWriter(draft.events_path, times[numbers[0]]) as writer,
            tqdm(unit=" summaries", desc="write", disable=None, file=sys.stderr) as bar,
        ):
            rendered = _rendered(chosen, subject, states, with_pictures, pictures, pool.max_processes)
            for step, summary in _drawn(rendered, pictures, pool.max_processes):
                if Output.SUMMARY_JSON in summary.output:
                    counted.append((step, summary))
                if Output.EVENTS in summary.output:
                    writer.write(step, times[step], summary)
                if isinstance(summary, File):
                    draft.add_file(summary)
                bar.update()
            if every is not None:
                derived = functools.partial(read_derived_rows, draft.staging / ROWS_FILE)
                for step, page in image_pages.render_pages(
                    derived, every, with_pictures, pictures, pool.max_processes, writer.size
                ):
                    if isinstance(page, Text):
                        say(f"warning: {name}: {page.markdown}")
                    writer.write(step, times[step], page)
                    bar.update()
        content = summary_json.encode_summary(name, steps[-1].run, steps[-1].finished, counted)
        draft.add_file(File(log_folder.SUMMARY_FILE, content))
        event_file = draft.publish(times[numbers[0]], "" if pictures.missing else made_from)
    return VisualizeResult(name, folder, event_file, rows, numbers, missing, len(pictures.missing), unchanged=False)


def _open_cache(
    steps: tuple[Step, ...],
    chosen: Mapping[str, panels.Panel],
    folder: AnyPath,
    config: VisualizeConfig,
    executor: Executor,
    settings: FoldSettings,
) -> StateCache | None:
    """Return the cache of a run; None if it does not pay, or the workers of a cluster may not see it."""
    cache = folder / CACHE_FOLDER
    if config.cache == "never" or not (executor.sees_local_files or is_remote(cache)):
        return None
    small = count_logits(part for step in steps for part in step.parts) < settings.cache_min_logits
    if config.cache == "auto" and small and not cache.is_dir():
        return None
    packages = frozenset(type(panel).__module__.partition(".")[0] for panel in chosen.values())
    return StateCache(cache, state_versions(chosen), packages, settings.cache_max_bytes)


def _facts(step: Step, sheet: Pixels | None) -> panels.StepInfo:
    provenance = step.parts[0].part.provenance
    warnings = [str(warning) for file in step.parts for warning in file.part.provenance.get("warnings", ())]
    return panels.StepInfo(
        rows=step.rows,
        manifest_rows=step.manifest_rows,
        checkpoint=str(provenance.get("checkpoint", "")),
        device=str(provenance.get("device", "")),
        warnings=tuple(dict.fromkeys(warnings)),
        sheet=sheet,
        seconds=dict(sum((Counter(file.part.seconds) for file in step.parts), Counter())),
        provenance={k: v for k, v in provenance.items() if k not in ("checkpoint", "device", "warnings")},
        started=min(file.part.started for file in step.parts),
        finished=step.finished,
    )


def _sheet(run: AnyPath, step: int, say: Callable[[str], None]) -> Pixels | None:
    """What stage one drew of the model's inputs; None if it drew none."""
    path = preflight_path(run, step, ".png")
    try:
        return decode.to_array(decode.decode_image(path.read_bytes()))
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


def _rendered(
    chosen: Mapping[str, panels.Panel],
    subject: panels.RunInfo,
    states: Mapping[int, States],
    with_pictures: frozenset[int],
    pictures: SourceImages,
    threads: int,
) -> Iterator[tuple[int, Summary]]:
    """What the panels give, in their order; those that know nothing of each other render on threads."""
    written: dict[str, tuple[str, panels.WrittenTag]] = {}  # by tag: the panel, and what it wrote
    for together in panels.render_rounds(chosen):
        knows = dataclasses.replace(subject, written=tuple(tag for _, tag in written.values()))

        def render(panel: tuple[str, panels.Panel], knows: panels.RunInfo = knows) -> list[tuple[int, Summary]]:
            of_panel = {number: of_step[panel[0]] for number, of_step in states.items()}
            return list(_drawable(panel[1].render(knows, of_panel), with_pictures))

        drawn = ordered_map(render, together.items(), threads, len(together))
        for name, summaries in zip(together, drawn, strict=True):
            for _, summary in summaries:
                tag = panels.WrittenTag(summary.tag, type(summary), summary.description)
                other, _ = written.setdefault(summary.tag, (name, tag))
                if other != name:
                    raise InputError(
                        f"the panels {other!r} and {name!r} both write {summary.tag!r}, and one would hide the other; "
                        "choose others by --panels"
                    )
                written[summary.tag] = (name, tag)
            pictures.expect(summaries)
            yield from summaries


def _drawable(summaries: Iterator[tuple[int, Summary]], with_pictures: frozenset[int]) -> Iterator[tuple[int, Summary]]:
    """The summaries that TensorBoard would keep."""
    for step, summary in summaries:
        if step in with_pictures or not summary.has_pictures:
            yield step, summary


def _drawn(
    summaries: Iterable[tuple[int, Summary]], pictures: SourceImages, threads: int
) -> Iterator[tuple[int, Summary]]:
    """The summaries in their order, pictures drawn and encoded on threads, while the next panel renders; of points the
    files that they are.
    """
    left = Event()

    def drawn(item: tuple[int, Summary]) -> list[tuple[int, Summary]]:
        step, summary = item
        if isinstance(summary, Projector):
            files = events.encode_projector(summary, *pictures.sprite(step, summary, threads, left.is_set))
            return [(step, file) for file in files]
        if isinstance(summary, Tiles):
            return [(step, pictures.encode(step, summary))]
        return [(step, events.encode_picture(summary) if isinstance(summary, Picture) else summary)]

    for ready in ordered_map(drawn, summaries, threads, SUMMARIES_AHEAD, on_exit=left.set):
        yield from ready


def _made_from(
    steps: tuple[Step, ...],
    chosen: Mapping[str, panels.Panel],
    config: VisualizeConfig,
    sheets: Mapping[int, Pixels | None],
) -> str:
    """Digest of all that decides the bytes of an event file, as far as it can be known without reading the rows."""
    parts = [[asdict(part.part), part.run.fingerprint] for step in steps for part in step.parts]
    root = None if config.image_root is None else str(config.image_root.resolve())
    drawn = [None if sheet is None else [*sheet.shape, hash64(sheet.tobytes())] for sheet in sheets.values()]
    record = {
        "parts": parts,
        "panels": {name: outside_code(panel) for name, panel in chosen.items()},
        "image_root": root,
        "log_every": config.log_every,
        "code": log_folder.code_digest(),
        "sheets": drawn,
    }
    return digest_records(record)

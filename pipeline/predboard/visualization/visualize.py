"""Stage two, from saved predictions to TensorBoard logs: open a run, measure its parts, render its panels, publish.

It knows no torch and no model.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from predboard import panels
from predboard.config import VisualizeConfig
from predboard.errors import InputError, first_line
from predboard.evaluation.amend import Amendments
from predboard.evaluation.cache import CACHE_FOLDER, StateCache
from predboard.evaluation.measure import DEFAULT_SETTINGS, PRELOAD, MeasureSettings, States, count_logits, measure_run
from predboard.evaluation.sliced_columns import check_sliced_columns
from predboard.evaluation.state_versions import outside_code, state_versions
from predboard.formatting import plural
from predboard.images import decode
from predboard.log_names import ROWS_FILE
from predboard.metrics.class_groups import ClassGroups, groups_of
from predboard.metrics.label_effect import LabelEffect
from predboard.metrics.registry import NO_SCORES
from predboard.near_paths import did_you_mean_path
from predboard.panels import confusion, label_issues
from predboard.parallel.executor import Executor, open_executor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import worker_count
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.positive_class import with_positive
from predboard.predictions.schema import Run, digest_records, hash64
from predboard.storage.paths import AnyPath, is_inside, is_remote, parse_path, refuse_link
from predboard.storage.rows import read_derived_rows
from predboard.storage.runs import Step, explain_empty_steps, list_empty_steps, open_run, preflight_path
from predboard.streams import print_warning
from predboard.summaries import Pixels
from predboard.visualization import leaderboard, log_folder
from predboard.visualization.errors_csv import ERRORS_FILE, write_errors
from predboard.visualization.image_map import MAP_FILE, ImageMap, map_by_columns
from predboard.visualization.render import RenderJob, render_run
from predboard.visualization.source_images import SourceImages
from predboard.visualization.thumbnails import THUMBNAILS_FILE, DrawnThumbnails, is_small, write_thumbnails
from predboard.visualization.unchanged import digest_inputs

MAP_STATE = "image map"
"""Name under which the places of images are measured beside the panels' states: no panel's, because it has a space."""

POOL_MIN_PICTURES = 1000
"""Pictures from which another process helps: drawing them takes one more than a second, starting it a third."""


@dataclass(frozen=True)
class VisualizeResult:
    """The result of stage two for one run."""

    run: str
    """Name of the run."""
    folder: AnyPath
    """Its log folder."""
    event_file: AnyPath
    rows: int
    """Rows of all steps."""
    steps: tuple[int, ...]
    missing_rows: int
    """Rows of the manifest that have no predictions."""
    missing_pictures: int
    """Source images that were not found."""
    unchanged: bool
    """Whether the logs were up to date, so that nothing was written."""


def visualize(
    config: VisualizeConfig,
    log: Callable[[str], None] = print_warning,
    pool: ProcessPool | None = None,
    settings: MeasureSettings = DEFAULT_SETTINGS,
) -> tuple[VisualizeResult, ...]:
    """Write the TensorBoard logs of one or more runs.

    Each run has one event file, whose bytes depend only on the predictions, the panels and the source images. A run
    that has not changed since its logs were written is skipped. If the log folder holds two or more runs, one more run
    ranks them (`leaderboard`).

    Args:
        config: what to draw.
        log: takes a line of progress for a person.
        pool: processes to use, by default `config.workers`.
        settings: how work is cut into pieces, and when states are cached.

    Raises:
        InputError: for bad input; existing logs stay as they are.
    """
    _check(config)
    amendments = Amendments(config)
    with contextlib.nullcontext(pool) if pool else ProcessPool(worker_count(config.workers), PRELOAD) as processes:
        results = tuple(
            _visualize_run(predictions, config, amendments, log, processes, settings)
            for predictions in config.predictions
        )
    leaderboard.write_leaderboard(config.logdir, log_folder.code_digest())
    return results


def _check(config: VisualizeConfig) -> None:
    """Raise InputError for what cannot be drawn, before anything is read."""
    panels.refuse_unknown(config.panels)
    if not config.predictions:
        raise InputError("which predictions? For example: predboard visualize predictions/digits")
    names = [folder.resolve().name for folder in config.predictions]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two folders are named {duplicate!r}, and logs are named after their folder: rename one")
    if log_folder.LEADERBOARD_RUN in names:
        raise InputError(
            f"a folder of predictions is named {log_folder.LEADERBOARD_RUN!r}, like the leaderboard of all runs: "
            "rename it"
        )
    for name, folder in zip(names, config.predictions, strict=True):
        if is_inside(config.logdir / name, folder):
            raise InputError(
                f"--logdir {config.logdir} would mix logs into the predictions {folder}: name another folder"
            )
    if "groups" in config.panels and config.groups is None:
        raise InputError("the panel groups needs --groups FILE, the groups of the classes")
    if config.image_root is not None and not config.image_root.is_dir():
        near = did_you_mean_path(config.image_root, Path.is_dir)
        raise InputError(f"no folder {config.image_root}: --image-root must be the folder of the source images{near}")


def _visualize_run(
    predictions: AnyPath,
    config: VisualizeConfig,
    amendments: Amendments,
    log: Callable[[str], None],
    pool: ProcessPool,
    settings: MeasureSettings,
) -> VisualizeResult:
    inputs = digest_inputs(predictions, config)
    run = _OpenRun.open(predictions, config, log)
    chosen = panels.choose(config.panels, run.steps[-1].run.task)
    if not all(step.run.has_scores for step in run.steps):
        left_out = chosen.keys() - (chosen := panels.without_scores(chosen)).keys()
        log(f"{run.name}: {', '.join(sorted(left_out)) or 'no panel'} left out: {NO_SCORES}")
    if config.thresholds is not None:
        left_out = chosen.keys() - (chosen := panels.without_half(chosen)).keys()
        if left_out:
            log(f"{run.name}: {', '.join(sorted(left_out))} left out with --thresholds: of probability 1/2")
    classes = run.steps[-1].run.classes
    pairs = confusion.parse_pairs(config.pairs, classes) or None
    groups = groups_of(config.groups, run.steps[-1].run)
    is_binary = bool(run.run.positive_class) or None
    chosen = panels.configure(
        chosen,
        per_gallery=config.per_gallery,
        pairs=pairs,
        crosses=config.slice,
        groups=groups,
        two_classes=is_binary,
    )
    made_from = run.made_from(chosen, config, amendments, groups)
    if current := log_folder.find_current(run.folder, made_from):
        return run.result(current, log_folder.read_record(run.folder).missing_pictures, unchanged=True)
    run = run.amended(amendments, log)
    if config.slice:
        check_sliced_columns(config.slice, run.steps[-1])
    log(f"{run.name}: {plural(run.rows, 'row')} in {plural(len(run.steps), 'step')}, panels {', '.join(chosen)}")
    images = SourceImages(run.steps, config.image_root, pool, config.images_anywhere)
    for note in images.notes():
        log(note)
    job = RenderJob(run.info(), run.times, chosen, images, pool.max_processes, _every(config))
    if job.log_every is not None:
        logged = sum(step.rows for step in run.steps if step.step in job.picture_steps) // job.log_every
        pool.start(1 + logged // POOL_MIN_PICTURES)
    with log_folder.replace_logs(run.folder, "run", [predictions], log) as draft:
        draft.image_root = config.image_root
        draft.inputs = inputs if run.is_plain and not any(map(outside_code, chosen.values())) else ""
        draft.shown = {str(step.step): step.digest for step in run.steps}
        rows_file, last = draft.staging / ROWS_FILE, run.steps[-1].step
        image_map = _map_by_components(run, chosen, config, job.threads)
        measured = chosen if image_map is None else {**chosen, MAP_STATE: image_map}
        states = _measure(run, measured, config, pool, settings, rows_file)
        places = {step: of_step.pop(MAP_STATE, None) for step, of_step in states.items()}
        thumbnails = None
        if _wants_thumbnails(run, config, draft.staging):
            thumbnails = images.observer = DrawnThumbnails(last)
        render_run(job, states, functools.partial(read_derived_rows, rows_file), draft, log)
        if thumbnails is not None:
            # Images that are missing only here are no reason to draw the logs again the next time.
            opener = SourceImages(run.steps, config.image_root, anywhere=config.images_anywhere)
            rows = _rows_of_step(rows_file, last)
            with decode.silence_pillow():
                write_thumbnails(draft.staging / THUMBNAILS_FILE, last, rows, opener, job.threads, thumbnails.by_row)
        if rows_file.exists():
            if image_map is not None:
                image_map.write(draft.staging / MAP_FILE, places[last])
            elif len(columns := config.map.split(",")) == 2:
                map_by_columns(draft.staging / MAP_FILE, _rows_of_step(rows_file, last), (columns[0], columns[1]))
            issues = states[last].get("label_issues")
            first = issues.first if issues and isinstance(issues.first, label_issues.State) else None
            names = job.run.run.classes
            write_errors(draft.staging / ERRORS_FILE, _rows_of_step(rows_file, last), names, first)
        # Source images that are missing now may be there another time.
        absent = None if images.missing and is_remote(run.folder) else images.note_absent()
        if absent is not None:
            draft.missing_pictures, draft.absent = len(images.missing), absent
        event_file = draft.publish(run.steps[0].finished, "" if absent is None else made_from)
    for warning in images.warnings():
        log(warning)
    return run.result(event_file, missing_pictures=len(images.missing))


def _wants_thumbnails(run: "_OpenRun", config: VisualizeConfig, folder: Path) -> bool:
    """Return whether thumbnails are drawn; only where the rows are kept."""
    if config.thumbnails != "auto" or not (folder / ROWS_FILE).exists():
        return config.thumbnails == "always" and (folder / ROWS_FILE).exists()
    root = parse_path(run.steps[-1].run.root) if config.image_root is None else config.image_root
    return not is_remote(root) and is_small(_rows_of_step(folder / ROWS_FILE, run.steps[-1].step))


def _map_by_components(
    run: "_OpenRun", chosen: Mapping[str, panels.Panel], config: VisualizeConfig, threads: int
) -> ImageMap | None:
    """Return what places the images of the last step; None where no such map is wanted or no rows are written."""
    step = run.steps[-1]
    writes_rows = _keeps_rows(config) or any(isinstance(panel, panels.TwoPassPanel) for panel in chosen.values())
    if not writes_rows or not (step.run.has_scores or step.run.embedding):
        return None
    is_small = count_logits(step.parts) < DEFAULT_SETTINGS.cache_min_logits
    if config.map == "always" or (config.map == "auto" and is_small):
        return ImageMap.by_components(step, threads)
    return None


def _keeps_rows(config: VisualizeConfig) -> bool:
    return not config.panels or config.log_every is not None


def _rows_of_step(path: Path, step: int) -> Iterator[DerivedRows]:
    for _, rows in read_derived_rows(path, step):
        yield rows


def _every(config: VisualizeConfig) -> int | None:
    return 1 if config.log_every == "all" else config.log_every


# --- open ---


@dataclass(frozen=True)
class _OpenRun:
    """A run, as far as it is known without reading its rows."""

    name: str
    folder: AnyPath
    """Folder of its logs."""
    steps: tuple[Step, ...]
    sheets: Mapping[int, Pixels | None]
    """For each step some images as the model got them, drawn by stage one; None if there are none."""
    run: Run
    """The run as its last step describes it, with the positive class that was asked for."""
    effects: Mapping[int, LabelEffect] = field(default_factory=dict)
    """By step, what corrected labels did."""
    thresholds: str = ""
    """Origin of the thresholds that labels are predicted at; empty if that is probability 1/2."""
    empty: tuple[int, ...] = ()
    """Steps without a part."""

    @classmethod
    def open(cls, predictions: AnyPath, config: VisualizeConfig, log: Callable[[str], None]) -> "_OpenRun":
        """Read the footers of all parts. Raises InputError if there are none, or they do not belong together."""
        steps = _choose_steps(predictions, open_run(predictions), config.steps)
        empty = tuple(list_empty_steps(predictions))
        if empty:
            log(f"warning: {explain_empty_steps(predictions, empty)}")
        name = predictions.resolve().name
        sheets = {step.step: _read_sheet(predictions, step.step, log) for step in steps}
        run = with_positive(steps[-1].run, config.positive)
        return cls(name, config.logdir / name, steps, sheets, run, empty=empty)

    def amended(self, amendments: Amendments, log: Callable[[str], None]) -> "_OpenRun":
        """Return the run with corrected labels and further columns, and say what was done."""
        amended = amendments.attach(self.steps)
        for note in amended.notes:
            log(note)
        for step, effect in amended.effects.items():
            log(f"{self.name}, step {step}: {effect.sentence()}")
        return replace(self, steps=amended.steps, effects=amended.effects, thresholds=amended.thresholds)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is to be said of the run each time that it is found unchanged."""
        whole = not any(step.missing for step in self.steps) and all(step.run.has_scores for step in self.steps)
        damaged = (
            preflight_path(step.parts[0].path.parent.parent, step.step, ".png").exists()
            for step in self.steps
            if self.sheets[step.step] is None
        )
        return whole and not self.empty and not any(damaged)

    @property
    def rows(self) -> int:
        """Rows of all steps."""
        return sum(step.rows for step in self.steps)

    @property
    def times(self) -> dict[int, float]:
        """Time at which each step was finished, seconds since 1970."""
        return {step.step: step.finished for step in self.steps}

    def info(self) -> panels.RunInfo:
        """Return what panels may know of the run besides its rows."""
        steps = {s.step: _step_info(s, self.sheets[s.step], self.effects.get(s.step)) for s in self.steps}
        return panels.RunInfo(self.name, self.run, steps, thresholds=self.thresholds)

    def made_from(
        self,
        chosen: Mapping[str, panels.Panel],
        config: VisualizeConfig,
        amendments: Amendments,
        groups: ClassGroups,
    ) -> str:
        """Return a digest of all that decides the bytes of the event file and is known without reading rows."""
        sheets = [None if sheet is None else [*sheet.shape, hash64(sheet.tobytes())] for sheet in self.sheets.values()]
        record = {
            "parts": [[asdict(part.part), part.run.fingerprint] for step in self.steps for part in step.parts],
            "panels": {name: outside_code(panel) for name, panel in chosen.items()},
            "image_root": None if config.image_root is None else str(config.image_root.resolve()),
            "images_anywhere": config.images_anywhere,
            "log_every": config.log_every,
            "slices": config.slice,
            "groups": asdict(groups),
            "tab": [config.thumbnails, config.map],
            "galleries": [config.per_gallery, *config.pairs],
            "positive": self.run.positive_class,
            "code": log_folder.code_digest(),
            "sheets": sheets,
        }
        return digest_records(record | ({"amendments": amendments.digest} if amendments.digest else {}))

    def result(self, event_file: AnyPath, missing_pictures: int = 0, unchanged: bool = False) -> VisualizeResult:
        """Return the summary printed for the run."""
        missing_rows = sum(stop - start for step in self.steps for start, stop in step.missing)
        steps = tuple(step.step for step in self.steps)
        return VisualizeResult(
            self.name, self.folder, event_file, self.rows, steps, missing_rows, missing_pictures, unchanged
        )


def _choose_steps(predictions: AnyPath, steps: tuple[Step, ...], wanted: Collection[int]) -> tuple[Step, ...]:
    """Return the wanted steps; all of them if none is named. Raises InputError for one that there is not."""
    numbers = [step.step for step in steps]
    if lacking := sorted(set(wanted) - set(numbers)):
        raise InputError(f"{predictions} has no step {lacking[0]}; it has {', '.join(map(str, numbers))}")
    return tuple(step for step in steps if not wanted or step.step in wanted)


def _read_sheet(predictions: AnyPath, step: int, log: Callable[[str], None]) -> Pixels | None:
    """Return the model's inputs as stage one drew them; None if it drew none or the file is broken."""
    path = preflight_path(predictions, step, ".png")
    try:
        return decode.to_array(decode.decode_image(path.read_bytes()))
    except FileNotFoundError:
        return None
    except Exception as error:  # an image file may fail in any way, and everything else can be drawn without this one
        log(f"warning: {path} cannot be read and is left out: {first_line(error)}")
        return None


def _step_info(step: Step, sheet: Pixels | None, effect: LabelEffect | None) -> panels.StepInfo:
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
        provenance={
            k: v for k, v in provenance.items() if k not in ("checkpoint", "device", "list_digest", "warnings")
        },
        started=min(file.part.started for file in step.parts),
        finished=step.finished,
        new_labels=effect,
    )


# --- measure ---


def _measure(
    run: _OpenRun,
    chosen: Mapping[str, panels.Panel],
    config: VisualizeConfig,
    pool: ProcessPool,
    settings: MeasureSettings,
    rows_file: Path,
) -> dict[int, States]:
    """Return the states of all panels and steps. Writes the derived rows where they are kept or needed."""
    with (
        open_executor(config.engine, config.ray_address, pool) as executor,
        tqdm(total=run.rows, unit=" rows", desc="read", disable=None, file=sys.stderr) as bar,
    ):
        cache = _open_cache(run.steps, chosen, run.folder / CACHE_FOLDER, config, executor, settings)
        return measure_run(run.steps, chosen, executor, rows_file, _keeps_rows(config), bar.update, cache, settings)


def _open_cache(
    steps: Sequence[Step],
    chosen: Mapping[str, panels.Panel],
    folder: AnyPath,
    config: VisualizeConfig,
    executor: Executor,
    settings: MeasureSettings,
) -> StateCache | None:
    """Return the cache of a run; None if caching is not worthwhile, or if the cluster's machines cannot reach it."""
    if config.cache == "never" or not (executor.sees_local_files or is_remote(folder)):
        return None
    is_small = count_logits(part for step in steps for part in step.parts) < settings.cache_min_logits
    if config.cache == "auto" and is_small and not folder.is_dir():
        return None
    refuse_link(folder)
    packages = frozenset(type(panel).__module__.partition(".")[0] for panel in chosen.values())
    return StateCache(folder, state_versions(chosen), packages, settings.cache_max_bytes)

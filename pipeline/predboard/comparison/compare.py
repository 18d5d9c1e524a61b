"""Compares steps image by image: reads both, counts, and writes files for people and scripts.

It knows no panel and no metric.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from predboard.comparison import changes, methods, render, report
from predboard.comparison.changes import Examples
from predboard.comparison.class_mapping import ClassMapping, match_classes
from predboard.comparison.differences import Comparison
from predboard.comparison.join import refuse_row_numbers
from predboard.comparison.report import Side
from predboard.config import CompareConfig
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.errors import InputError
from predboard.evaluation.amend import Amendments
from predboard.evaluation.sliced_columns import check_sliced_columns
from predboard.formatting import plural, shared_start
from predboard.images import decode
from predboard.metrics.class_groups import ClassGroups, groups_of
from predboard.near_paths import did_you_mean_path
from predboard.parallel.threads import ordered_map, worker_count
from predboard.predictions.positive_class import with_positive
from predboard.predictions.schema import digest_records
from predboard.storage.paths import AnyPath, is_inside
from predboard.storage.runs import (
    Step,
    distinct_names,
    explain_empty_steps,
    list_empty_steps,
    open_run,
    read_values,
)
from predboard.streams import print_warning
from predboard.summaries import EncodedImages, File, Picture, Summary, Tiles
from predboard.visualization import events, log_folder
from predboard.visualization.source_images import SourceImages

MAX_STEPS = 12
"""Steps of a run that are compared; of more, this many are taken, evenly spread."""

MAX_SIDES_ALL_PAIRS = 12
"""Up to this many sides all pairs are compared; beyond, each with the first and with the most accurate."""

MAX_NAME_BYTES = 120
"""Longest name of a comparison; a longer one counts the old sides instead of naming them, and has a digest."""


@dataclass(frozen=True)
class CompareResult:
    """The result of a comparison, and where it was written."""

    name: str
    folder: AnyPath
    event_file: AnyPath
    verdict: str
    """The result in one sentence."""
    summary: Mapping[str, Any]
    """The content of compare.json (docs/format.md)."""
    missing_pictures: int
    """Number of source images that were not found."""
    unchanged: bool
    """Whether nothing was written, because nothing had changed since the last time."""


def compare(config: CompareConfig, log: Callable[[str], None] = print_warning) -> CompareResult:
    """Compare two steps, or several with each other, row by row.

    Args:
        config: what to compare; the first is the old one.
        log: takes a line of progress for a person.

    Raises:
        InputError: for bad input; what was written before stays as it is.
    """
    amendments = Amendments(config)
    sides = _sides(config, log)
    method = methods.choose_method([(side.name, side.step.run) for side in sides])
    name = _name(sides)
    folder = config.logdir / name
    for predictions in config.predictions:
        if is_inside(folder, predictions):
            raise InputError(
                f"--logdir {config.logdir} would mix logs into the predictions {predictions}: name another folder"
            )
    if config.image_root is not None and not config.image_root.is_dir():
        near = did_you_mean_path(config.image_root, Path.is_dir)
        raise InputError(f"no folder {config.image_root}: --image-root is where the source images are now{near}")
    all_ = len(sides) <= MAX_SIDES_ALL_PAIRS
    classes = {
        pair: _classes(sides, pair, config, method)
        for pair in itertools.combinations(range(len(sides)), 2)
        if all_ or pair[0] == 0
    }
    positive = with_positive(sides[-1].step.run, config.positive).positive_class
    groups = groups_of(config.groups, sides[-1].step.run, classes[0, len(sides) - 1].names)
    made_from = _made_from(name, sides, config, amendments, groups)
    if current := log_folder.find_current(folder, made_from):
        summary = report.read_compare((folder / report.COMPARE_FILE).read_bytes())
        if summary is not None:
            return CompareResult(name, folder, current, summary["verdict"], summary, 0, unchanged=True)
    sides, amended = _amend(sides, amendments)
    if config.slice:
        check_sliced_columns(config.slice, sides[-1].step)

    rows = sum(side.step.rows for side in sides)
    which = plural(len(classes), "pair") if all_ else "each with the first and with the most accurate"
    log(f"{name}: {plural(rows, 'row')} in {plural(len(sides), 'step')}, {which}")
    with log_folder.replace_logs(folder, "comparison", config.predictions, log) as draft:
        settings = methods.Settings(config.slice, positive, groups)
        pairs, examples = _pairs(sides, classes, draft.staging, method, settings)
        while lacking := report.missing_pairs(pairs, len(sides)):
            more = {pair: _classes(sides, pair, config, method) for pair in lacking}
            pairs |= {pair: _compare_pair(sides, pair, mapping, method, settings) for pair, mapping in more.items()}
        if not any(comparison.state.both for comparison in pairs.values()):
            raise InputError(_strangers(sides[0], sides[-1]))
        whole = pairs[0, len(sides) - 1]
        mapped = any(mapping.mapped for mapping in classes.values())
        files = changes.CHANGES_FILE, whole.moves_file
        content = report.compare_json(name, sides, pairs, mapped, files, amended)
        album = _Album(sides[0], sides[-1], config, whole.names, method)
        for note in album.notes():
            log(note)
        drawn = album.drawn(render.summaries(sides, pairs, examples, method.views), worker_count(config.workers))
        draft.add_file(File(report.COMPARE_FILE, content))
        draft.add_file(File(whole.moves_file, method.moves_csv(whole)))
        _write(sides, drawn, draft)
        # Source pictures that are missing now may be there another time.
        event_file = draft.publish(_time(sides), "" if album.missing else made_from)
    for warning in album.warnings():
        log(warning)
    summary = report.read_compare(content) or {}
    return CompareResult(name, folder, event_file, summary["verdict"], summary, len(album.missing), unchanged=False)


def _sides(config: CompareConfig, log: Callable[[str], None]) -> list[Side]:
    """Return what to compare, the oldest first."""
    if not config.predictions:
        raise InputError("which predictions? For example: predboard compare predictions/old predictions/new")
    named = (config.step_old, config.step_new)
    if len(config.predictions) > 2 and named != (None, None):
        raise InputError(
            f"--step-old and --step-new are for one or two runs; there are {len(config.predictions)}: leave them out"
        )
    opened = [open_run(folder) for folder in config.predictions]
    for folder in dict.fromkeys(config.predictions):
        if empty := explain_empty_steps(folder, list_empty_steps(folder)):
            log(f"warning: {empty}")
    runs = distinct_names(config.predictions)
    if len(opened) == 1:
        (steps,) = opened
        chosen = [_step(steps, config.step_old, 0, runs[0]), _step(steps, config.step_new, -1, runs[0])]
        if named == (None, None):
            if len(steps) < 2:
                raise InputError(f"{config.predictions[0]} has one step: name another run to compare it with")
            chosen = [steps[i] for i in _spread(len(steps))]
            if len(chosen) < len(steps):
                log(f"{len(chosen)} of the {len(steps)} steps are compared; --step-old and --step-new name two")
        return [Side(f"{runs[0]} step {step.step}", runs[0], step) for step in chosen]
    if len(opened) == 2:
        chosen = [_step(steps, number, -1, run) for steps, number, run in zip(opened, named, runs, strict=True)]
    else:
        chosen = [steps[-1] for steps in opened]
    twice = len(set(runs)) < len(runs)  # one run, so its steps are what differs
    names = [
        run if number is None and not (twice and any(n is not None for n in named)) else f"{run} step {step.step}"
        for run, number, step in zip(runs, (*named, *[None] * len(runs)), chosen, strict=False)
    ]
    return [Side(*side) for side in zip(names, runs, chosen, strict=True)]


def _amend(sides: Sequence[Side], amendments: Amendments) -> tuple[list[Side], list[str]]:
    """Return the sides with corrected labels and further columns, and what there is to say of them."""
    amended, notes = [], []
    for side in sides:
        attached = amendments.attach([side.step], one_of_several=True)
        amended.append(replace(side, step=attached.steps[0]))
        notes += [*attached.notes, *(f"{side.name}: {effect.sentence()}" for effect in attached.effects.values())]
    amendments.refuse_unknown()
    return amended, list(dict.fromkeys(notes))


def _step(steps: Sequence[Step], number: int | None, default: int, run: str) -> Step:
    if number is None:
        return steps[default]
    chosen = next((step for step in steps if step.step == number), None)
    if chosen is None:
        numbers = ", ".join(str(step.step) for step in steps)
        raise InputError(f"{run} has no step {number}; there are {numbers}")
    return chosen


def _spread(count: int) -> list[int]:
    """Return at most MAX_STEPS places, evenly spread, with the first and the last."""
    if count <= MAX_STEPS:
        return list(range(count))
    return [round(i * (count - 1) / (MAX_STEPS - 1)) for i in range(MAX_STEPS)]


def _name(sides: Sequence[Side]) -> str:
    """Return the name of the comparison, which is that of its folder."""
    new, old = sides[-1], [side.name for side in sides[:-1]]
    if all(side.run == new.run for side in sides) and len({side.step.step for side in sides}) > 1:
        old = [str(side.step.step) for side in sides[:-1]]
    name = f"{new.name} vs {', '.join(old)}"
    return (
        name
        if len(name.encode()) <= MAX_NAME_BYTES
        else f"{new.name} vs {plural(len(old), 'other')} {digest_records({'old': old})[:6]}"
    )


def _pairs(
    sides: Sequence[Side],
    classes: Mapping[tuple[int, int], ClassMapping],
    folder: Path,
    method: methods.Method,
    settings: methods.Settings,
) -> tuple[dict[tuple[int, int], Comparison], Examples]:
    """Compare these pairs; the first side against the last with the table of changes and examples."""
    pairs = {}
    last = len(sides) - 1
    for (i, j), mapping in classes.items():
        old, new = sides[i].step, sides[j].step
        if (i, j) == (0, last):
            pairs[i, j], examples = method.compare_in_full(old, new, mapping, settings, folder / changes.CHANGES_FILE)
        else:
            pairs[i, j] = _compare_pair(sides, (i, j), mapping, method, settings)
    return pairs, examples


def _classes(
    sides: Sequence[Side], pair: tuple[int, int], config: CompareConfig, method: methods.Method
) -> ClassMapping:
    old, new = (sides[place] for place in pair)
    refuse_row_numbers(old.step, new.step, (old.name, new.name))
    return match_classes(old.step.run, new.step.run, (old.name, new.name), config.map_classes, method.shared)


def _compare_pair(
    sides: Sequence[Side],
    pair: tuple[int, int],
    classes: ClassMapping,
    method: methods.Method,
    settings: methods.Settings,
) -> Comparison:
    """Compare two sides without slices, changes and examples."""
    old, new = (sides[place].step for place in pair)
    return method.compare_pair(old, new, classes, methods.Settings(positive=settings.positive), False)


def _strangers(old: Side, new: Side) -> str:
    """Return the message for two sides without a common image."""
    one, other = (
        read_values(side.step, [start := side.step.parts[0].part.start], "image").get(start) for side in (old, new)
    )
    example = "" if None in (one, other) else f" ({other!r} is in one, {one!r} in the other)"
    return (
        f"{new.name} and {old.name} have no image in common{example}: rows are joined by key, which is the path below "
        "--data, or what --key-column of `predboard infer` and `import` names"
    )


def _write(
    sides: Sequence[Side],
    drawn: Iterable[tuple[int, Summary]],
    draft: log_folder.LogDraft,
) -> None:
    """Write the event file."""
    time = _time(sides)
    with decode.silence_pillow(), events.EventWriter(draft.events_path, time) as writer:
        for step, summary in drawn:
            writer.write(step, time, summary)


class _Album:
    """Source images of the examples: from where the new step finds them, else from where the old one does."""

    def __init__(
        self, old: Side, new: Side, config: CompareConfig, names: Sequence[str], method: methods.Method
    ) -> None:
        self._old, self._new, self._names, self._method = old, new, names, method
        self._of_old, self._of_new = (
            SourceImages((side.step,), config.image_root, anywhere=config.images_anywhere) for side in (old, new)
        )
        self.missing: set[str] = set()

    def notes(self) -> list[str]:
        """Return lines for a person that say from where images are taken."""
        return list(dict.fromkeys([*self._of_old.notes(), *self._of_new.notes()]))

    def warnings(self) -> list[str]:
        """Return warnings for a person; images outside are those that neither step may open."""
        self._of_new.outside &= self._of_old.outside
        self._of_old.outside = set()
        return list(dict.fromkeys([*self._of_old.warnings(), *self._of_new.warnings()]))

    def drawn(self, all_: Iterable[tuple[int, Summary]], threads: int) -> Iterator[tuple[int, Summary]]:
        """Yield the summaries in their order, with tiles drawn on threads."""
        summaries = list(all_)
        tiles = [s for _, s in summaries if isinstance(s, Tiles)]
        self._of_new.expect((self._new.step.step, s) for s in tiles)
        self._of_old.expect((self._old.step.step, Tiles(s.tag, {**s.rows, "id": s.rows["id_old"]})) for s in tiles)
        yield from ordered_map(self._drawn, summaries, threads)

    def _drawn(self, item: tuple[int, Summary]) -> tuple[int, Summary]:
        step, summary = item
        if isinstance(summary, Tiles):
            return step, self._encoded(summary)
        return step, events.encode_picture(summary) if isinstance(summary, Picture) else summary

    def _encoded(self, tiles: Tiles) -> EncodedImages:
        samples, rows, names = [], tiles.rows, self._names
        refs = [str(ref or "") for ref in rows["image"]]
        pictures = list(self._of_new.fitted(self._new.step.step, rows["id"].tolist(), refs))
        lost = [i for i, (picture, _) in enumerate(pictures) if picture is None]
        ids = rows["id_old"][lost].tolist()
        for i, other in zip(lost, self._of_old.fitted(self._old.step.step, ids, [refs[i] for i in lost]), strict=True):
            pictures[i] = other
        lost_refs = {ref for ref, (picture, _) in zip(refs, pictures, strict=True) if picture is None and ref}
        self.missing.update(lost_refs - (self._of_old.outside & self._of_new.outside))
        for i, (picture, exact) in enumerate(pictures):
            about = methods.PairTile(tiles.tag, (self._old.name, self._new.name), refs[i], shared_start(refs))
            drawn = self._method.draw_tile(picture, rows, i, names, about)
            samples.append(events.encode_png(drawn) if exact else events.encode_jpeg(drawn))
        return EncodedImages(tiles.tag, WIDTH_PX, HEIGHT_PX, tuple(samples), tiles.description)


def _time(sides: Sequence[Side]) -> float:
    """Return a second after the newest step was finished: TensorBoard colours runs by time, and theirs stay."""
    return max(side.step.finished for side in sides) + 1


def _made_from(
    name: str, sides: Sequence[Side], config: CompareConfig, amendments: Amendments, groups: ClassGroups
) -> str:
    """Return a digest of everything that decides what is written, as far as it is known without reading rows."""
    parts = [[side.name, [[asdict(p.part), p.run.fingerprint] for p in side.step.parts]] for side in sides]
    root = None if config.image_root is None else str(config.image_root.resolve())
    return digest_records(
        {
            "name": name,
            "parts": parts,
            "image_root": root,
            "images_anywhere": config.images_anywhere,
            "mapped": config.map_classes,
            "groups": asdict(groups),
            "slices": config.slice,
            "positive": config.positive,
            "code": log_folder.code_digest(),
            **({"amendments": amendments.digest} if amendments.digest else {}),
        }
    )

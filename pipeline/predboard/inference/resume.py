"""Finds the parts of a step that are missing or no longer valid, and the rows that failed. It knows no model and no
pictures.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from predboard.errors import DamagedError, InputError, first_line
from predboard.images.manifest import Manifest
from predboard.inference.relabel import find_relabelled
from predboard.predictions.schema import Run
from predboard.storage import part_plan
from predboard.storage.parts import PartFile, open_part, part_index, read_batches, verify_part
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.runs import delete_step, list_part_paths, part_path, step_folder


def find_missing(
    out: AnyPath,
    run: Run,
    plan: Sequence[part_plan.PartRange],
    manifest: Manifest,
    *,
    update: bool,
    overwrite: bool,
    log: Callable[[str], None],
    field_names: Mapping[str, str] | None = None,
    share: part_plan.Share = part_plan.WHOLE_RUN,
) -> tuple[list[part_plan.PartRange], list[AnyPath]]:
    """Return the parts of one step that have no valid part, and the parts whose data has changed.

    Args:
        out: the folder of the run.
        run: what existing parts must be of.
        plan: the parts of the whole run.
        manifest: the data that existing parts must be of.
        update: return parts of other data, for the caller to delete, instead of raising.
        overwrite: delete the step first.
        log: takes a line for the user, about a damaged part.
        field_names: other names for fields of the run, for the error message.
        share: the parts that count. Others are checked only for being of the same run and, without `update`, data.

    Raises InputError for parts of another run, and without `update` for parts of other data.
    """
    if overwrite and step_folder(out, run.step).exists():
        delete_step(out, run.step)
    missing = {part_range.index: part_range for part_range in plan if share.holds(part_range.index)}
    shard_at = {part_range.start: part_range for part_range in plan}
    planned = {part_path(out, run.step, part_range.index) for part_range in plan}
    changed: list[AnyPath] = []
    manifest_lengths: set[int] = set()
    paths = list_part_paths(out, run.step)

    def check(path: AnyPath) -> PartFile | DamagedError:
        try:
            file = open_part(path)
            if difference := run.difference(file.run):
                name, now, then = difference
                name = (field_names or {}).get(name, name)
                raise InputError(
                    f"{out} step {run.step} was made with another {name} ({then}, now {now}): name another --out, or "
                    "another --step, or replace this step with --overwrite"
                )
            if share.holds(part_index(path)):
                verify_part(file)
        except DamagedError as error:
            return error
        return file

    files = list(map_files(check, paths, out))
    for path, file in zip(paths, files, strict=True):
        if not share.holds(part_index(path)):
            continue
        if isinstance(file, DamagedError):
            if path in planned:
                log(f"{first_line(file).split(': re-run')[0]}; making it again")
            else:  # its data no longer exists
                changed.append(path)
            continue
        part, part_range = file.part, shard_at.get(file.part.start)
        manifest_lengths.add(part.manifest_rows)
        same_rows = _is_of(file, manifest)
        if part_range is not None and same_rows and part.stop == part_range.stop:
            del missing[part_range.index]
        elif part_range is None or not same_rows or part.stop != part.manifest_rows:  # otherwise its data only grew
            changed.append(path)
    if changed and not update:
        was = _describe_length(manifest_lengths, manifest)
        alone = len(find_relabelled(changed, manifest, plan))
        rewrites = f"; in {alone} of them labels alone changed, for which it does not run the model" if alone else ""
        raise InputError(
            f"the data changed{was}: {len(changed)} of {len(paths)} parts of {out} step {run.step} are no longer "
            f"valid, the first {changed[0].name}: --update makes them again and keeps the others{rewrites}"
        )
    if not update:
        _refuse_other_data(files, share, manifest)
    return list(missing.values()), changed


def _describe_length(before: Collection[int], manifest: Manifest) -> str:
    """Say how many rows the data had when parts were written, if they were more or fewer."""
    other = sorted(set(before) - {len(manifest)})
    rows = " or ".join(f"{count:,}" for count in other)
    return f" (it had {rows} rows, now {len(manifest):,}; see --limit)" if other else ""


def _refuse_other_data(files: Sequence[PartFile | DamagedError], share: part_plan.Share, manifest: Manifest) -> None:
    """Raise InputError for a part that another job made from other data, or from the same in another order."""
    others = (file for file in files if isinstance(file, PartFile) and not share.holds(part_index(file.path)))
    if file := next((file for file in others if not _is_of(file, manifest)), None):
        raise InputError(
            f"{file.path}, of another share, is of other data or of another order of the data: give all jobs the same "
            "list, or make that share again with --update"
        )


def _is_of(file: PartFile, manifest: Manifest) -> bool:
    """Return whether a part is of the same rows as the manifest has now."""
    part = file.part
    return part.stop <= len(manifest) and manifest.digest(part.start, part.stop) == part.manifest_digest


def failed_rows(
    out: AnyPath, step: int, plan: Sequence[part_plan.PartRange]
) -> dict[part_plan.PartRange, tuple[int, ...]]:
    """Return the ids of the rows with an error, by part, of parts that have a valid part."""

    def failed_ids(part_range: part_plan.PartRange) -> tuple[int, ...]:
        part = open_part(part_path(out, step, part_range.index))
        batches = read_batches(part, ("id", "predicted"))
        return tuple(itertools.chain.from_iterable(batch.id[~batch.is_scored].tolist() for batch in batches))

    return {part_range: ids for part_range, ids in zip(plan, map_files(failed_ids, plan, out), strict=True) if ids}

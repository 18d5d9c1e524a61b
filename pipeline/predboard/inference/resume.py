"""Which parts of a step are there already and still valid, and which must be made. Knows no model and no pictures."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from predboard.errors import DamagedError, InputError, first_line
from predboard.images.manifest import Manifest
from predboard.predictions.schema import Run
from predboard.storage import shards
from predboard.storage.parts import PartFile, open_part, part_index, read_batches, verify_part
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.runs import delete_step, list_part_paths, part_path, step_folder


def find_missing(
    out: AnyPath,
    run: Run,
    plan: Sequence[shards.Shard],
    manifest: Manifest,
    *,
    update: bool,
    overwrite: bool,
    say: Callable[[str], None],
    called: Mapping[str, str] | None = None,
    share: shards.Share = shards.WHOLE_RUN,
) -> tuple[list[shards.Shard], list[AnyPath]]:
    """The shards of one step that have no valid part, and the parts of data that is no longer so.

    With `overwrite` the step is deleted first. With `update` parts of other data are given back to be deleted;
    otherwise they raise InputError, and parts of another run do in any case. Parts that are not in the `share` are
    looked at for that alone. `called` has other names for fields of the run, for that message.
    """
    if overwrite and step_folder(out, run.step).exists():
        delete_step(out, run.step)
    todo = {shard.index: shard for shard in plan if share.holds(shard.index)}
    at = {shard.start: shard for shard in plan}
    planned = {part_path(out, run.step, shard.index) for shard in plan}
    changed: list[AnyPath] = []
    lengths: set[int] = set()
    paths = list_part_paths(out, run.step)

    def looked_at(path: AnyPath) -> PartFile | DamagedError:
        try:
            file = open_part(path)
            if difference := run.difference(file.run):
                name, now, then = difference
                name = (called or {}).get(name, name)
                raise InputError(
                    f"{out} step {run.step} was made with another {name} ({then}, now {now}): name another --out, "
                    "or another --step, or start this step again with --overwrite"
                )
            if share.holds(part_index(path)):
                verify_part(file)
        except DamagedError as error:
            return error
        return file

    for path, file in zip(paths, map_files(looked_at, paths, out), strict=True):
        if not share.holds(part_index(path)):
            continue
        if isinstance(file, DamagedError):
            if path in planned:
                say(f"{first_line(file).split(': run')[0]}; it is made again")
            else:  # of data that is no longer there
                changed.append(path)
            continue
        part, shard = file.part, at.get(file.part.start)
        lengths.add(part.manifest_rows)
        same_rows = part.stop <= len(manifest) and manifest.digest(part.start, part.stop) == part.manifest_digest
        if shard is not None and same_rows and part.stop == shard.stop:
            del todo[shard.index]
        elif not (shard is not None and same_rows and part.stop == part.manifest_rows):  # else its data only grew
            changed.append(path)
    if changed and not update:
        other = sorted(lengths - {len(manifest)})
        was = (
            f" (it had {' or '.join(f'{n:,}' for n in other)} rows, now {len(manifest):,}; see --limit)"
            if other
            else ""
        )
        raise InputError(
            f"the data changed{was}: {len(changed)} of {len(paths)} parts of {out} step {run.step} are no longer "
            f"valid, the first {changed[0].name}: --update does them again and keeps the others"
        )
    return list(todo.values()), changed


def failed_rows(out: AnyPath, step: int, plan: Sequence[shards.Shard]) -> dict[shards.Shard, tuple[int, ...]]:
    """The ids of the rows that have an error, of those of these valid parts that hold any."""

    def of(shard: shards.Shard) -> tuple[int, ...]:
        part = open_part(part_path(out, step, shard.index))
        batches = read_batches(part, ("id", "predicted"))
        return tuple(itertools.chain.from_iterable(b.id[b.predicted < 0].tolist() for b in batches))

    return {shard: ids for shard, ids in zip(plan, map_files(of, plan, out), strict=True) if ids}

"""Rewrites the parts of which nothing but labels has changed, with the columns that follow from them, without a model.

It knows no pictures. Each part is written aside and takes the place of the old one by one rename, so that a run that is
killed has every part either as it was or with the new labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from predboard.errors import DamagedError
from predboard.formatting import plural
from predboard.images.manifest import Manifest
from predboard.predictions.amendments import relabel
from predboard.predictions.digests import ManifestDigest
from predboard.predictions.schema import reserved_columns
from predboard.storage.part_plan import PartRange
from predboard.storage.parts import PartFile, PartWriter, open_part, read_batches, read_part_schema
from predboard.storage.paths import AnyPath, map_files


def find_relabelled(paths: Sequence[AnyPath], manifest: Manifest, plan: Sequence[PartRange]) -> list[PartFile]:
    """Return those of some intact parts that are of the manifest's rows but for their labels.

    None of a dataset: its items may have labels of their own.

    Args:
        paths: of part files, among which may be damaged ones.
        manifest: the data as they are now.
        plan: the ranges of rows that its parts have.
    """
    ranges = {(part_range.start, part_range.stop) for part_range in plan}

    def check(path: AnyPath) -> PartFile | None:
        try:
            file = open_part(path)
            planned = (file.part.start, file.part.stop) in ranges
            return file if planned and _differs_in_labels(file, manifest) else None
        except DamagedError:  # which is made again
            return None

    if manifest.is_dataset or not paths:
        return []
    return [file for file in map_files(check, paths, paths[0]) if file is not None]


def _differs_in_labels(file: PartFile, manifest: Manifest) -> bool:
    """Return whether refs and further columns of the manifest make, with the part's own labels, the part's digest."""
    digest, at = ManifestDigest(), file.part.start
    for rows in read_batches(file, {"label"}):
        digest.add(manifest.image.slice(at, len(rows)), rows.known_labels, manifest.columns.slice(at, len(rows)))
        at += len(rows)
    return digest.hexdigest() == file.part.manifest_digest


def rewrite_labels(files: Sequence[PartFile], manifest: Manifest, log: Callable[[str], None]) -> None:
    """Write parts again with the labels that the manifest has now, and say how many changed.

    Raises InputError if a part cannot be written; parts that were are whole.
    """
    if files:
        of_list = manifest.list_digest(files[0].run.shard_size)  # which all parts have in common
        changed = sum(_rewrite(file, manifest, of_list) for file in files)
        parts, steps = plural(len(files), "part"), plural(len({file.run.step for file in files}), "step")
        log(
            f"nothing but labels changed in {parts} of {steps}: {plural(changed, 'label')} and what follows from them "
            "rewritten, without running the model"
        )


def _rewrite(file: PartFile, manifest: Manifest, list_digest: str) -> int:
    part, run = file.part, file.run
    schema, reserved = read_part_schema(file), reserved_columns(run.task)
    further = pa.schema([field for field in schema if field.name not in reserved])
    digest = manifest.digest(part.start, part.stop)
    provenance = {**part.provenance, "list_digest": list_digest}
    writer = PartWriter(file.path, run, further if len(further) else None)
    changed = 0
    try:
        for rows in read_batches(file):
            start = int(rows.id[0])
            new = relabel(rows.known_labels, manifest.label[np.arange(start, start + len(rows))])
            changed += len(new.rows)
            writer.write(new.apply(rows, 0, None))
        writer.publish(replace(part, manifest_digest=digest, manifest_rows=len(manifest), provenance=provenance))
    finally:
        writer.abandon()  # which does nothing to a part that is published
    return changed

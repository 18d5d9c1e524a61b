"""Takes some images of a run into a smaller run, by a query as the tab Predictions has it. It knows no model.

The query is answered by the functions of the tab, from rows that are derived for it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predboard.composition.copied_rows import SourceRows, unify_columns, write_copies
from predboard.composition.inputs import NamedStep, have_same_images, open_runs, read_keys
from predboard.composition.new_step import CompositionResult, NewStep, check_out, source_facts
from predboard.config import TakeConfig
from predboard.errors import InputError
from predboard.evaluation.amend import Amendments
from predboard.evaluation.measure import measure_part
from predboard.formatting import plural
from predboard.log_names import ROWS_FILE
from predboard.predictions.sampling import Salt, mix
from predboard.storage.rows import DerivedRowsWriter
from predboard.storage.runs import Step
from predboard.streams import print_warning
from predboard.tab.columns import RowsFile
from predboard.tab.query import read_query
from predboard.tab.rows_command import query_parameters
from predboard.tab.selection import chosen_rows, select


def take(config: TakeConfig, log: Callable[[str], None] = print_warning) -> CompositionResult:
    """Write a run of the images that a query asks for, in the order of the data.

    Args:
        config: which images of which run.
        log: takes a line of progress for a person.

    Raises:
        InputError: for bad input, or a query that no image answers; nothing already written is lost.
    """
    if config.predictions is None:
        raise InputError(
            "which predictions? For example: predboard take predictions/x --where country=NO --out predictions/y"
        )
    (run,) = open_runs((config.predictions,))
    out = check_out(config.out, [run.folder], {step.step: step.run for step in run.steps})
    amendments = Amendments(config)
    amended = amendments.attach(run.steps)
    for note in (*amended.notes, *(f"step {step}: {effect.sentence()}" for step, effect in amended.effects.items())):
        log(note)
    last = amended.steps[-1]
    if other := next((step for step in amended.steps if step.rows != last.rows), None):
        raise InputError(
            f"step {other.step} of {run.folder} has {plural(other.rows, 'row')} and step {last.step} has "
            f"{last.rows:,}: name one step, as {run.folder}@{last.step}"
        )
    if other := next((step for step in amended.steps if not have_same_images(step, last)), None):
        raise InputError(
            f"steps {other.step} and {last.step} of {run.folder} are of different images, or have them in different "
            f"orders: name one step, as {run.folder}@{last.step}"
        )
    ids, asked = _find(config, last)
    log(f"{len(ids):,} of {plural(last.rows, 'image')}")
    made = []
    for step in amended.steps:
        source = NamedStep(run.name, step)
        about = {"made_by": "take", "query": asked, **source_facts([source])}
        if amendments.digest:
            about["amendments"] = list(amendments.digest)
        made.append(
            (
                NewStep(out, step.run, len(ids), (step,), about, unify_columns([source])),
                [SourceRows(source, ids)],
            )
        )
    return write_copies(made, config.overwrite, "take", log)


def _find(config: TakeConfig, step: Step) -> tuple[NDArray[np.int64], dict[str, str]]:
    """Return the rows of a step that the query asks for, ascending, and the query as the tab's address has it."""
    with tempfile.TemporaryDirectory(prefix="predboard-") as folder:
        file = Path(folder) / ROWS_FILE
        writer = DerivedRowsWriter(file, {"classes": list(step.run.classes)})
        try:
            for part in step.parts:
                for rows in measure_part(part, {}, step.step, with_rows=True)[1]:
                    writer.write(rows)
        finally:
            writer.close()
        rows_of_step = RowsFile(file).last
        asked = query_parameters(config, rows_of_step)
        mask = select(read_query({name: [text] for name, text in asked.items()}), rows_of_step)
        ids = chosen_rows(mask, step.rows)
    if config.limit is not None:
        asked["limit"] = str(config.limit)
        if config.limit < len(ids):
            ids = np.sort(ids[np.argsort(mix(read_keys(step)[ids], Salt.LIMIT), kind="stable")[: config.limit]])
    if not len(ids):
        raise InputError(f"no image of {step.parts[0].path.parent} is asked for: nothing to take")
    return ids, asked

"""Lists rows of a run for the command line, by the functions of the tab. It knows no request and no terminal."""

import functools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predboard.config import QueryConfig, RowsConfig
from predboard.errors import InputError, reading
from predboard.formatting import did_you_mean
from predboard.images import sources
from predboard.images.manifest import split_ref
from predboard.log_names import ROWS_FILE
from predboard.near_paths import did_you_mean_path
from predboard.storage.paths import explain_write_errors, is_inside, is_remote, join_ref, parse_path
from predboard.tab.answers import View, image_root_of
from predboard.tab.columns import StepRows
from predboard.tab.export import export_blocks
from predboard.tab.log_runs import LogRun
from predboard.tab.pairs import MOVES
from predboard.tab.query import OWN_NUMBERS, join_values, read_query

NAME_CHARACTERS = 80
"""Characters of a class or of an image's name in the name of its copy."""

MAX_LISTED = 10
"""Values that a message names."""


@dataclass(frozen=True)
class RowsResult:
    """The rows that were asked for."""

    total: int
    """Rows of the query, before the limit."""
    blocks: Callable[[], Iterator[bytes]]
    """Yields the list, in the format asked for, some rows at a time."""
    copied: int = 0
    """Images that were copied."""

    @property
    def content(self) -> bytes:
        """The whole list."""
        return b"".join(self.blocks())


def list_rows(config: RowsConfig, log: Callable[[str], None] = lambda _: None) -> RowsResult:
    """List the rows of a run that a query asks for, and copy their images if that is wanted.

    Args:
        config: the query and the format.
        log: takes a line for each image that cannot be copied.

    Raises:
        InputError: if there is no such run, step, class or column, or the folder for copies is not empty.
    """
    view, run = _open(config)
    step = run.step(config.step)
    _check_tags(config, view)
    query = read_query({name: [text] for name, text in _parameters(config, step).items()})
    sort, descending = _order(config, run)
    total, rows = view.rows(query, run, step, sort, descending, 0, config.limit)
    blocks = functools.partial(export_blocks, view, run, step, rows, config.format)
    copied = 0
    if config.copy_to is not None:
        copied = _copy_images(config.copy_to, run, step, rows, log)
        ending = "txt" if config.format == "paths" else config.format
        with explain_write_errors(config.copy_to), (config.copy_to / f"rows.{ending}").open("wb") as file:
            file.writelines(blocks())
    return RowsResult(total, blocks, copied)


def _open(config: RowsConfig) -> tuple[View, LogRun]:
    if config.logs is None:
        raise InputError("which run? For example: predboard rows logs/digits --wrong --sort loss")
    if is_remote(config.logs):
        raise InputError(
            f"{config.logs} is in object storage: copy the folder to this machine, or query its {ROWS_FILE} by DuckDB"
        )
    folder = Path(config.logs).resolve()
    if not (folder / ROWS_FILE).is_file():
        what = f"{config.logs} has no {ROWS_FILE}" if folder.is_dir() else f"no folder {config.logs}"
        near = did_you_mean_path(config.logs, lambda path: (path / ROWS_FILE).is_file())
        raise InputError(f"{what}: expected the logs of a run, logs/NAME, that `predboard visualize` wrote{near}")
    view = View(folder.parent)
    return view, view.runs.get(folder.name)


def _order(config: RowsConfig, run: LogRun) -> tuple[str, bool]:
    """Return the column to sort by, and whether its highest value comes first; by default as the tab does."""
    if config.sort is not None or (run.rows.has_labels and not config.suspects):
        return config.sort or "loss", not config.ascending
    return "suspect" if config.suspects else "confidence", False


def _check_tags(config: RowsConfig, view: View) -> None:
    """Raise InputError for a tag that no image has."""
    tags = view.tags.counts()
    for tag in config.tag:
        if tag not in ("!", *tags):
            expected = _some(tags) if tags else "none: nobody has tagged an image of these logs"
            near = did_you_mean(tag, tags)
            raise InputError(f"--tag is {tag!r}, which no image has; expected {expected}{near}")


def _some(words: Collection[str]) -> str:
    """Return the first of some words, in one line."""
    return ", ".join(repr(word[:NAME_CHARACTERS]) for word in list(words)[:MAX_LISTED]) + (
        ", …" if len(words) > MAX_LISTED else ""
    )


def _parameters(config: RowsConfig, step: StepRows) -> dict[str, str]:
    """Return the query as the parameters of the tab's address."""
    given = {"other": config.other, "kind": config.kind, "tag": ",".join(config.tag)}
    given |= {"suspect": "1" if config.suspects else ""}
    for name in ("was", *MOVES):
        given[name] = _class_numbers(f"--{name}", getattr(config, name), step.file.classes)
    return query_parameters(config, step) | {name: text for name, text in given.items() if text}


def query_parameters(config: QueryConfig, step: StepRows) -> dict[str, str]:
    """Return what a query asks of the rows themselves, as the parameters of the tab's address.

    Raises InputError for a class, column or value that the step does not have.
    """
    given = {name: getattr(config, name) for name in (*OWN_NUMBERS, "state")} | {"q": config.text}
    given |= {"right": "1" if config.right else "0" if config.wrong else ""}
    given |= {
        "true": _class_numbers("--true", config.true, step.file.classes),
        "pred": _class_numbers("--predicted", config.predicted, step.file.classes),
        "missed": _class_numbers("--missed", config.missed, step.file.classes),
        "wrongly_predicted": _class_numbers("--wrongly-predicted", config.wrongly_predicted, step.file.classes),
    }
    for clause in config.where:
        column, equals, value = clause.partition("=")
        if not equals:
            raise InputError(f"--where has {clause!r}; expected COLUMN=VALUE or COLUMN=LOW..HIGH")
        info = step.file.column(column, "number", "category")
        if info.kind == "number":
            given[f"n.{column}"] = value if ".." in value else f"{value}..{value}"
        elif value and value not in info.values:
            near = did_you_mean(value, info.values, 0.6)
            raise InputError(
                f"--where has {clause!r}, but no image has that {column}; expected {_some(info.values)}{near}"
            )
        else:
            words = [given[f"s.{column}"]] if f"s.{column}" in given else []
            given[f"s.{column}"] = "|".join([*words, join_values([value or None])])
    return {name: text for name, text in given.items() if text}


def _class_numbers(flag: str, names: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Return the numbers of classes, separated by commas."""
    whole = ",".join(names)
    numbers = []
    for name in [whole] if whole in classes else names:
        if name in classes:
            numbers.append(classes.index(name))
        elif re.fullmatch(r"-1|\d{1,9}", name, re.ASCII) and int(name) < len(classes):
            numbers.append(int(name))
        else:
            near = did_you_mean(name, classes)
            raise InputError(f"{flag} is {name!r}, which is none of the {len(classes):,} classes{near}")
    return ",".join(map(str, numbers))


def _copy_images(folder: Path, run: LogRun, step: StepRows, rows: NDArray[np.int64], log: Callable[[str], None]) -> int:
    """Copy the files of images into a new folder, and return how many were there to be copied."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--copy-to {folder} is there and not empty: name a new folder")
    root = image_root_of(run, step)
    if root is None:
        raise InputError(
            f"the predictions of {run.name} are not in their place, and they tell where the images are: move them "
            "back, or run predboard visualize on them again"
        )
    copied = 0
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, (row, ref) in enumerate(zip(rows.tolist(), step.few("image", rows), strict=True), 1):
            try:
                content = _read_inside(root, ref or "")
            except InputError as error:
                log(f"warning: no copy of image {number}: {error}")
                continue
            (folder / _copy_name(number, step, row, ref or "")).write_bytes(content)
            copied += 1
    return copied


def _read_inside(root: str, ref: str) -> bytes:
    """Return the bytes of an image below a root. Raises InputError for another, as predictions of others may name."""
    with reading(ref):
        if not is_inside(join_ref(root, split_ref(ref)[0] or ref), parse_path(root)):
            raise InputError(f"{ref} is not inside {root}")
        return sources.read(root, ref)


def _copy_name(number: int, step: StepRows, row: int, ref: str) -> str:
    """Return a name for the copy of an image: its number, its classes and its own name, without special characters."""
    classes = [step.classes.names(role, np.array([row]))[0] for role in ("true", "predicted")]
    texts = ["+".join(names) or "nothing" if isinstance(names, list) else names or "unknown" for names in classes]
    words = [*texts, re.split(r"[/\\#]", ref)[-1]]
    true_name, predicted_name, name = (re.sub(r"[^\w.-]+", "_", word)[-NAME_CHARACTERS:] for word in words)
    return f"{number:05d}_{true_name}_as_{predicted_name}_{name}"

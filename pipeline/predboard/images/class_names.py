"""Names the classes: from a file of names, and from a model's library. It knows nothing of pixels or of weights."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

from predboard.errors import InputError, first_line
from predboard.images.manifest import Manifest
from predboard.images.preprocessing import Recipe
from predboard.near_paths import did_you_mean_path
from predboard.storage.paths import AnyPath, read_small_text

_TITLES = ("class", "classes", "class_name", "class name", "name", "label", "labels", "category")
"""Titles of a column of class names, in lower case."""


def read_classes(file: AnyPath) -> tuple[str, ...]:
    """Return class names from a text file with one on each line, or from a JSON list.

    Raises InputError if the file cannot be read, is no list, is empty or names a class twice.
    """
    try:
        text = read_small_text(file)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        is_json = file.suffix == ".json" or text.lstrip()[:2] in ('["', '{"')
        names = json.loads(text) if is_json else _read_rows(file, text) if file.suffix in (".csv", ".tsv") else lines
        if not is_json and all(re.fullmatch('"[^"]*"', line) for line in lines):
            names = [line[1:-1] for line in lines]
    except InputError:
        raise
    except OSError as error:
        if "," in str(file):
            raise InputError(f"no file {file}: expected a file with one class name on each line, in order") from error
        near = did_you_mean_path(file, Path.is_file)
        raise InputError(f"cannot read {file}: {error.strerror or first_line(error)}{near}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}, which is not UTF-8: save the names as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} contains no class names: {first_line(error)}") from error
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise InputError(f"{file} is not a list of names; expected a JSON list in the order of the model's outputs")
    classes = tuple(str(name) for name in names if str(name))
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise InputError(f"{file} names the class {twice!r} twice: rename or remove one")
    if not classes:
        raise InputError(f"{file} is empty; expected one class name on each line")
    return classes


def _read_rows(file: AnyPath, text: str) -> list[str]:
    """Return the names in a table: its only column, or the column of names in the order of one of numbers from 0.

    Raises InputError for a table in which that is not clear.
    """
    delimiter = "\t" if file.suffix == ".tsv" else max(",;\t", key=text.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    titles = rows[0] if rows else []
    named = [i for i, title in enumerate(titles) if title.lower() in _TITLES]
    if not named and len(set(map(len, rows))) > 1:  # names with commas in them
        return [line.strip() for line in text.splitlines() if line.strip()]
    body = rows[1:] if named and len(rows) > 1 else rows
    if len(titles) <= 1:
        return [row[0] for row in body]
    places = list(map(str, range(len(body))))
    whole = all(len(row) == len(titles) for row in body)
    numbered = [i for i in range(len(titles)) if whole and sorted(row[i] for row in body) == sorted(places)]
    of_names = [i for i in (named or range(len(titles))) if i not in numbered]
    if len(numbered) != 1 or len(of_names) != 1:
        raise InputError(
            f"{file} has {len(titles)} columns ({', '.join(titles)}); expected one class name on each line, or numbers "
            "from 0 and names"
        )
    return [row[of_names[0]] for row in sorted(body, key=lambda row: int(row[numbered[0]]))]


def match_class_names(manifest: Manifest, recipe: Recipe | None, outputs: int) -> tuple[Manifest, str]:
    """Bring the manifest's classes into the order of the model's outputs, if the library knows that order.

    Names of the data are matched to the library's names or aliases without regard to case, spaces and underscores; the
    data may have some of them only, in any order. Without names in the data, labels are taken for indices of outputs.

    Args:
        manifest: with the names of folders, or of `--classes`.
        recipe: from the model's library.
        outputs: number of the model's outputs.

    -> the manifest, and a line for the user, empty if there is nothing to say.
    """
    if recipe is None or len(recipe.classes) != outputs:
        return manifest, ""
    line = f"class names from {recipe.source}"
    if not manifest.classes:
        return manifest.with_classes(recipe.classes), line
    for known in (recipe.classes, recipe.aliases):
        index_of = {_normalize(name): i for i, name in enumerate(known)}
        matched = [index_of.get(_normalize(name), -1) for name in manifest.classes]
        if len(index_of) == outputs and -1 not in matched and len(set(matched)) == len(matched):
            if manifest.is_dataset and matched != list(range(outputs)):  # its items give their own indices
                return manifest, f"warning: the dataset has its classes in another order than {recipe.source}"
            spelled = tuple(recipe.classes[i] for i in matched)
            return replace(manifest, classes=spelled).with_classes(recipe.classes), line
    if len(manifest.classes) != outputs:
        return manifest, ""
    theirs = ", ".join(recipe.classes[:3])
    return manifest, f"class names are the data's, in their order; {recipe.source} has others: {theirs}, …"


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()

"""Encodes the records of a run and of a part for the footer of a part file, and reads and checks them.

It does no I/O and knows no columns.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from typing import Any

from predboard.errors import DamagedError, InputError, first_line
from predboard.predictions.schema import (
    FORMAT_VERSION,
    FORMATS,
    MULTI_LABEL,
    SCORES,
    SINGLE_LABEL,
    Part,
    Run,
    canonical_json,
    digest_records,
    digest_texts,
)


def encode_footer(run: Run, part: Part) -> dict[str, str]:
    """Return the key-value metadata of a part file. Raises InputError for values that no reader would take."""
    records = run.record(), asdict(part)
    try:
        check_fields(Run, records[0])
        check_fields(Part, records[1])
    except (TypeError, ValueError) as error:
        raise InputError(f"a part cannot be written: {error}") from error
    return {
        "predboard.run": canonical_json(records[0]),
        "predboard.part": canonical_json(records[1]),
        "predboard.digest": digest_records(*records),
    }


def read_footer(metadata: Mapping[bytes, bytes] | None, where: str) -> tuple[Run, Part]:
    """Read `Run` and `Part` from the key-value metadata of a file; `where` names the file in errors.

    The digest is computed in the same way in every format, so that damage is never mistaken for a newer format.

    Raises:
        InputError: if the file has no predboard records, or they have a newer format.
        DamagedError: if the records are damaged.
    """
    metadata = metadata or {}
    if not any(key.startswith(b"predboard.") for key in metadata):
        raise InputError(
            f"{where} contains no predictions (its footer has no predboard record): run `predboard infer` first"
        )
    try:
        run, canonical = _run_record(metadata[b"predboard.run"])
        part = json.loads(metadata[b"predboard.part"])
        version = int(run["format"])
        digest = digest_texts((canonical, canonical_json(part)))
    except Exception as error:  # a parser raises whatever it happens to meet, RecursionError for example
        raise DamagedError(
            f"{where} is damaged (its footer cannot be read: {first_line(error)}): re-run the command that wrote it"
        ) from error
    if digest != metadata.get(b"predboard.digest", b"").decode("ascii", "replace"):
        raise DamagedError(
            f"{where} is damaged (its footer does not match its digest): re-run the command that wrote it"
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{where} has format {version}, but this predboard reads formats up to {FORMAT_VERSION}: upgrade predboard"
        )
    try:
        decoded = _decode_run(metadata[b"predboard.run"])
        check_fields(Part, part)
        return decoded, Part(**part)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the footer of {where} does not have the fields of format {version}: {first_line(error)}"
        ) from error


def check_fields(kind: type[Run | Part], record: Mapping[str, Any]) -> None:
    """Check the values of a record of a footer against the types of `kind`, and against each other.

    Raises TypeError for a field that is missing or of another type, and ValueError for values that cannot be.
    """
    if not isinstance(record, dict):
        raise TypeError(f"a record is {repr(record)[:60]}, expected an object")
    for field_ in fields(kind):
        expected, fits = _FIELD_TYPES[field_.type]
        if field_.name not in record and field_.default is MISSING and field_.default_factory is MISSING:
            raise TypeError(f"{field_.name} is missing")
        if field_.name in record and not fits(record[field_.name]):
            raise TypeError(f"{field_.name} is {repr(record[field_.name])[:60]}, expected {expected}")
    if kind is Run and not record["classes"]:
        raise ValueError("classes is empty")
    if kind is Run:
        _check_task(record)
    if kind is Part and not record["start"] <= record["stop"] <= record["manifest_rows"]:
        raise ValueError("expected start <= stop <= manifest_rows")


def _check_task(record: Mapping[str, Any]) -> None:
    """Raise ValueError for a task that there is not, or that does not fit the scores or the format."""
    task = record.get("task", SINGLE_LABEL)
    if task not in FORMATS:
        raise ValueError(f"task is {task!r}, expected {' or '.join(map(repr, FORMATS))}")
    scores, expected = record.get("scores", "logits"), SCORES[task]
    if scores not in expected:
        raise ValueError(f"scores is {scores!r}, expected {' or '.join(map(repr, expected))} of a {task} run")
    if (version := record.get("format", 1)) < FORMATS[task]:
        raise ValueError(f"format is {version}, expected {FORMATS[task]} of a {task} run")
    positive = record.get("positive")
    if positive and (len(record["classes"]) != 2 or positive not in record["classes"] or task == MULTI_LABEL):
        raise ValueError(f"positive is {positive!r}, expected one of two classes")


_LATEST = 253_402_300_800
"""First second of the year 10000, which no date can be."""


def _is_text(value: Any) -> bool:
    """Return whether a value is text that can be encoded: JSON may hold one half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_number(value: Any, limit: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < limit


_FIELD_TYPES: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", _is_text),
    int: ("a whole number from 0 to 2**63 - 1", lambda value: isinstance(value, int) and _is_number(value, 2**63)),
    float: (
        "seconds since 1970, before the year 10000 (is the clock right?)",
        lambda value: _is_number(value, _LATEST),
    ),
    tuple[str, ...]: ("a list of texts", lambda value: isinstance(value, list | tuple) and all(map(_is_text, value))),
    Mapping[str, Any]: ("an object", lambda value: isinstance(value, Mapping)),
    Mapping[str, float]: (
        "an object of numbers",
        lambda value: isinstance(value, Mapping) and all(_is_number(v, math.inf) for v in value.values()),
    ),
}
"""For each type of a field, in words what it is, and whether a value is of it."""


@lru_cache(8)
def _run_record(text: bytes) -> tuple[dict[str, Any], str]:
    """Parse the run's JSON, which is the same text in all parts of a step, once; also return its canonical form."""
    record: dict[str, Any] = json.loads(text)
    return record, canonical_json(record)


@lru_cache(8)
def _decode_run(text: bytes) -> Run:
    """Check and decode the run's JSON, once as well: 1,000 names of classes take a millisecond to check."""
    record, _ = _run_record(text)
    check_fields(Run, record)
    return Run(**{**record, "classes": tuple(record["classes"])})

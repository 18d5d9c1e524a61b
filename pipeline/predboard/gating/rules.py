"""Read rules from a TOML file and put them in words. It knows no predictions, only which metrics there may be.

What is not understood is refused, because a rule that is silently not tested passes whatever the model does.
"""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from predboard.errors import InputError, first_line
from predboard.formatting import nearest_names
from predboard.metrics import registry
from predboard.metrics.registry import pattern_of
from predboard.near_paths import did_you_mean_path
from predboard.storage.file_systems import StorageError
from predboard.storage.paths import AnyPath, is_remote, read_small_text

Bound = Literal["lower", "upper", "point"]

LIMIT_CEILING = 1e18
"""Limits are below: no metric is as large, and NaN is not below."""


@dataclass(frozen=True)
class Rule:
    """A requirement on a metric. `docs/gates.md` explains the keys."""

    metric: str
    """Name as in `summary.json`; `*` in a class or slice stands for any text."""
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    """Most that it may be worse than the baseline: lower, or for a loss or error, higher."""
    bound: Bound = "point"
    """Number that is tested: the value itself, or one end of its 95 % interval."""
    min_rows: int = 1
    """Number of images that the metric must be computed from."""
    max_unpaired: float = 0.01
    """Share of the images of either run that may have no counterpart in the other."""
    name: str = ""
    description: str = ""

    @property
    def conditions(self) -> dict[str, float]:
        """Limits by key."""
        limits = {"min": self.min, "max": self.max, "max_drop": self.max_drop}
        return {key: limit for key, limit in limits.items() if limit is not None}

    def words(self, key: str) -> str:
        """Return one of the conditions in words.

        >>> Rule("accuracy", min=0.94, bound="lower").words("min"), Rule("nll", max_drop=0.1).words("max_drop")
        ('≥ 0.94 (lower end)', 'worse by ≤ 0.1')
        """
        sign = {"min": "≥", "max": "≤", "max_drop": "worse by ≤"}[key]
        end = "" if self.bound == "point" else f" ({self.bound} end)"
        limit = self.conditions[key]
        return f"{sign} {limit:{',' if isinstance(limit, int) else '.12g'}}{end}"

    @property
    def title(self) -> str:
        """The rule's name, or what it tests."""
        return self.name or f"{self.metric} {', '.join(map(self.words, self.conditions))}"


RULE_KEYS = tuple(field.name for field in fields(Rule))


def read_rules(file: AnyPath, directions: Mapping[str, str]) -> tuple[Rule, ...]:
    """Read the rules of a TOML file.

    Args:
        file: a file with tables `[[rule]]`, on this machine or in storage.
        directions: all names that a metric may have, with `*` for a class or slice, and whether `more` or `less` of it
            is better, or `neither`.

    Raises InputError with one line that names the key, and the nearest correct one.
    """
    try:
        table = tomllib.loads(read_small_text(file))
    except StorageError:
        raise
    except OSError as error:
        hint = ""
        if isinstance(error, FileNotFoundError) and not is_remote(file):  # a shell writes to no other
            hint = (
                f"; `predboard gate RUN --suggest > {file}` writes a first one{did_you_mean_path(file, Path.is_file)}"
            )
        raise InputError(f"cannot read {file}: {error.strerror or first_line(error)}{hint}") from error
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits, and of deep lists
        raise InputError(f"{file} is not valid TOML: {first_line(error)}") from error
    if unknown := next((key for key in table if key != "rule"), None):
        raise InputError(f"{file} has {unknown!r}; expected tables [[rule]] and nothing else")
    records = table.get("rule", [])
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{file}: `rule` is not a list of tables; expected [[rule]], in two brackets, above each rule")
    return parse_rules(records, directions, str(file))


def parse_rules(
    records: Iterable[Mapping[str, Any]], directions: Mapping[str, str], where: str = "rules"
) -> tuple[Rule, ...]:
    """Build rules from tables, with the checks of `read_rules`."""
    records = list(records)
    if not all(isinstance(record, Mapping) for record in records):
        raise InputError(
            f"{where} are not a list of tables; expected one table per rule, such as {{'metric': 'nll', 'max': 1}}"
        )
    rules = tuple(_parse_rule(record, directions, f"{where}, rule {i}") for i, record in enumerate(records, 1))
    if not rules:
        raise InputError(f"{where} has no rule; expected [[rule]] with a metric and min, max or max_drop")
    names = [rule.name for rule in rules if rule.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: two rules have the name {twice!r}; expected a different name for each")
    return rules


def _parse_rule(record: Mapping[str, Any], directions: Mapping[str, str], where: str) -> Rule:
    if isinstance(record.get("metric"), str):
        where = f"{where} ({record['metric']})"
    for key in record:
        if key not in RULE_KEYS:
            raise InputError(
                f"{where} has no key {key!r}{_suggestion(key, RULE_KEYS)}; expected {', '.join(RULE_KEYS)}"
            )
    _check_types(record, where)
    # NumPy's numbers cannot be written to a report.
    rule = Rule(**{key: value.item() if hasattr(value, "item") else value for key, value in record.items()})
    pattern = pattern_of(rule.metric)
    if pattern not in directions:
        near = nearest_names(pattern, directions, 1)
        # River/recal, or River alone
        group = rule.metric.removeprefix(pattern.partition("*")[0]) if "*" in pattern else ""
        meant = near[0].replace("*", group.rpartition("/")[0] or group or "NAME") if near else ""
        suggestion = f"; did you mean {meant!r}?" if meant else ";"
        raise InputError(f"{where}: no metric has this name{suggestion} summary.json lists all names")
    _check_meaningful(rule, directions[pattern], where)
    return rule


def _check_types(record: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a value of the wrong type, or no metric."""
    for key in ("metric", "name", "description"):
        if key in record and not isinstance(record[key], str):
            raise InputError(f"{where}: {key} is {_as_toml(record[key])}; expected text in quotes")
    if not record.get("metric"):
        raise InputError(f'{where}: metric is missing; expected a name from summary.json, such as metric = "accuracy"')
    for key in ("min", "max", "max_drop", "max_unpaired"):
        if key in record and not _is_number(record[key]):
            raise InputError(f"{where}: {key} is {_as_toml(record[key])}; expected a number")
    rows = record.get("min_rows", 1)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"{where}: min_rows is {_as_toml(rows)}; expected a whole number of at least 1")
    bounds = ("lower", "upper", "point")
    if (bound := record.get("bound", "point")) not in bounds:
        raise InputError(
            f"{where}: bound is {_as_toml(bound)}{_suggestion(bound, bounds)}; expected {', '.join(bounds)}"
        )


def _check_meaningful(rule: Rule, better: str, where: str) -> None:
    """Raise InputError for values that make no sense."""
    if not rule.conditions:
        raise InputError(f"{where} has no condition; expected min, max or max_drop")
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise InputError(f"{where}: min is {rule.min:g} and max is {rule.max:g}; expected min to be at most max")
    spec = registry.find(rule.metric)
    if better != "neither" and spec is not None and spec.range[1] <= 1:
        for key, limit in rule.conditions.items():
            if abs(limit) > 1:
                raise InputError(f"{where}: {key} is {limit:g}; expected at most 1: {limit:g} % is {limit / 100:g}")
    if rule.max_drop is not None:
        if rule.max_drop < 0:
            raise InputError(f"{where}: max_drop is {rule.max_drop:g}; expected a number of at least 0")
        if better == "neither":
            raise InputError(f"{where}: this metric has no better or worse for max_drop; expected min or max")
    if not 0 <= rule.max_unpaired <= 1:
        raise InputError(f"{where}: max_unpaired is {rule.max_unpaired:g}; expected a share from 0 to 1")
    if rule.max_unpaired != Rule.max_unpaired and rule.max_drop is None:
        raise InputError(f"{where}: max_unpaired has no effect without max_drop; expected both or neither")


def _suggestion(word: Any, words: Collection[str]) -> str:
    near = nearest_names(word, words, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _is_number(value: Any) -> bool:
    """Return whether a value can be a limit: a finite number, not a bool."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and abs(value) < LIMIT_CEILING


def _as_toml(value: Any) -> str:
    """Format a value as short TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)

"""A file of rules -> rules, and rules in words. Knows no predictions: only which figures there may be.

What is not understood is refused, because a rule that is silently not tested passes whatever the model does.
"""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from predboard.errors import InputError, first_line

Bound = Literal["lower", "upper", "point"]

LIMIT_CEILING = 1e18
"""Limits are below: no figure is as large, and NaN is not below."""

UNBOUNDED_METRICS = ("nll", "brier", "conformal_size")
"""In the names of figures that may be above 1; of the others that have a better and worse, none can."""

GROUP_PREFIXES = ("classes/", "slices/")
"""What the names of figures begin with of which there is one for each class or slice."""


@dataclass(frozen=True)
class Rule:
    """What a figure must be. `docs/gates.md` has the keys in prose."""

    metric: str
    """Name as in `summary.json`; `*` in that of a class or slice stands for all that fit."""
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    """How much worse than the baseline it may be; of a loss or error, how much higher."""
    bound: Bound = "point"
    """What is tested: the value itself, or an end of its 95 % interval."""
    min_rows: int = 1
    """Images that it must rest on."""
    max_unpaired: float = 0.01
    """Share of the images of either run that may have no counterpart."""
    name: str = ""
    description: str = ""

    @property
    def conditions(self) -> dict[str, float]:
        """Limits by key."""
        limits = {"min": self.min, "max": self.max, "max_drop": self.max_drop}
        return {key: limit for key, limit in limits.items() if limit is not None}

    def words(self, key: str) -> str:
        """One of the conditions, for a person.

        >>> Rule("accuracy", min=0.94, bound="lower").words("min"), Rule("nll", max_drop=0.1).words("max_drop")
        ('≥ 0.94 (lower end)', 'worse by ≤ 0.1')
        """
        sign = {"min": "≥", "max": "≤", "max_drop": "worse by ≤"}[key]
        end = "" if self.bound == "point" else f" ({self.bound} end)"
        limit = self.conditions[key]
        return f"{sign} {limit:{',' if isinstance(limit, int) else '.12g'}}{end}"

    @property
    def title(self) -> str:
        """Its name, else what it tests."""
        return self.name or f"{self.metric} {', '.join(map(self.words, self.conditions))}"


RULE_KEYS = tuple(field.name for field in fields(Rule))


def read_rules(file: Path, figured: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules of a TOML file.

    Args:
        file: tables `[[rule]]`.
        figured: every name that a figure may have, `*` for a class or a slice: whether `more` or `less` of it is
            better, or `neither`.

    Raises InputError, one line that names the key and the nearest right one.
    """
    try:
        found = tomllib.loads(file.read_text("utf-8-sig"))  # as some editors save it
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}; `predboard gate RUN --suggest > {file}` writes a first one"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {first_line(error)}") from error
    if unknown := next((key for key in found if key != "rule"), None):
        raise InputError(f"{file} has {unknown!r}; expected tables [[rule]] and nothing else")
    records = found.get("rule", [])
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{file}: `rule` is no list of tables; expected [[rule]] above each rule, in two brackets")
    return parse_rules(records, figured, str(file))


def parse_rules(
    records: Iterable[Mapping[str, Any]], figured: Mapping[str, str], where: str = "rules"
) -> tuple[Rule, ...]:
    """Rules of tables, with the checks of `read_rules`."""
    records = list(records)
    if not all(isinstance(record, Mapping) for record in records):
        raise InputError(f"{where} are no list of tables; expected one for each, such as {{'metric': 'nll', 'max': 1}}")
    rules = tuple(_rule(record, figured, f"{where}, rule {i}") for i, record in enumerate(records, 1))
    if not rules:
        raise InputError(f"{where} has no rule; expected [[rule]] with a metric and min, max or max_drop")
    names = [rule.name for rule in rules if rule.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: two rules have the name {twice!r}; expected one for each")
    return rules


def _rule(record: Mapping[str, Any], figured: Mapping[str, str], where: str) -> Rule:
    if isinstance(record.get("metric"), str):
        where = f"{where} ({record['metric']})"
    for key in record:
        if key not in RULE_KEYS:
            raise InputError(f"{where} has no key {key!r}{_perhaps(key, RULE_KEYS)}; expected {', '.join(RULE_KEYS)}")
    for key in ("metric", "name", "description"):
        if key in record and not isinstance(record[key], str):
            raise InputError(f"{where}: {key} is {_shown(record[key])}; expected a text in quotes")
    if not record.get("metric"):
        raise InputError(f'{where}: metric is missing; expected a name of summary.json, such as metric = "accuracy"')
    for key in ("min", "max", "max_drop", "max_unpaired"):
        if key in record and not _is_number(record[key]):
            raise InputError(f"{where}: {key} is {_shown(record[key])}; expected a number")
    rows = record.get("min_rows", 1)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"{where}: min_rows is {_shown(rows)}; expected a whole number of at least 1")
    bounds = ("lower", "upper", "point")
    if (bound := record.get("bound", "point")) not in bounds:
        raise InputError(f"{where}: bound is {_shown(bound)}{_perhaps(bound, bounds)}; expected {', '.join(bounds)}")
    rule = Rule(**record)
    kind = pattern_of(rule.metric)
    if kind not in figured:
        like = nearest_names(kind, figured, 1)
        inside = rule.metric.removeprefix(kind.partition("*")[0]) if "*" in kind else ""  # River/recal, or River alone
        meant = like[0].replace("*", inside.rpartition("/")[0] or inside or "NAME") if like else ""
        raise InputError(
            f"{where}: no metric of that name{f', perhaps {meant!r}' if meant else ''}; summary.json has all names"
        )
    _meaningful(rule, figured[kind], where)
    return rule


def _meaningful(rule: Rule, better: str, where: str) -> None:
    """Raise InputError for values that can never be meant."""
    if not rule.conditions:
        raise InputError(f"{where} has no condition; expected min, max or max_drop")
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise InputError(f"{where}: min is {rule.min:g} and max is {rule.max:g}; expected min to be at most max")
    if better != "neither" and not any(word in pattern_of(rule.metric) for word in UNBOUNDED_METRICS):
        for key, limit in rule.conditions.items():
            if abs(limit) > 1:
                raise InputError(f"{where}: {key} is {limit:g}; expected at most 1: {limit:g} % is {limit / 100:g}")
    if rule.max_drop is not None:
        if rule.max_drop < 0:
            raise InputError(f"{where}: max_drop is {rule.max_drop:g}; expected a number of at least 0")
        if better == "neither":
            raise InputError(f"{where}: max_drop of what has no better and worse; expected min or max")
    if not 0 <= rule.max_unpaired <= 1:
        raise InputError(f"{where}: max_unpaired is {rule.max_unpaired:g}; expected a share, 0 to 1")
    if rule.max_unpaired != Rule.max_unpaired and rule.max_drop is None:
        raise InputError(f"{where}: max_unpaired without max_drop tests nothing; expected both or neither")


def pattern_of(metric: str) -> str:
    """The name of a figure with `*` for its class or slice.

    >>> pattern_of("classes/a/b/recall"), pattern_of("slices/country=NO/nll"), pattern_of("calibration/ece")
    ('classes/*/recall', 'slices/*/nll', 'calibration/ece')
    """
    for kind in GROUP_PREFIXES:
        if metric.startswith(kind):
            return f"{kind}*/{metric.rpartition('/')[2]}"
    return metric


def nearest_names(word: Any, words: Collection[str], limit: int = 3) -> list[str]:
    """Those of the words that are most like another, whatever their case, first those that end with it.

    >>> nearest_names("acuracy", ["nll", "accuracy", "mcc"]), nearest_names("ece", ["mce", "calibration/ece"], 1)
    (['accuracy'], ['calibration/ece'])
    """
    asked, lower = str(word).lower(), {known.lower(): known for known in words}
    ends = [known for known in lower if asked and known.endswith(asked)]
    like = difflib.get_close_matches(asked, lower, limit, 0.5)
    return [lower[found] for found in dict.fromkeys([*ends, *like])][:limit]


def _perhaps(word: Any, words: Collection[str]) -> str:
    found = nearest_names(word, words, 1)
    return f", perhaps {found[0]!r}" if found else ""


def _is_number(value: Any) -> bool:
    """Whether it is one that can be a limit: neither a truth value nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LIMIT_CEILING


def _shown(value: Any) -> str:
    """A value as TOML has it, in short."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)

"""Rules and figures -> verdicts, with the reason in words. Knows no files and no predictions.

A rule with `bound` tests an end of the 95 % interval. Where that is the end on which it is harder to pass, the interval
may hold the limit, and then there is too little evidence: neither that it is kept nor that it is missed.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from predboard.comparison.differences import Difference
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.gating.rules import Rule, nearest_names, pattern_of
from predboard.summaries import Metric

Status = Literal["pass", "too little evidence", "fail"]

SEVERITY: dict[Status, int] = {"pass": 0, "too little evidence": 1, "fail": 2}

EXIT_CODES: dict[Status, int] = {"pass": 0, "too little evidence": 3, "fail": 1}
"""Exit codes of the command; 2 is bad input."""

SLACK = 1e-9
"""Numbers that differ by less are equal: a limit may come from `summary.json`, and 0.94 - 0.935 is not 0.005."""


@dataclass(frozen=True)
class Finding:
    """One condition of a rule tested on one figure."""

    metric: str
    """Name of the figure, without `*`."""
    key: str
    """Of the condition: `min`, `max` or `max_drop`."""
    limit: float
    condition: str
    """In words: ≥ 0.94 (lower end)."""
    outcome: Status
    why: str
    """In a few words."""
    value: float | None = None
    """What was tested: the figure, or by how much it changed. None if it is not there."""
    interval: tuple[float, float] | None = None
    rows: int | None = None
    """Images that it rests on."""
    margin: float = -math.inf
    """How far the value is on the good side of the limit."""
    old: float | None = None
    new: float | None = None
    """Of a difference: the figure of the baseline, and that of the run, over the images that both have."""


@dataclass(frozen=True)
class Verdict:
    """What became of a rule."""

    metric: str
    """As the rule has it, perhaps with `*`."""
    title: str
    findings: tuple[Finding, ...]
    """Condition by condition."""
    name: str = ""
    description: str = ""
    bound: str = "point"

    @property
    def outcome(self) -> Status:
        """The gravest of its findings."""
        return most_severe(finding.outcome for finding in self.findings)

    def of(self, outcome: Status) -> list[Finding]:
        """Findings of one outcome."""
        return [finding for finding in self.findings if finding.outcome == outcome]


@dataclass(frozen=True)
class GateResult:
    """What became of all rules. `code` is what the command exits with."""

    run: str
    step: int
    images: Mapping[str, int]
    """`rows`, `manifest_rows`, `failed`, `unlabelled` and `counted`."""
    verdicts: tuple[Verdict, ...]
    baseline: str = ""
    baseline_step: int | None = None
    paired: Mapping[str, int] = field(default_factory=dict)
    """How many images are `compared` with the baseline, and how many are not for which reason."""

    @property
    def outcome(self) -> Status:
        """The gravest of all verdicts."""
        return most_severe(verdict.outcome for verdict in self.verdicts)

    @property
    def code(self) -> int:
        """0 all pass, 1 a rule fails, 3 none fails and for one there is too little evidence."""
        return EXIT_CODES[self.outcome]

    def count(self, outcome: Status) -> int:
        """How many verdicts are so."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)


def most_severe(outcomes: Iterable[Status]) -> Status:
    """That of several which counts: one that fails, else one that is not known."""
    return max(outcomes, key=SEVERITY.__getitem__, default="pass")


def at_least(value: float, interval: tuple[float, float] | None, limit: float, bound: str) -> Status:
    """Whether a figure is at least a limit.

    Args:
        value: the figure.
        interval: its ends; None stands for too few images for one.
        limit: what it must be.
        bound: `point` tests the value; `lower` asks for proof that it is, `upper` for none that it is not.

    >>> [at_least(0.95, (0.93, 0.97), limit, "lower") for limit in (0.92, 0.94, 0.98)]
    ['pass', 'too little evidence', 'fail']
    >>> [at_least(0.95, (0.93, 0.97), limit, "upper") for limit in (0.92, 0.96, 0.98)]
    ['pass', 'pass', 'fail']
    """
    if bound == "point":
        return "pass" if value >= limit - SLACK else "fail"
    if interval is None:
        return "too little evidence"
    lower, upper = interval
    if upper < limit - SLACK:
        return "fail"
    return "pass" if bound == "upper" or lower >= limit - SLACK else "too little evidence"


def at_most(value: float, interval: tuple[float, float] | None, limit: float, bound: str) -> Status:
    """Whether a figure is at most a limit: `at_least` of all with the other sign, so `upper` asks for proof."""
    turned = None if interval is None else (-interval[1], -interval[0])
    return at_least(-value, turned, -limit, {"lower": "upper", "upper": "lower"}.get(bound, bound))


def check_complete(rows: int, manifest_rows: int) -> Verdict:
    """The verdict on a run itself, whatever the rules: rows that are missing may be whole classes."""
    missing = manifest_rows - rows
    said = f"{missing:,} of {plural(manifest_rows, 'row')} are missing, perhaps whole classes"
    outcome: Status = "fail" if missing else "pass"
    why = said if missing else "no row is missing"
    found = Finding("images/missing", "max", 0, "= 0", outcome, why, missing, margin=-missing)
    return Verdict("images/missing", "images/missing = 0", (found,))


@dataclass(frozen=True)
class BaselineChange:
    """What a run is compared with, and how."""

    differences: Mapping[str, Difference]
    """By name of the figure."""
    less_is_better: frozenset[str]
    """Names with `*` for a class or slice; of the others that have a better and worse, more is better."""
    unpaired: float
    """Share of the images of either run that have no counterpart."""


def evaluate_rule(rule: Rule, figures: Mapping[str, Metric], change: BaselineChange | None = None) -> Verdict:
    """The verdict on one rule: every condition on every figure that its metric names; one that is not there fails.

    Args:
        rule: with `max_drop` only where there is a `change`.
        figures: of the run, by name.
        change: against the baseline.

    Raises InputError for a condition that the figure cannot be asked for, such as an end of an interval it never has.
    """
    findings = [
        _drop(rule, name, figures, change) if change and key == "max_drop" else _limit(rule, key, name, figures)
        for key in rule.conditions
        for name in match_names(rule.metric, figures) or [rule.metric]
    ]
    return Verdict(rule.metric, rule.title, tuple(findings), rule.name, rule.description, rule.bound)


def match_names(metric: str, names: Iterable[str]) -> list[str]:
    """Names that a metric of a rule means: that very one, else all that fit its `*`. Classes without a value are among
    them, as `classes/River/recall` of a class without images.

    >>> names = ["classes/a/b/support", "classes/c/support", "classes/c/recall", "recall_macro"]
    >>> match_names("classes/*/recall", names)
    ['classes/a/b/recall', 'classes/c/recall']
    """
    known = list(names)
    if metric in known or "*" not in metric:
        return [metric] if metric in known else []
    kind, _, figure = pattern_of(metric).rpartition("/")
    every = "support" if kind.startswith("classes/") else figure  # each class has a number of images, if 0
    inside = metric.removesuffix(f"/{figure}")
    fits = re.compile(".*".join(map(re.escape, inside.split("*"))), re.DOTALL).fullmatch
    return [
        f"{name.removesuffix(f'/{every}')}/{figure}"
        for name in known
        if pattern_of(name) == f"{kind}/{every}" and fits(name.removesuffix(f"/{every}"))
    ]


def _limit(rule: Rule, key: str, name: str, figures: Mapping[str, Metric]) -> Finding:
    """One condition, `min` or `max`, on one figure."""
    limit, figure = rule.conditions[key], figures.get(name)
    found = Finding(name, key, limit, rule.words(key), "fail", "")
    if figure is None:
        return replace(found, why=explain_missing(name, figures))
    if figure.rows is None and rule.min_rows > 1:
        raise InputError(f"rule {rule.title!r}: {name} is itself a number of images; expected min without min_rows")
    if not figure.method:
        _without_interval(rule, name)
    margin = figure.value - limit if key == "min" else limit - figure.value
    found = replace(found, value=figure.value, interval=figure.interval, rows=figure.rows, margin=margin)
    if figure.rows is not None and figure.rows < rule.min_rows:
        return replace(found, outcome="too little evidence", why=_few(figure.rows, rule.min_rows))
    test = {"min": at_least, "max": at_most}[key]
    outcome = test(figure.value, figure.interval, limit, rule.bound)
    return replace(found, outcome=outcome, why=_why(found, limit, key == "min", rule.bound, outcome))


def _without_interval(rule: Rule, name: str) -> None:
    """Raise InputError if a rule asks for an end of an interval that a figure never has."""
    if rule.bound != "point":
        raise InputError(f"rule {rule.title!r}: {name} has no interval; expected no bound, which tests its value")


def _drop(rule: Rule, name: str, figures: Mapping[str, Metric], change: BaselineChange) -> Finding:
    """The condition `max_drop` on one figure."""
    limit = rule.conditions["max_drop"]
    found = Finding(name, "max_drop", limit, rule.words("max_drop"), "fail", "")
    if name not in figures:
        return replace(found, why=explain_missing(name, figures))
    if name not in change.differences:
        return replace(found, outcome="too little evidence", why="no image that gives it a value is in both runs")
    d = change.differences[name]
    if d.interval is None and not figures[name].method:
        _without_interval(rule, name)
    less = pattern_of(name) in change.less_is_better
    margin = limit - d.difference if less else d.difference + limit
    values = replace(found, value=d.difference, interval=d.interval, rows=d.rows, old=d.old, new=d.new, margin=margin)
    unclear = replace(values, outcome="too little evidence")
    if change.unpaired > rule.max_unpaired:
        share = f"{100 * change.unpaired:.1f} % of the images"
        said = f"{share} have no counterpart, more than max_unpaired = {rule.max_unpaired:g}"
        return replace(unclear, why=said)
    if d.rows < rule.min_rows:
        return replace(unclear, why=_few(d.rows, rule.min_rows))
    test, at = (at_most, limit) if less else (at_least, -limit)
    outcome = test(d.difference, d.interval, at, rule.bound)
    return replace(values, outcome=outcome, why=_changed(values, less, rule.bound, outcome))


def _changed(of: Finding, less: bool, bound: str, outcome: Status) -> str:
    moved = of.value or 0.0
    said = "did not change"
    if moved:
        ends = f"from {format_number(of.old or 0.0)} to {format_number(of.new or 0.0)}"
        said = f"{'rose' if moved > 0 else 'fell'} {ends}, by {format_number(abs(moved), of.limit)}"
    worse = f"worse by more than {of.limit:.12g}"
    if bound == "point":
        return said if outcome == "pass" else f"{said}: {worse}"
    if of.interval is None:
        return f"{said}; there are too few images for an interval"
    if outcome == "too little evidence":
        return f"{said}; whether it is {worse} cannot be told: more images would tell"
    if outcome == "fail":
        return f"{said}; surely {worse}"
    careful = (bound == "upper") == less
    return f"{said}; {'surely not' if careful else 'not surely'} {worse}"


def _why(of: Finding, limit: float, least: bool, bound: str, outcome: Status) -> str:
    good, bad = ("at least", "below") if least else ("at most", "above")
    said = f"{limit:.12g}"
    if of.value is None or bound == "point":
        return f"{format_number(of.value or 0, limit)} is {good if outcome == 'pass' else bad} {said}"
    if of.interval is None:
        return "there are too few images for an interval"
    lower, upper = (format_number(end, limit) for end in of.interval)
    if outcome == "too little evidence":
        return f"{said} is inside the interval, {lower} to {upper}: more images would tell"
    near_end, far_end = f"the interval begins at {lower}", f"the interval ends at {upper}"
    if not least:
        near_end, far_end = far_end, near_end
    if outcome == "fail":
        return f"surely {bad} {said}: {far_end}"
    careful = (bound == "lower") == least
    return f"surely {good} {said}: {near_end}" if careful else f"not surely {bad} {said}: {far_end}"


def _few(rows: int, least: int) -> str:
    return f"it rests on {plural(rows, 'image')}, fewer than min_rows = {least:,}"


def explain_missing(name: str, figures: Mapping[str, Metric]) -> str:
    """Why a figure is not there, and which others are near."""
    kind, _, figure = pattern_of(name).rpartition("/")
    if f"{name.removesuffix(f'/{figure}')}/support" in figures:
        return f"has no value: no image {'was predicted as it' if figure == 'precision' else 'of it counts'}"
    alike = {group_name(other): other for other in figures if kind and pattern_of(other) == f"{kind}/{figure}"}
    close = [alike[like] for like in nearest_names(group_name(name), alike) or list(alike)[:3]] or nearest_names(
        name, figures
    )
    return f"is not there{'; near: ' if close else ''}{', '.join(close)}"


def group_name(name: str) -> str:
    """The class or slice that a figure is of.

    >>> group_name("classes/a/b/recall"), group_name("slices/country=NO/nll")
    ('a/b', 'country=NO')
    """
    return name.partition("/")[2].rpartition("/")[0]


def format_number(value: float, unlike: float | None = None) -> str:
    """A figure for a person: by four decimals, or by as many as tell it from a limit that it is not.

    >>> format_number(0.94331), format_number(0.939999, 0.94), format_number(2700), format_number(0.00001234)
    ('0.9433', '0.939999', '2,700', '1.2e-05')
    """
    if isinstance(value, int):
        return f"{value:,}"
    for digits in range(4, 13):
        said = f"{value:.{digits}f}" if abs(value) >= 1e-3 or not value else f"{value:.{digits - 2}g}"
        if unlike is None or float(said) != unlike or abs(value - unlike) < SLACK:
            break
    return said


def format_change(value: float) -> str:
    """A difference for a person.

    >>> format_change(0.0123), format_change(-0.5), format_change(0.0)
    ('+0.0123', '-0.5000', '0.0000')
    """
    return f"{'+' if value > 0 else ''}{format_number(value)}"

"""Evaluate rules on the metrics of a run: a status for each, with the reason in words. It knows no files and no
predictions.

A rule with `bound` tests one end of the 95 % interval. On the end where it is harder to pass, the limit may lie inside
the interval; the status is then "too little evidence", because the data neither show that the rule holds nor that it is
broken.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from predboard.comparison.flips import Difference
from predboard.errors import InputError
from predboard.formatting import nearest_names, plural
from predboard.gating.rules import Rule
from predboard.metrics.registry import pattern_of
from predboard.metrics.slice_crosses import CROSS, crosses_in
from predboard.summaries import Metric

Status = Literal["pass", "too little evidence", "fail"]

SEVERITY: dict[Status, int] = {"pass": 0, "too little evidence": 1, "fail": 2}

EXIT_CODES: dict[Status, int] = {"pass": 0, "too little evidence": 3, "fail": 1}
"""Exit codes of the command; 2 is bad input."""

TOLERANCE = 1e-9
"""Numbers that differ by less are equal: a limit may be copied from `summary.json`, and 0.94 - 0.935 is not 0.005."""


@dataclass(frozen=True)
class Finding:
    """The result of testing one condition of a rule on one metric."""

    metric: str
    """Name of the metric, without `*`."""
    key: str
    """Key of the condition: `min`, `max` or `max_drop`."""
    limit: float
    condition: str
    """The condition in words: ≥ 0.94 (lower end)."""
    outcome: Status
    why: str
    """The reason in a few words."""
    value: float | None = None
    """The number that was tested: the metric, or how much it changed. None if there is no such metric."""
    interval: tuple[float, float] | None = None
    rows: int | None = None
    """Number of images that the metric is computed from."""
    margin: float = -math.inf
    """Distance of the value from the limit, positive on the good side."""
    old: float | None = None
    """For a difference: the metric of the baseline, over the images that both runs have."""
    new: float | None = None
    """For a difference: the metric of the run, over the same images."""


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule."""

    metric: str
    """Metric as the rule names it, possibly with `*`."""
    title: str
    findings: tuple[Finding, ...]
    """Findings, condition by condition."""
    name: str = ""
    description: str = ""
    bound: str = "point"

    @property
    def outcome(self) -> Status:
        """The most severe status among the findings."""
        return most_severe(finding.outcome for finding in self.findings)

    def findings_with(self, outcome: Status) -> list[Finding]:
        """Return the findings with one status."""
        return [finding for finding in self.findings if finding.outcome == outcome]


@dataclass(frozen=True)
class GateResult:
    """The result of all rules. `code` is the exit code of the command."""

    run: str
    step: int
    images: Mapping[str, int]
    """Numbers of images: `rows`, `manifest_rows`, `failed`, `unlabelled` and `counted`."""
    verdicts: tuple[RuleResult, ...]
    baseline: str = ""
    baseline_step: int | None = None
    paired: Mapping[str, int] = field(default_factory=dict)
    """Number of images `compared` with the baseline, and numbers of those left out by reason."""
    notes: tuple[str, ...] = ()
    """What corrected labels and further columns did, a line each."""

    @property
    def outcome(self) -> Status:
        """The most severe status among the rules."""
        return most_severe(verdict.outcome for verdict in self.verdicts)

    @property
    def code(self) -> int:
        """0 if all rules pass, 1 if one fails, 3 if none fails but one has too little evidence."""
        return EXIT_CODES[self.outcome]

    def count(self, outcome: Status) -> int:
        """Return the number of rules with a status."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)


def most_severe(statuses: Iterable[Status]) -> Status:
    """Return the most severe of several statuses; `pass` if there are none."""
    return max(statuses, key=SEVERITY.__getitem__, default="pass")


def at_least(value: float, interval: tuple[float, float] | None, limit: float, bound: str) -> Status:
    """Test whether a value is at least a limit.

    Args:
        value: the metric.
        interval: its 95 % interval; None if there are too few images for one.
        limit: the smallest value that passes.
        bound: `point` tests the value; `lower` requires evidence that it is large enough, `upper` only that there is no
            evidence against it.

    >>> [at_least(0.95, (0.93, 0.97), limit, "lower") for limit in (0.92, 0.94, 0.98)]
    ['pass', 'too little evidence', 'fail']
    >>> [at_least(0.95, (0.93, 0.97), limit, "upper") for limit in (0.92, 0.96, 0.98)]
    ['pass', 'pass', 'fail']
    """
    if bound == "point":
        return "pass" if value >= limit - TOLERANCE else "fail"
    if interval is None:
        return "too little evidence"
    lower, upper = interval
    if upper < limit - TOLERANCE:
        return "fail"
    return "pass" if bound == "upper" or lower >= limit - TOLERANCE else "too little evidence"


def at_most(value: float, interval: tuple[float, float] | None, limit: float, bound: str) -> Status:
    """Test whether a value is at most a limit: `at_least` with all signs turned, so that `upper` requires evidence."""
    turned = None if interval is None else (-interval[1], -interval[0])
    return at_least(-value, turned, -limit, {"lower": "upper", "upper": "lower"}.get(bound, bound))


def check_complete(rows: int, manifest_rows: int, later: Sequence[int] = ()) -> RuleResult:
    """Return the result of a rule that every gate has: no row is missing, because whole classes may be.

    `later` are steps after the one that was measured as the last, all of whose rows are missing.
    """
    missing = manifest_rows - rows
    why = "no row is missing"
    if missing:
        why = f"{missing:,} of {plural(manifest_rows, 'row')} are missing, possibly whole classes"
    finding = Finding("images/missing", "max", 0, "= 0", "fail" if missing else "pass", why, missing, margin=-missing)
    if later and not missing:
        why = f"step {later[-1]} is the last and holds no part"
        finding = replace(finding, outcome="fail", why=why, value=None, margin=-math.inf)
    return RuleResult("images/missing", "images/missing = 0", (finding,))


@dataclass(frozen=True)
class BaselineChange:
    """The differences of a run from its baseline."""

    differences: Mapping[str, Difference]
    """Differences by name of the metric."""
    less_is_better: frozenset[str]
    """Names, with `*` for a class or slice, of the metrics where less is better."""
    unpaired: float
    """Share of the images of either run that have no counterpart in the other."""


def evaluate_rule(rule: Rule, metrics: Mapping[str, Metric], change: BaselineChange | None = None) -> RuleResult:
    """Test every condition of a rule on every metric that it names; a metric that does not exist fails.

    Args:
        rule: a rule, with `max_drop` only where there is a `change`.
        metrics: metrics of the run, by name.
        change: difference from the baseline.

    Raises InputError for a condition that cannot be tested, such as an end of an interval that the metric never has.
    """
    findings = [
        _test_drop(rule, name, metrics, change)
        if change and key == "max_drop"
        else _test_limit(rule, key, name, metrics)
        for key in rule.conditions
        for name in match_names(rule.metric, metrics) or [rule.metric]
    ]
    return RuleResult(rule.metric, rule.title, tuple(findings), rule.name, rule.description, rule.bound)


def match_names(metric: str, names: Iterable[str]) -> list[str]:
    """Return the names that a rule's metric stands for: itself, else all names that match its `*`.

    Classes without a value match too, such as `classes/River/recall` of a class without images.

    >>> names = ["classes/a/b/support", "classes/c/support", "classes/c/recall", "recall_macro"]
    >>> match_names("classes/*/recall", names)
    ['classes/a/b/recall', 'classes/c/recall']
    """
    known = list(names)
    if metric in known or "*" not in metric:
        return [metric] if metric in known else []
    kind, _, last = pattern_of(metric).rpartition("/")
    every = "support" if kind.startswith("classes/") else last  # each class has a number of images, even if it is 0
    group = metric.removesuffix(f"/{last}")
    crossed = crosses_in([metric])
    fits = re.compile(".*".join(map(re.escape, group.split("*"))), re.DOTALL).fullmatch
    return [
        f"{name.removesuffix(f'/{every}')}/{last}"
        for name in known
        if pattern_of(name) == f"{kind}/{every}" and fits(name.removesuffix(f"/{every}"))
        if crosses_in([name]) == crossed  # country=* is no season
    ]


def _test_limit(rule: Rule, key: str, name: str, metrics: Mapping[str, Metric]) -> Finding:
    """Test one condition, `min` or `max`, on one metric."""
    limit, metric = rule.conditions[key], metrics.get(name)
    finding = Finding(name, key, limit, rule.words(key), "fail", "")
    if metric is None:
        return replace(finding, why=explain_missing(name, metrics))
    if metric.rows is None and rule.min_rows > 1:
        raise InputError(f"rule {rule.title!r}: {name} is itself a number of images; expected min instead of min_rows")
    if not metric.method:
        _check_no_bound(rule, name)
    margin = metric.value - limit if key == "min" else limit - metric.value
    finding = replace(finding, value=metric.value, interval=metric.interval, rows=metric.rows, margin=margin)
    if metric.rows is not None and metric.rows < rule.min_rows:
        return replace(finding, outcome="too little evidence", why=_too_few(metric.rows, rule.min_rows))
    test = {"min": at_least, "max": at_most}[key]
    status = test(metric.value, metric.interval, limit, rule.bound)
    why = _explain_limit(finding, key == "min", rule.bound, status)
    if rule.bound != "point" and metric.interval is None and metric.bound:
        why = f"it has no interval: too few images, or scores too nearly equal (known within {metric.bound:.1g})"
    return replace(finding, outcome=status, why=why)


def _check_no_bound(rule: Rule, name: str) -> None:
    """Raise InputError if a rule asks for an end of an interval that a metric never has."""
    if rule.bound != "point":
        raise InputError(f"rule {rule.title!r}: {name} has no interval; leave out bound to test its value")


def _test_drop(rule: Rule, name: str, metrics: Mapping[str, Metric], change: BaselineChange) -> Finding:
    """Test the condition `max_drop` on one metric."""
    limit = rule.conditions["max_drop"]
    finding = Finding(name, "max_drop", limit, rule.words("max_drop"), "fail", "")
    if name not in metrics:
        return replace(finding, why=explain_missing(name, metrics))
    if name not in change.differences:
        why = "no image that it could be computed from is in both runs"
        return replace(finding, outcome="too little evidence", why=why)
    d = change.differences[name]
    if d.interval is None and not metrics[name].method:
        _check_no_bound(rule, name)
    less = pattern_of(name) in change.less_is_better
    margin = limit - d.difference if less else d.difference + limit
    finding = replace(
        finding, value=d.difference, interval=d.interval, rows=d.rows, old=d.old, new=d.new, margin=margin
    )
    unclear = replace(finding, outcome="too little evidence")
    if change.unpaired > rule.max_unpaired:
        share = f"{100 * change.unpaired:.1f} % of the images"
        why = f"{share} have no counterpart in the other run, more than max_unpaired = {rule.max_unpaired:g}"
        return replace(unclear, why=why)
    if d.rows < rule.min_rows:
        return replace(unclear, why=_too_few(d.rows, rule.min_rows))
    test, at = (at_most, limit) if less else (at_least, -limit)
    status = test(d.difference, d.interval, at, rule.bound)
    return replace(finding, outcome=status, why=_explain_drop(finding, less, rule.bound, status))


def _explain_drop(finding: Finding, less: bool, bound: str, status: Status) -> str:
    """Return how a metric changed, and whether that is worse than `max_drop` allows."""
    moved = finding.value or 0.0
    change = "did not change"
    if moved:
        ends = f"from {format_number(finding.old or 0.0)} to {format_number(finding.new or 0.0)}"
        change = f"{'rose' if moved > 0 else 'fell'} {ends}, by {format_number(abs(moved), finding.limit)}"
    worse = f"worse by more than {finding.limit:.12g}"
    if bound == "point":
        return change if status == "pass" else f"{change}: {worse}"
    if finding.interval is None:
        return f"{change}; there are too few images for an interval"
    if status == "too little evidence":
        return f"{change}; there are too few images to tell whether it is {worse}"
    if status == "fail":
        return f"{change}; clearly {worse}"
    needs_evidence = (bound == "upper") == less
    return f"{change}; {'clearly not' if needs_evidence else 'not clearly'} {worse}"


def _explain_limit(finding: Finding, least: bool, bound: str, status: Status) -> str:
    """Return on which side of its limit a metric is, and how clearly."""
    good, bad = ("at least", "below") if least else ("at most", "above")
    limit = f"{finding.limit:.12g}"
    if finding.value is None or bound == "point":
        return f"{format_number(finding.value or 0, finding.limit)} is {good if status == 'pass' else bad} {limit}"
    if finding.interval is None:
        return "there are too few images for an interval"
    lower, upper = (format_number(end, finding.limit) for end in finding.interval)
    if status == "too little evidence":
        return f"the interval, {lower} to {upper}, contains {limit}: more images are needed to decide"
    near_end, far_end = f"the interval starts at {lower}", f"the interval ends at {upper}"
    if not least:
        near_end, far_end = far_end, near_end
    if status == "fail":
        return f"clearly {bad} {limit}: {far_end}"
    needs_evidence = (bound == "lower") == least
    return f"clearly {good} {limit}: {near_end}" if needs_evidence else f"not clearly {bad} {limit}: {far_end}"


def _too_few(rows: int, minimum: int) -> str:
    return f"it is based on {plural(rows, 'image')}, fewer than min_rows = {minimum:,}"


def explain_missing(name: str, metrics: Mapping[str, Metric]) -> str:
    """Return why a metric does not exist, and which similar ones do."""
    kind, _, last = pattern_of(name).rpartition("/")
    if f"{name.removesuffix(f'/{last}')}/support" in metrics:
        none = "was predicted as this class" if last == "precision" else "of this class has a label and a prediction"
        return f"has no value: no image {none}"
    groups = {group_name(other): other for other in metrics if kind and pattern_of(other) == f"{kind}/{last}"}
    asked, patterns, own = group_name(name), [f"{kind}/{last}"], list[str]()
    if kind.startswith("slices/") and (column := _nearest_column(asked, groups)):
        own = [group for group in groups if _column(group) == column and (CROSS in group) == (CROSS in asked)]
        groups = {group: groups[group] for group in own} or groups
        patterns = [f"slices/{column}=*/{last}", f"slices/{column} */{last}", *patterns]
    nearest = nearest_names(asked, groups)
    near = [groups[group] for group in (nearest + own if own else nearest or list(groups))]
    if "*" in asked:
        near = [*[pattern for pattern in patterns if match_names(pattern, metrics)][:1], *near]
    near = list(dict.fromkeys(near))[:3] or nearest_names(name, metrics)
    return f"does not exist{'; similar: ' if near else ''}{', '.join(near)}"


def _column(group: str) -> str:
    """Return the column of a slice, also of a name that is only like a slice's.

    >>> [_column(group) for group in ("country=NO", "age ≤ 30", "age 30 to 40", "age/*", "age *")]
    ['country', 'age', 'age', 'age', 'age']
    """
    return re.split(r"=| [≤>] | [-+.\d]\S* to |[*/]", group)[0].strip()


def _nearest_column(asked: str, groups: Iterable[str]) -> str:
    """Return the column of slices that a person meant; nothing if none is near."""
    columns = {_column(group) for group in groups}
    return next(iter(nearest_names(_column(asked), columns, 1, 0.7)), "")


def group_name(name: str) -> str:
    """Return the class or slice in the name of a metric.

    >>> group_name("classes/a/b/recall"), group_name("slices/country=NO/nll")
    ('a/b', 'country=NO')
    """
    return name.partition("/")[2].rpartition("/")[0]


def format_number(value: float, other: float | None = None) -> str:
    """Write a metric with four decimals, or with as many as are needed to tell it from another number.

    >>> format_number(0.94331), format_number(0.939999, 0.94), format_number(2700), format_number(0.00001234)
    ('0.9433', '0.939999', '2,700', '1.2e-05')
    """
    if isinstance(value, int):
        return f"{value:,}"
    for digits in range(4, 13):
        text = f"{value:.{digits}f}" if abs(value) >= 1e-3 or not value else f"{value:.{digits - 2}g}"
        if other is None or float(text) != other or abs(value - other) < TOLERANCE:
            break
    return text


def format_change(value: float) -> str:
    """Write a difference with its sign.

    >>> format_change(0.0123), format_change(-0.5), format_change(0.0)
    ('+0.0123', '-0.5000', '0.0000')
    """
    return f"{'+' if value > 0 else ''}{format_number(value)}"

"""Compare an author's classification_report with what the predictions give: does it belong to them? It knows no files.

The figures are scikit-learn's: classes in rows, then accuracy or the micro average, and the macro and weighted averages
over the rows. A number agrees if it rounds to what is printed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import nearest_names, plural
from predboard.gating.evaluate import Finding, RuleResult, format_number
from predboard.gating.printed_report import AVERAGES, COLUMNS, SCORES, PrintedReport
from predboard.metrics.counts import CountMetrics

ZERO_DIVISIONS = (0.0, 1.0, math.nan)
"""What scikit-learn may have been asked to print for a division by zero."""


def check_report(report: PrintedReport, counts: CountMetrics, names: Sequence[str]) -> tuple[RuleResult, ...]:
    """Return a result for each column of a report, with a finding for each of its numbers.

    Args:
        report: the author's.
        counts: of the labelled rows.
        names: of the classes.
    """
    rows = [name for name in report.rows if name != "accuracy" and name not in AVERAGES]
    classes = match_classes(rows, names)
    known = np.array([c for c in classes.values() if c is not None], np.int64)
    ways = [_compare(report, expected(counts, known, classes, way)) for way in ZERO_DIVISIONS]
    findings = min(ways, key=lambda way: sum(f.outcome == "fail" for f in way))
    lost = [*_unknown(report, classes, names), *_left_out(report, counts, known, names)]
    every = [*findings, *lost]
    order = [*(f"report/*/{column}" for column in COLUMNS), "report/accuracy"]
    return tuple(
        RuleResult(metric, f"{report.file.name}: {metric.rpartition('/')[2]}", those)
        for metric in order
        if (those := tuple(f for f in every if _pattern(f.metric) == metric))
    )


def match_classes(rows: Sequence[str], names: Sequence[str]) -> dict[str, int | None]:
    """Return the class of each row of a report: by its name, else by its number if all are numbers; None for none.

    >>> match_classes(["sea ", "Land"], ["Land", "Sea"]), match_classes(["0", "1"], ["Land", "Sea"])
    ({'sea ': 1, 'Land': 0}, {'0': 0, '1': 1})
    """
    exact = {name: i for i, name in enumerate(names)}
    folded = [name.strip().casefold() for name in names]
    loose = {name: i for i, name in enumerate(folded) if folded.count(name) == 1} if len(names) < 10_000 else {}
    found_by_name = {row: exact.get(row, loose.get(row.strip().casefold())) for row in rows}
    numbers = [int(row) if row.isascii() and row.isdigit() else -1 for row in rows]
    if None in found_by_name.values() and all(0 <= n < len(names) for n in numbers):
        return dict(zip(rows, numbers, strict=True))
    return found_by_name


def expected(
    counts: CountMetrics, listed: NDArray[np.int64], classes: Mapping[str, int | None], zero_division: float
) -> dict[str, dict[str, float]]:
    """Return every number that a report of these classes has, by row and column, as scikit-learn computes it.

    Args:
        counts: of the labelled rows.
        listed: classes of the report.
        classes: class of each row, None for one that there is not.
        zero_division: what a division by zero gives.
    """
    hits, support, predictions = (
        n[listed].astype(np.float64) for n in (counts.hits, counts.support, counts.predictions)
    )
    by_class = dict(zip(SCORES, _scores(hits, support, predictions, zero_division), strict=True))
    total = float(support.sum())
    place = {c: i for i, c in enumerate(listed.tolist())}
    table = {
        name: {**{s: float(v[place[c]]) for s, v in by_class.items()}, "support": float(support[place[c]])}
        for name, c in classes.items()
        if c is not None
    }
    one, all_, as_them = (np.array([n.sum()]) for n in (hits, support, predictions))
    sums = _scores(one, all_, as_them, zero_division)
    for name, averaged in (
        ("micro avg", [float(value[0]) for value in sums]),
        ("macro avg", [_mean(v, np.ones_like(v)) for v in by_class.values()]),
        ("weighted avg", [_mean(v, support) for v in by_class.values()]),
    ):
        table[name] = {**dict(zip(SCORES, averaged, strict=True)), "support": total}
    n = max(counts.counted, 1)
    table["accuracy"] = {"f1-score": float(counts.hits.sum()) / n, "support": float(counts.counted)}
    return table


def _scores(
    hits: NDArray[np.float64], support: NDArray[np.float64], predictions: NDArray[np.float64], zero: float
) -> tuple[NDArray[np.float64], ...]:
    """Return precision, recall and F1."""
    ratios = ((hits, predictions), (hits, support), (2 * hits, support + predictions))
    return tuple(np.where(below > 0, above / np.maximum(below, 1), zero) for above, below in ratios)


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the weighted mean of the values that are defined."""
    some = ~np.isnan(values)
    total = weights[some].sum()
    return float((values[some] * weights[some]).sum() / total) if total else math.nan


def _compare(report: PrintedReport, table: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    findings = []
    for row, numbers in report.rows.items():
        for column in COLUMNS:
            if column in numbers and row in table:
                metric = f"report/{row}/{column}"
                if row == "accuracy":
                    metric = "report/accuracy" if column == "f1-score" else f"report/accuracy/{column}"
                rows = int(table[row]["support"])
                findings.append(_finding(report, metric, numbers[column], table[row][column], rows))
    return findings


def _finding(report: PrintedReport, metric: str, printed: float, value: float, rows: int) -> Finding:
    """Compare one number; where both divide by zero there is none to compare."""
    is_support = metric.endswith("/support")
    is_rounded = report.rounded and not is_support
    tolerance = 0.5 if is_support else report.tolerance
    condition = f"as printed (± {0.5 * 10.0**-report.digits:.12g})" if is_rounded else "as printed"
    limit = 0.0 if math.isnan(printed) else printed
    finding = Finding(metric, "equal", limit, condition, "pass", "as printed", rows=rows)
    if math.isnan(printed) and math.isnan(value):
        return replace(finding, margin=0.0)
    ours = "not defined" if math.isnan(value) else format_number(int(value) if is_support else value, printed)
    theirs = f"{printed:.{report.digits}f}" if is_rounded else f"{printed:.10g}"
    off = abs(value - printed)
    agrees = off <= tolerance  # not for nan
    why = f"{ours} rounds to {theirs}" if agrees else f"the report has {theirs}, these predictions give {ours}"
    return replace(
        finding,
        outcome="pass" if agrees else "fail",
        why=why,
        value=None if math.isnan(value) else int(value) if is_support else value,
        margin=-math.inf if math.isnan(off) else tolerance - off,
    )


def _unknown(report: PrintedReport, classes: Mapping[str, int | None], names: Sequence[str]) -> Iterator[Finding]:
    """Yield a failure for each row that names no class."""
    for row, c in classes.items():
        if c is None:
            near = nearest_names(row, names)
            why = f"no class has this name{'; similar: ' if near else ''}{', '.join(near)}"
            yield Finding(
                f"report/{row}/support", "equal", report.rows[row].get("support", 0.0), "as printed", "fail", why
            )


def _left_out(
    report: PrintedReport, counts: CountMetrics, listed: NDArray[np.int64], names: Sequence[str]
) -> Iterator[Finding]:
    """Yield a failure for each class that occurs and is not in a report of all classes, which has an accuracy."""
    if "accuracy" not in report.rows:
        return
    occurs = (counts.support + counts.predictions) > 0
    occurs[listed] = False
    for c in np.flatnonzero(occurs).tolist():
        images = int(counts.support[c])
        why = f"has {plural(images, 'image')} and {plural(int(counts.predictions[c]), 'prediction')}; not in the report"
        yield Finding(f"report/{names[c]}/support", "equal", 0.0, "as printed", "fail", why, images, rows=images)


def _pattern(metric: str) -> str:
    return metric if metric == "report/accuracy" else f"report/*/{metric.rpartition('/')[2]}"


def judgement(report: PrintedReport, results: Sequence[RuleResult]) -> str:
    """Say in one sentence whether the report belongs to the predictions."""
    every = [finding for result in results for finding in result.findings]
    failed = [finding for finding in every if finding.outcome == "fail"]
    digits = f"to {plural(report.digits, 'digit')}" if report.rounded else "to all digits"
    if not failed:
        return f"{report.file} belongs to these predictions: {plural(len(every), 'figure')} agree {digits}"
    supports = any(finding.metric.endswith("/support") for finding in failed)
    why = "of other images, labels or classes" if supports else "of the same labels, but other predictions"
    count = f"{len(failed):,} of {plural(len(every), 'figure')} differ"
    return f"{report.file} does not belong to these predictions: {count}; it is {why}"

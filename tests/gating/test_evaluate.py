"""Verdicts: three-way logic, absent figures, changes against a baseline; every rule kind passing and failing."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predboard import InputError
from predboard.comparison.flips import Difference
from predboard.gating.evaluate import (
    EXIT_CODES,
    TOLERANCE,
    BaselineChange,
    Finding,
    GateResult,
    RuleResult,
    Status,
    at_least,
    at_most,
    check_complete,
    evaluate_rule,
    format_number,
    match_names,
    most_severe,
)
from predboard.gating.rules import Bound, Rule
from predboard.metrics.intervals import wilson_intervals
from predboard.summaries import Metric
from tests import toy

UNCLEAR: Status = "too little evidence"
FIGURES = {
    "accuracy": Metric(0.95, (0.93, 0.97), "share", "Wilson", rows=400),
    "nll": Metric(0.2, (0.15, 0.25), "loss", "mean", rows=400),
    "aurc": Metric(0.02, None, "area", "jackknife", rows=4),
    "calibration/mce": Metric(0.1, None, "worst bin", rows=400),
    "images/failed": Metric(3, definition="failed"),
    "classes/River/Lake/support": Metric(200, definition="n"),
    "classes/River/Lake/recall": Metric(0.9, (0.85, 0.94), "share", "Wilson", rows=200),
    "classes/a b/support": Metric(200, definition="n"),
    "classes/a b/recall": Metric(1.0, (0.98, 1.0), "share", "Wilson", rows=200),
    "classes/none/support": Metric(0, definition="n"),
    "classes/none/precision": Metric(0.0, (0.0, 0.3), "share", "Wilson", rows=9),
    "slices/country=NO/accuracy": Metric(0.8, (0.7, 0.9), "share", "Wilson", rows=60),
    "slices/country=SE/accuracy": Metric(0.9, (0.8, 1.0), "share", "Wilson", rows=60),
}


@pytest.mark.parametrize(
    ("rule", "expected", "why"),
    [
        (Rule("accuracy", min=0.94), "pass", "0.9500 is at least 0.94"),
        (Rule("accuracy", min=0.95), "pass", "0.9500 is at least 0.95"),
        (Rule("accuracy", min=0.9501), "fail", "0.9500 is below 0.9501"),
        (Rule("accuracy", min=0.95000001), "fail", "0.9500 is below 0.95000001"),
        (Rule("accuracy", max=0.95), "pass", "0.9500 is at most 0.95"),
        (Rule("accuracy", max=0.94), "fail", "0.9500 is above 0.94"),
        (Rule("accuracy", min=0.93, bound="lower"), "pass", "clearly at least 0.93: the interval starts at 0.9300"),
        (Rule("accuracy", min=0.94, bound="lower"), UNCLEAR, "the interval, 0.9300 to 0.9700, contains 0.94: more"),
        (Rule("accuracy", min=0.97, bound="lower"), UNCLEAR, "contains 0.97"),
        (Rule("accuracy", min=0.98, bound="lower"), "fail", "clearly below 0.98: the interval ends at 0.9700"),
        (Rule("accuracy", min=0.96, bound="upper"), "pass", "not clearly below 0.96: the interval ends at 0.9700"),
        (Rule("accuracy", min=0.98, bound="upper"), "fail", "clearly below 0.98: the interval ends at 0.9700"),
        (Rule("nll", max=0.25, bound="upper"), "pass", "clearly at most 0.25: the interval ends at 0.2500"),
        (Rule("nll", max=0.2, bound="upper"), UNCLEAR, "the interval, 0.1500 to 0.2500, contains 0.2"),
        (Rule("nll", max=0.1, bound="upper"), "fail", "clearly above 0.1: the interval starts at 0.1500"),
        (Rule("nll", max=0.18, bound="lower"), "pass", "not clearly above 0.18: the interval starts at 0.1500"),
        (Rule("nll", max=0.1, bound="lower"), "fail", "clearly above 0.1: the interval starts at 0.1500"),
        (Rule("aurc", max=0.1, bound="upper"), UNCLEAR, "there are too few images for an interval"),
        (Rule("accuracy", min=0.94, min_rows=400), "pass", "0.9500 is at least 0.94"),
        (Rule("accuracy", min=0.99, min_rows=401), UNCLEAR, "it is based on 400 images, fewer than min_rows = 401"),
        (Rule("images/failed", max=3), "pass", "3 is at most 3"),
        (Rule("images/failed", max=0), "fail", "3 is above 0"),
        (Rule("classes/River/Lake/recall", min=0.9), "pass", "0.9000 is at least 0.9"),
        (Rule("classes/a b/recall", min=0.9, min_rows=201), UNCLEAR, "it is based on 200 images"),
        (Rule("slices/country=NO/accuracy", min=0.9), "fail", "0.8000 is below 0.9"),
        # What is not there fails.
        (Rule("classes/Rivr/Lake/recall", min=0), "fail", "does not exist; similar: classes/River/Lake/recall"),
        (Rule("classes/none/recall", min=0), "fail", "has no value: no image of this class has a label"),
        (Rule("classes/a b/precision", min=0), "fail", "has no value: no image was predicted as this class"),
        (
            Rule("slices/country=FI/accuracy", min=0),
            "fail",
            "similar: slices/country=SE/accuracy, slices/country=NO/",
        ),
        (Rule("slices/zzz=1/accuracy", min=0), "fail", "similar: slices/country=NO/accuracy, slices/country=SE/acc"),
        (Rule("accuracy_top5", min=0), "fail", "does not exist; similar: accuracy"),
        (Rule("classes/zz*/recall", min=0), "fail", "does not exist; similar: classes/"),
        (Rule("slices/zz*/nll", max=1), "fail", "does not exist"),
    ],
)
def test_one_condition(rule: Rule, expected: Status, why: str) -> None:
    verdict = evaluate_rule(rule, FIGURES)
    (finding,) = verdict.findings
    assert (verdict.outcome, finding.outcome) == (expected, expected)
    assert why in finding.why
    figure = FIGURES.get(rule.metric)
    assert finding.value == (figure.value if figure else None)


@pytest.mark.parametrize(
    ("asked", "similar"),
    [
        ("slices/age/*/accuracy", "slices/age */accuracy, slices/age ≤ 30/accuracy, slices/age 30 to 40/accuracy"),
        ("slices/age/accuracy", "slices/age ≤ 30/accuracy, slices/age > 40/accuracy, slices/age 30 to 40/accuracy"),
        (
            "slices/contry=*/accuracy",
            "slices/country=*/accuracy, slices/country=SE/accuracy, slices/country=NO/accuracy",
        ),
        ("slices/country=NOO/accuracy", "slices/country=NO/accuracy, slices/country=SE/accuracy"),
        ("slices/zzz=*/accuracy", "slices/*/accuracy, slices/age_group=a/accuracy, slices/country=NO/accuracy"),
        ("classes/Riv/*/recall", "classes/*/recall, classes/River/Lake/recall"),
    ],
)
def test_the_slices_of_the_column_that_was_meant_come_first_after_a_pattern_that_works(
    asked: str, similar: str
) -> None:
    names = ("age_group=a", "country=NO", "country=SE", "age ≤ 30", "age 30 to 40", "age > 40", "age=1 & country=NO")
    figures = FIGURES | {f"slices/{name}/accuracy": FIGURES["slices/country=NO/accuracy"] for name in names}
    figures = {name: figures[name] for name in sorted(figures, key=lambda name: "age_group" not in name)}
    (finding,) = evaluate_rule(Rule(asked, min=0), figures).findings
    assert finding.why == f"does not exist; similar: {similar}"
    assert match_names(similar.partition(",")[0], figures)


def test_both_ends_of_a_range_are_conditions_of_their_own() -> None:
    verdict = evaluate_rule(Rule("accuracy", min=0.9, max=0.94), FIGURES)
    assert [(f.key, f.outcome) for f in verdict.findings] == [("min", "pass"), ("max", "fail")]
    assert verdict.outcome == "fail"
    assert verdict.title == "accuracy ≥ 0.9, ≤ 0.94"


def test_every_class_and_slice_that_a_star_means_must_pass() -> None:
    some = {name: figure for name, figure in FIGURES.items() if not name.startswith("classes/none/")}
    assert evaluate_rule(Rule("classes/*/recall", min=0.9), some).outcome == "pass"
    verdict = evaluate_rule(Rule("classes/*/recall", min=0.95), some)
    assert {f.metric: f.outcome for f in verdict.findings} == {
        "classes/River/Lake/recall": "fail",
        "classes/a b/recall": "pass",
    }
    absent = evaluate_rule(Rule("classes/*/recall", min=0), FIGURES).findings_with("fail")
    assert [(f.metric, f.value) for f in absent] == [("classes/none/recall", None)]
    slices = evaluate_rule(Rule("slices/country=*/accuracy", min=0.85), FIGURES)
    assert [(f.metric, f.outcome) for f in slices.findings] == [
        ("slices/country=NO/accuracy", "fail"),
        ("slices/country=SE/accuracy", "pass"),
    ]
    assert len(evaluate_rule(Rule("classes/Riv*/recall", min=0), FIGURES).findings) == 1


def test_a_star_in_the_name_of_a_class_means_that_class() -> None:
    names = ["classes/a*/support", "classes/a*/recall", "classes/ab/support", "classes/ab/recall"]
    assert match_names("classes/a*/recall", names) == ["classes/a*/recall"]
    assert match_names("classes/*/recall", names) == ["classes/a*/recall", "classes/ab/recall"]
    assert match_names("classes/.*/recall", names) == []  # no regular expression
    assert match_names("accuracy", ["accuracy_top5"]) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("images/failed", max=0, min_rows=5), "rule 'images/failed ≤ 0': images/failed is itself a number of im"),
        (Rule("images/failed", max=0, bound="upper"), "images/failed has no interval; leave out bound"),
        (Rule("calibration/mce", max=0.2, bound="upper"), "calibration/mce has no interval; leave out bound"),
    ],
)
def test_what_a_figure_cannot_be_asked_for_is_refused(rule: Rule, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate_rule(rule, FIGURES)


def against(
    name: str, difference: float, ends: tuple[float, float] | None, rows: int = 400, unpaired: float = 0
) -> BaselineChange:
    of = Difference(0.9, 0.9 + difference, difference, ends, rows)
    return BaselineChange({name: of}, frozenset({"nll"}), unpaired)


TOO_FEW = "did not change; there are too few images to tell whether it is worse by more than 0.01"


@pytest.mark.parametrize(
    ("metric", "bound", "difference", "ends", "expected", "why"),
    [
        ("accuracy", "point", 0.02, None, "pass", "rose from 0.9000 to 0.9200, by 0.0200"),
        ("accuracy", "point", -0.01, None, "pass", "fell from 0.9000 to 0.8900, by 0.01"),
        ("accuracy", "point", -0.011, None, "fail", "fell from 0.9000 to 0.8890, by 0.0110: worse by more than 0.01"),
        ("accuracy", "lower", -0.005, (-0.009, 0.0), "pass", "by 0.0050; clearly not worse by more than 0.01"),
        ("accuracy", "lower", 0.0, (-0.02, 0.02), UNCLEAR, TOO_FEW),
        ("accuracy", "lower", -0.03, (-0.04, -0.02), "fail", "; clearly worse by more than 0.01"),
        ("accuracy", "lower", 0.1, None, UNCLEAR, "there are too few images for an interval"),
        ("accuracy", "upper", -0.02, (-0.04, 0.0), "pass", "; not clearly worse by more than 0.01"),
        ("accuracy", "upper", -0.03, (-0.04, -0.02), "fail", "; clearly worse by more than 0.01"),
        # More of a loss is worse.
        ("nll", "point", -0.5, None, "pass", "fell from 0.9000 to 0.4000, by 0.5000"),
        ("nll", "point", 0.011, None, "fail", "rose from 0.9000 to 0.9110, by 0.0110: worse"),
        ("nll", "upper", 0.0, (-0.01, 0.01), "pass", "clearly not worse"),
        ("nll", "upper", 0.0, (-0.02, 0.02), UNCLEAR, TOO_FEW),
        ("nll", "upper", 0.03, (0.02, 0.04), "fail", "clearly worse"),
        ("nll", "lower", 0.03, (0.0, 0.06), "pass", "not clearly worse"),
    ],
)
def test_a_change_against_the_baseline(
    metric: str, bound: Bound, difference: float, ends: tuple[float, float] | None, expected: Status, why: str
) -> None:
    rule = Rule(metric, max_drop=0.01, bound=bound)
    (finding,) = evaluate_rule(rule, FIGURES, against(metric, difference, ends)).findings
    assert finding.outcome == expected
    assert why in finding.why


@pytest.mark.parametrize(
    ("rule", "change", "expected", "why"),
    [
        (Rule("accuracy", max_drop=0), against("accuracy", 0.0, (0.0, 0.0)), "pass", "did not change"),
        (Rule("accuracy", max_drop=0.5, min_rows=401), against("accuracy", 0.0, None), UNCLEAR, "based on 400 images"),
        (
            Rule("accuracy", max_drop=0.5),
            against("accuracy", -0.9, None, unpaired=0.02),
            UNCLEAR,
            "2.0 % of the images",
        ),
        (Rule("accuracy", max_drop=0.5, max_unpaired=0.02), against("accuracy", 0.0, None, unpaired=0.02), "pass", ""),
        (Rule("accuracy", max_drop=0.5), against("nll", 0.0, None), UNCLEAR, "no image that it could be computed from"),
        (Rule("accuracy_top2", max_drop=0.5), against("accuracy_top2", 0.0, None), "fail", "similar: accuracy"),
    ],
)
def test_a_change_that_cannot_be_tested_or_is_none(
    rule: Rule, change: BaselineChange, expected: Status, why: str
) -> None:
    (finding,) = evaluate_rule(rule, FIGURES, change).findings
    assert finding.outcome == expected
    assert why in finding.why


def test_a_change_that_never_has_an_interval_has_no_ends() -> None:
    change = BaselineChange(
        {"calibration/mce": Difference(0.1, 0.1, 0.0, None, 400)}, frozenset({"calibration/mce"}), 0.0
    )
    assert evaluate_rule(Rule("calibration/mce", max_drop=0), FIGURES, change).outcome == "pass"
    with pytest.raises(InputError, match="calibration/mce has no interval; leave out bound"):
        evaluate_rule(Rule("calibration/mce", max_drop=0, bound="upper"), FIGURES, change)


def test_a_rule_may_have_a_limit_and_a_change() -> None:
    verdict = evaluate_rule(Rule("accuracy", min=0.94, max_drop=0.0), FIGURES, against("accuracy", -0.01, (-0.02, 0.0)))
    assert [(f.key, f.outcome) for f in verdict.findings] == [("min", "pass"), ("max_drop", "fail")]
    assert (verdict.findings[1].old, verdict.findings[1].new) == (0.9, 0.89)


def test_missing_rows_fail() -> None:
    assert check_complete(10, 10).outcome == "pass"
    verdict = check_complete(9, 1000)
    assert verdict.outcome == "fail"
    assert verdict.findings[0].why == "991 of 1,000 rows are missing, possibly whole classes"


def test_the_gravest_counts_and_has_the_exit_code() -> None:
    def gated(*outcomes: Status) -> GateResult:
        found = tuple(RuleResult("m", "m", (Finding("m", "min", 0, "≥ 0", o, ""),)) for o in outcomes)
        return GateResult("run", 0, {}, found)

    assert most_severe([]) == "pass"
    for outcomes, code in (
        (("pass", "pass"), 0),
        (("pass", UNCLEAR), 3),
        ((UNCLEAR, "fail", "pass"), 1),
        (("fail", "fail"), 1),
    ):
        assert gated(*outcomes).code == code
    assert sorted(EXIT_CODES.values()) == [0, 1, 3]


numbers = st.floats(-1e6, 1e6)


@st.composite
def estimates(draw: st.DrawFn) -> tuple[float, tuple[float, float]]:
    """A value inside its interval."""
    lower, value, upper = sorted([draw(numbers), draw(numbers), draw(numbers)])
    return value, (lower, upper)


@given(of=estimates(), limit=numbers)
def test_three_way_logic(of: tuple[float, tuple[float, float]], limit: float) -> None:
    value, (lower, upper) = of
    careful, lenient, point = (at_least(value, (lower, upper), limit, b) for b in ("lower", "upper", "point"))
    assert (careful == "pass") == (lower >= limit - TOLERANCE)
    assert (careful == "fail") == (lenient == "fail") == (upper < limit - TOLERANCE)
    assert lenient != UNCLEAR and point != UNCLEAR
    if careful != UNCLEAR:  # what is sure is so by the value as well
        assert careful == point == lenient
    assert at_least(value, (value, value), limit, "lower") == at_least(value, None, limit, "point")


@given(of=estimates(), limit=numbers, bound=st.sampled_from(["lower", "upper", "point"]), more=st.floats(0, 1e6))
def test_a_higher_limit_is_never_easier(
    of: tuple[float, tuple[float, float]], limit: float, bound: str, more: float
) -> None:
    order = ("pass", UNCLEAR, "fail")
    assert order.index(at_least(*of, limit, bound)) <= order.index(at_least(*of, limit + more, bound))
    assert order.index(at_most(*of, limit, bound)) >= order.index(at_most(*of, limit + more, bound))


def test_how_often_a_rule_passes_is_as_the_documentation_says() -> None:
    page = (toy.ROOT / "docs/gates.md").read_text("utf-8")
    rows = re.findall(r"^\| (0\.\d+) \| ([\d,]+) \|" + r" (\d+) % \|" * 5, page, re.MULTILINE)
    assert len(rows) == 7
    for p, images, *printed in rows:
        n = int(images.replace(",", ""))
        hits = np.arange(n + 1)
        chance = stats.binom.pmf(hits, n, float(p))
        ends = np.stack(wilson_intervals(hits, np.full(n + 1, n)), axis=1).tolist()
        shares = [
            sum(
                c
                for c, k, (low, high) in zip(chance, hits, ends, strict=True)
                if outcome == at_least(k / n, (low, high), 0.94, bound)
            )
            for bound, outcome in (
                ("point", "pass"),
                ("lower", "pass"),
                ("lower", UNCLEAR),
                ("lower", "fail"),
                ("upper", "pass"),
            )
        ]
        assert [f"{100 * share:.0f}" for share in shares] == printed, (p, n)


@given(of=estimates(), limit=numbers)
def test_at_most_is_at_least_seen_in_a_mirror(of: tuple[float, tuple[float, float]], limit: float) -> None:
    value, (lower, upper) = of
    for bound, other in (("lower", "upper"), ("upper", "lower"), ("point", "point")):
        assert at_most(value, (lower, upper), limit, bound) == at_least(-value, (-upper, -lower), -limit, other)
    assert (at_most(value, (lower, upper), limit, "upper") == "pass") == (upper <= limit + TOLERANCE)


@given(of=estimates(), limit=st.floats(0, 1e6))
def test_a_drop_of_a_loss_is_that_of_its_negative(of: tuple[float, tuple[float, float]], limit: float) -> None:
    value, (lower, upper) = of
    ends: tuple[tuple[Bound, Bound], ...] = (("lower", "upper"), ("upper", "lower"), ("point", "point"))
    for bound, other in ends:
        loss = evaluate_rule(Rule("nll", max_drop=limit, bound=bound), FIGURES, against("nll", value, (lower, upper)))
        gain = against("accuracy", -value, (-upper, -lower))
        assert loss.outcome == evaluate_rule(Rule("accuracy", max_drop=limit, bound=other), FIGURES, gain).outcome


@given(st.one_of(numbers, st.integers(-(10**9), 10**9)), numbers)
def test_a_printed_number_never_looks_like_a_limit_that_it_is_not(value: float, limit: float) -> None:
    printed = format_number(value, limit)
    if isinstance(value, int):
        assert int(printed.replace(",", "")) == value
    else:
        assert math.isclose(float(printed), value, rel_tol=0.1, abs_tol=1e-4)
        assert float(printed) != limit or abs(value - limit) < 1e-6 * max(1, abs(limit))


def test_a_metric_without_interval_because_of_its_bound_says_so() -> None:
    rule = Rule("classes/a/average_precision", min=0.5, bound="lower")
    metric = Metric(0.6, None, "", "delete-one jackknife", bound=0.2, rows=40)
    (finding,) = evaluate_rule(rule, {"classes/a/average_precision": metric}).findings
    assert finding.outcome == UNCLEAR
    assert finding.why == "it has no interval: too few images, or scores too nearly equal (known within 0.2)"

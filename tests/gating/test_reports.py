"""What a gate says: the table, JUnit XML, Markdown and JSON, whatever classes are called."""

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard.comparison.flips import Difference
from predboard.gating import reports
from predboard.gating.evaluate import BaselineChange, GateResult, RuleResult, check_complete, evaluate_rule
from predboard.gating.rules import Rule
from predboard.summaries import Metric

IMAGES = {"rows": 1198, "manifest_rows": 1200, "missing": 2, "failed": 3, "unlabelled": 5, "counted": 1190}


def figure(value: float, low: float, high: float, rows: int) -> Metric:
    return Metric(value, (low, high), "share", "Wilson", rows=rows)


def of_classes(*names: str) -> dict[str, Metric]:
    found = {"accuracy": figure(0.95, 0.93, 0.97, 1190), "images/failed": Metric(3, definition="failed")}
    for i, name in enumerate(names):
        found[f"classes/{name}/support"] = Metric(100, definition="n")
        found[f"classes/{name}/recall"] = figure(0.9 - i / 100, 0.8 - i / 100, 0.95 - i / 100, 100)
    return found


def gated(*found: RuleResult, **more: Any) -> GateResult:
    return GateResult("run", 12, IMAGES, found, **more)


FIGURES = of_classes("River", "Lake", "a/b", "日本", "e\u0301te\u0301", "HerbaceousVegetationWithAVeryLongNameIndeed")
CHANGE = BaselineChange({"accuracy": Difference(0.96, 0.95, -0.01, (-0.02, 0.0), 1180)}, frozenset(), 0.0)
MIXED = gated(
    check_complete(1198, 1200),
    evaluate_rule(Rule("accuracy", min=0.9), FIGURES),
    evaluate_rule(Rule("accuracy", min=0.94, bound="lower", name="good", description="for the release"), FIGURES),
    evaluate_rule(Rule("accuracy", max_drop=0.005), FIGURES, CHANGE),
    evaluate_rule(Rule("classes/*/recall", min=0.88), FIGURES),
    evaluate_rule(Rule("classes/*/recall", min=0.5), FIGURES),
    evaluate_rule(Rule("classes/HerbaceousVegetationWithAVeryLongNameIndeed/recall", min=0.8), FIGURES),
    evaluate_rule(Rule("classes/日本/recall", min=0.8), FIGURES),
    evaluate_rule(Rule("classes/Forest/recall", min=0.8), FIGURES),
    baseline="old",
    baseline_step=9,
    paired={
        **{"compared": 1180, "only_old": 1, "only_new": 2, "failed_old": 0, "failed_new": 3},
        **{"labels_differ": 1, "pictures_differ": 0},
    },
)


def test_the_table_for_the_terminal() -> None:
    assert "\n".join(reports.to_terminal(MIXED)) == (
        "gate: run, step 12 against old, step 9\n"
        "1,190 of 1,200 images evaluated, 2 missing, 3 failed, 5 without a label, 1,180\n"
        "compared with the baseline, 2 only in this run, 1 only in the baseline, 1 with a\n"
        "different label\n"
        "\n"
        "verdict  rule                                 value      95 % interval  images\n"
        "FAIL     images/missing = 0                       2\n"
        "         2 of 1,200 rows are missing, possibly whole classes\n"
        "pass     accuracy ≥ 0.9                      0.9500   0.9300 to 0.9700   1,190\n"
        "unclear  good: accuracy ≥ 0.94 (lower end)   0.9500   0.9300 to 0.9700   1,190\n"
        "         the interval, 0.9300 to 0.9700, contains 0.94: more images are needed\n"
        "         to decide\n"
        "FAIL     accuracy worse by ≤ 0.005          -0.0100  -0.0200 to 0.0000   1,180\n"
        "         fell from 0.9600 to 0.9500, by 0.0100: worse by more than 0.005\n"
        "FAIL     classes/*/recall ≥ 0.88             0.8500   0.7500 to 0.9000     100\n"
        "         3 of 6 failed\n"
        "         HerbaceousVegetationWithAVeryLongNameIndeed: 0.8500 is below 0.88\n"
        "         e\u0301te\u0301: 0.8600 is below 0.88\n"
        "         日本: 0.8700 is below 0.88\n"
        "pass     classes/*/recall ≥ 0.5              0.8500   0.7500 to 0.9000     100\n"
        "         all 6 pass; HerbaceousVegetationWithAVeryLongNameIndeed is closest to\n"
        "         the limit\n"
        "pass     classes/HerbaceousVegetationWithAVeryLongNameIndeed/recall ≥ 0.8\n"
        "                                             0.8500   0.7500 to 0.9000     100\n"
        "pass     classes/日本/recall ≥ 0.8           0.8700   0.7700 to 0.9200     100\n"
        "FAIL     classes/Forest/recall ≥ 0.8              –\n"
        "         does not exist; similar: classes/River/recall, classes/Lake/recall,\n"
        "         classes/a/b/recall\n"
        "\n"
        "the gate failed: 4 of 9 rules failed, too little evidence for 1"
    )


def test_the_last_line_says_it_all() -> None:
    good, bad = check_complete(5, 5), check_complete(4, 5)
    unclear = evaluate_rule(Rule("accuracy", min=0.94, bound="lower"), FIGURES)
    assert reports.conclusion(gated(good)) == "the gate passed: 1 rule"
    assert reports.conclusion(gated(good, bad)) == "the gate failed: 1 of 2 rules failed"
    printed = "the gate did not pass: too little evidence for 1 of 2 rules"
    assert reports.conclusion(gated(good, unclear)) == printed


def test_of_many_classes_the_worst_are_named() -> None:
    many = gated(evaluate_rule(Rule("classes/*/recall", min=2), of_classes(*(f"c{i:02d}" for i in range(40)))))
    printed = list(reports.to_terminal(many))
    assert printed[4:11] == [
        "FAIL     classes/*/recall ≥ 2  0.5100  0.4100 to 0.5600     100",
        "         40 of 40 failed",
        *(f"         c{i}: {0.9 - i / 100:.4f} is below 2" for i in (39, 38, 37, 36, 35)),
    ]
    assert printed[11] == "         and 35 more"
    assert len(reports.to_junit(many).splitlines()) < 60
    assert len(reports.to_record(many)["rules"][0]["findings"]) == 40


def test_one_reason_of_all_classes_is_said_once() -> None:
    rule = Rule("classes/*/recall", min=0.5, min_rows=101)
    printed = list(reports.to_terminal(gated(evaluate_rule(rule, of_classes("a", "b", "c")))))
    assert printed[5] == "         3 of 3 have too little evidence: it is based on 100 images, fewer than"
    assert printed[6] == "         min_rows = 101"
    assert printed[7] == ""


# The shape of JUnit XML that Jenkins' schema (junit-10.xsd) has, which GitLab and GitHub's actions read: the attributes
# that an element may have, with those it must have first; and its children.
SHAPE: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"time", "skipped", "timestamp", "hostname"}, {"testcase"}),
    "testcase": ({"name"}, {"classname", "time"}, {"failure", "error", "skipped", "system-out", "system-err"}),
    "failure": (set(), {"message", "type"}, set()),
    "error": (set(), {"message", "type"}, set()),
    "system-out": (set(), set(), set()),
}


def well_shaped(content: bytes) -> ET.Element:
    """Fails if it is no JUnit XML, or its counts are not those of its cases."""
    root = ET.fromstring(content)
    assert root.tag == "testsuites"
    for element in root.iter():
        needed, allowed, children = SHAPE[element.tag]
        assert needed <= set(element.attrib) <= needed | allowed, element.tag
        assert {child.tag for child in element} <= children, element.tag
    cases = root.findall("./testsuite/testcase")
    for element in (root, *root.findall("testsuite")):
        counts = [element.get("tests"), element.get("failures"), element.get("errors")]
        assert counts == [str(len(found)) for found in (cases, root.findall(".//failure"), root.findall(".//error"))]
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    return root


def test_junit_has_a_case_for_each_rule() -> None:
    root = well_shaped(reports.to_junit(MIXED))
    cases = {case.get("name"): case for case in root.findall("./testsuite/testcase")}
    assert list(cases) == [verdict.title for verdict in MIXED.verdicts]
    assert {case.get("classname") for case in cases.values()} == {"gate.run"}
    failure, error = cases["classes/*/recall ≥ 0.88"].find("failure"), cases["good"].find("error")
    assert failure is not None and error is not None
    assert (failure.get("type"), failure.get("message")) == ("fail", "3 of 6 failed")
    assert failure.text is not None and "日本: 0.8700 is below 0.88" in failure.text
    assert error.get("type") == "too little evidence"
    assert error.text is not None and error.text.endswith("\nfor the release")
    assert [tag for tag in ("failure", "error") if cases["accuracy ≥ 0.9"].find(tag) is not None] == []
    out = cases["accuracy ≥ 0.9"].findtext("system-out")
    assert out == "pass: accuracy ≥ 0.9: 0.9500 (0.9300 to 0.9700, 1,190 images); 0.9500 is at least 0.9"


def test_the_check_of_the_shape_can_fail() -> None:
    good = reports.to_junit(MIXED)
    for bad in (
        good.replace(b'failures="4"', b'failures="3"'),
        good.replace(b"<error ", b"<oops ").replace(b"</error>", b"</oops>"),
        good.replace(b"<testcase ", b'<testcase colour="red" '),
    ):
        assert bad != good
        with pytest.raises((AssertionError, KeyError)):
            well_shaped(bad)


def test_two_rules_of_one_title_are_two_cases() -> None:
    twice = [evaluate_rule(Rule("accuracy", min=0.9), FIGURES)] * 2
    names = [case.get("name") for case in well_shaped(reports.to_junit(gated(*twice))).iter("testcase")]
    assert names == ["accuracy ≥ 0.9", "accuracy ≥ 0.9 (2)"]


@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=30), description=st.text(max_size=20))
def test_whatever_a_class_is_called_all_reports_can_be_read(name: str, description: str) -> None:
    rule = Rule(
        f"classes/{name}/recall", min=0.95, name=name, description=description.encode("utf-8", "replace").decode()
    )
    found = gated(
        evaluate_rule(rule, of_classes(name, "b")),
        evaluate_rule(Rule("classes/*/recall", min=0.95), of_classes(name, "b")),
    )
    well_shaped(reports.to_junit(found))
    assert json.loads(reports.to_json(found))["rules"][0]["metric"] == rule.metric
    assert all(len(line.splitlines()) <= 1 for line in reports.to_terminal(found))
    table = [line for line in reports.to_markdown(found).splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {len(split(line)) for line in table} == {5}


def test_a_bar_in_the_name_of_a_class_is_no_cell() -> None:
    found = reports.to_markdown(gated(evaluate_rule(Rule("classes/a|b`c/recall", min=0.5), of_classes("a|b`c"))))
    assert "| ✅ pass | ``classes/a\\|b`c/recall`` ≥ 0.5 | 0.9000 |" in found


def test_what_fails_is_worse_than_what_is_unclear_however_low_that_is() -> None:
    figures = {**of_classes("many", "few"), "classes/few/recall": figure(0.1, 0.0, 0.5, 3)}
    verdict = evaluate_rule(Rule("classes/*/recall", min=0.95, min_rows=50), figures)
    assert [f.outcome for f in verdict.findings] == ["fail", "too little evidence"]
    assert reports.worst_finding(list(verdict.findings)).metric == "classes/many/recall"


def split(row: str) -> list[str]:
    """Cells of a row of a Markdown table: bars with a backslash are text, as GitHub has it."""
    return row.strip().removeprefix("|").removesuffix("|").replace("\\|", "").split("|")


def test_markdown_for_a_pull_request() -> None:
    found = gated(
        evaluate_rule(Rule("accuracy", min=0.9), FIGURES),
        evaluate_rule(
            Rule("classes/*/recall", min=0.88, name="@all <b>"), of_classes("a|b", "[x](http://y)", "@team", "<i>")
        ),
        evaluate_rule(Rule("accuracy", min=0.94, bound="lower"), FIGURES),
    )
    assert reports.to_markdown(found) == (
        "### ❌ gate: run, step 12\n"
        "\n"
        "The gate failed: 1 of 3 rules failed, too little evidence for 1. "
        "1,190 of 1,200 images evaluated, 2 missing, 3 failed, 5 without a label.\n"
        "\n"
        "| | rule | value | 95 % interval | images |\n"
        "|---|---|---:|---|---:|\n"
        "| ✅ pass | `accuracy` ≥ 0.9 | 0.9500 | 0.9300 to 0.9700 | 1,190 |\n"
        "| ❌ FAIL | &#64;all &#60;b&#62;: `classes/*/recall` ≥ 0.88 | 0.8700 | 0.7700 to 0.9200 | 100 |\n"
        "| ❔ unclear | `accuracy` ≥ 0.94 (lower end) | 0.9500 | 0.9300 to 0.9700 | 1,190 |\n"
        "\n"
        "- `classes/*/recall` ≥ 0.88: 1 of 4 failed\n"
        "  - &#60;i&#62;: 0.8700 is below 0.88\n"
        "- `accuracy` ≥ 0.94 (lower end): the interval, 0.9300 to 0.9700, contains 0.94: more "
        "images are needed to decide\n"
    )


def test_json_for_machines() -> None:
    found = json.loads(reports.to_json(MIXED))
    assert (found["predboard_gate"], found["outcome"], found["code"]) == (1, "fail", 1)
    assert (found["run"], found["step"], found["baseline"], found["baseline_step"]) == ("run", 12, "old", 9)
    assert found["images"] == IMAGES
    assert found["paired"]["compared"] == 1180
    drop, absent = found["rules"][3], found["rules"][-1]
    assert drop["findings"] == [
        {
            "metric": "accuracy",
            "condition": "max_drop",
            "limit": 0.005,
            "outcome": "fail",
            "why": "fell from 0.9600 to 0.9500, by 0.0100: worse by more than 0.005",
            "value": -0.01,
            "lower": -0.02,
            "upper": 0.0,
            "rows": 1180,
            "old": 0.96,
            "new": 0.95,
        }
    ]
    assert absent["findings"][0]["value"] is None
    alone = json.loads(reports.to_json(gated(check_complete(5, 5))))
    assert (alone["baseline"], alone["baseline_step"], alone["paired"]) == (None, None, {})

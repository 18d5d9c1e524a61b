"""Write the result of a gate as a table for the terminal, JUnit XML, Markdown and JSON. It knows neither how the result
came about nor any file.
"""

import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from predboard.formatting import markdown_table, plural, unique_names
from predboard.gating.evaluate import (
    SEVERITY,
    Finding,
    GateResult,
    RuleResult,
    Status,
    format_change,
    format_number,
    group_name,
)

GATE_FORMAT = 1
"""Version of the JSON report."""

TERMINAL_COLUMNS = 80

MAX_NAMED = 5
"""Number of classes or slices of one rule that a report names."""

SHORT_STATUS: dict[Status, str] = {"pass": "pass", "too little evidence": "unclear", "fail": "FAIL"}


def to_terminal(result: GateResult) -> Iterator[str]:
    """Yield the lines of a table, at most 80 columns wide as far as names allow, and the conclusion below it."""
    yield heading(result)
    for line in (count_images(result), *result.notes):
        yield from textwrap.wrap(_one_line(line), TERMINAL_COLUMNS)
    yield ""
    rows = [(verdict, group) for verdict in result.verdicts for group in _by_condition(verdict)]
    cells = [("verdict", "rule", "value", "95 % interval", "images")]
    cells += [
        (SHORT_STATUS[worst_finding(group).outcome], _label(verdict, group), *_numbers(worst_finding(group)))
        for verdict, group in rows
    ]
    tail = [max(_width(cell[i]) for cell in cells) for i in (2, 3, 4)]
    room = TERMINAL_COLUMNS - 9 - sum(2 + width for width in tail)
    first = max(width for cell in cells if (width := _width(cell[1])) <= room)
    for i, (verdict, rule, *numbers) in enumerate(cells):
        right = "".join(f"  {_pad(text, width, '>')}" for text, width in zip(numbers, tail, strict=True))
        if _width(rule) > first:
            yield f"{verdict:<7}  {rule}"
            verdict = rule = ""
        if rule or right.strip():
            yield f"{verdict:<7}  {_pad(rule, first)}{right}".rstrip()
        for reason in _reasons(rows[i - 1][1]) if i else ():
            yield from textwrap.wrap(reason, TERMINAL_COLUMNS, initial_indent=" " * 9, subsequent_indent=" " * 9)
    yield ""
    yield from textwrap.wrap(conclusion(result), TERMINAL_COLUMNS)


def heading(result: GateResult) -> str:
    """Return which run was tested, and against which."""
    against = "" if result.baseline_step is None else f" against {result.baseline}, step {result.baseline_step}"
    return _one_line(f"gate: {result.run}, step {result.step}{against}")


def count_images(result: GateResult) -> str:
    """Return how many images the metrics are computed from, and why others are left out."""
    n = result.images
    parts = [f"{n['counted']:,} of {plural(n['manifest_rows'], 'image')} evaluated"]
    for key, what in (("missing", "missing"), ("failed", "failed"), ("unlabelled", "without a label")):
        if n[key]:
            parts.append(f"{n[key]:,} {what}")
    if result.paired:
        left_out = (
            ("only_new", "only in this run"),
            ("only_old", "only in the baseline"),
            ("failed_old", "failed in the baseline"),
            ("labels_differ", "with a different label"),
            ("pictures_differ", "with a different image under the same name"),
        )
        parts.append(f"{result.paired['compared']:,} compared with the baseline")
        parts += [f"{result.paired[key]:,} {what}" for key, what in left_out if result.paired[key]]
    return ", ".join(parts)


def conclusion(result: GateResult) -> str:
    """Return the result of all rules in one sentence."""
    failed, unclear, rules = (
        result.count("fail"),
        result.count("too little evidence"),
        plural(len(result.verdicts), "rule"),
    )
    parts = [f"{failed} of {rules} failed"] if failed else []
    if unclear:
        parts.append(f"too little evidence for {unclear}{'' if failed else f' of {rules}'}")
    return {
        "pass": f"the gate passed: {rules}",
        "fail": f"the gate failed: {', '.join(parts)}",
        "too little evidence": f"the gate did not pass: {', '.join(parts)}",
    }[result.outcome]


def worst_finding(findings: list[Finding]) -> Finding:
    """Return the most severe finding; among equally severe ones, the one that misses its limit by most."""
    return min(findings, key=lambda finding: (-SEVERITY[finding.outcome], finding.margin))


def _by_condition(verdict: RuleResult) -> list[list[Finding]]:
    return [list(group) for _, group in itertools.groupby(verdict.findings, lambda finding: finding.condition)]


def _label(verdict: RuleResult, group: list[Finding]) -> str:
    name = f"{_one_line(verdict.name)}: " * bool(verdict.name)
    return f"{name}{_one_line(verdict.metric)} {group[0].condition}"


def _numbers(finding: Finding) -> tuple[str, str, str]:
    """Return the value, the interval and the number of images of a finding, empty where there is none."""
    if finding.value is None:
        return "–", "", ""
    write = format_change if finding.key == "max_drop" else format_number
    ends = "" if finding.interval is None else " to ".join(map(write, finding.interval))
    return write(finding.value), ends, "" if finding.rows is None else f"{finding.rows:,}"


def _reasons(group: list[Finding]) -> list[str]:
    """Return why a condition is not met, with a line for each class or slice that does not meet it, the worst first."""
    if len(group) == 1:
        return [] if group[0].outcome == "pass" else [_one_line(group[0].why)]
    reasons = []
    for status, what in (("fail", "failed"), ("too little evidence", "have too little evidence")):
        those = sorted((f for f in group if f.outcome == status), key=lambda finding: finding.margin)
        if those:
            count = f"{len(those):,} of {len(group):,} {what}"
            if len(those) == len(group) and len({f.why for f in those}) == 1:  # as when the runs have different images
                reasons.append(f"{count}: {_one_line(those[0].why)}")
                continue
            reasons.append(count)
            reasons += [_one_line(f"{group_name(f.metric)}: {f.why}") for f in those[:MAX_NAMED]]
            reasons += [f"and {len(those) - MAX_NAMED:,} more"] * (len(those) > MAX_NAMED)
    return reasons or [
        f"all {len(group):,} pass; {_one_line(group_name(worst_finding(group).metric))} is closest to the limit"
    ]


def _one_line(text: str) -> str:
    """Put text on one line, without characters that control a terminal."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in " ".join(text.split()))


def _width(text: str) -> int:
    """Return the columns that text takes on a terminal: East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, side: str = "<") -> str:
    space = " " * max(width - _width(text), 0)
    return text + space if side == "<" else space + text


def to_junit(result: GateResult) -> bytes:
    """Write JUnit XML as GitLab, GitHub Actions and Jenkins read it, with a test case for each rule.

    A rule that fails is a failure; one with too little evidence is an error, because it could not be tested.
    """
    numbers = {
        "tests": str(len(result.verdicts)),
        "failures": str(result.count("fail")),
        "errors": str(result.count("too little evidence")),
        "time": "0",
    }
    root = ET.Element("testsuites", {"name": "predboard gate", **numbers})
    suite = ET.SubElement(root, "testsuite", {"name": _xml(heading(result)), **numbers, "skipped": "0"})
    titles = unique_names([_xml(verdict.title) for verdict in result.verdicts])
    for verdict, title in zip(result.verdicts, titles, strict=True):
        case = ET.SubElement(suite, "testcase", {"classname": _xml(f"gate.{result.run}"), "name": title, "time": "0"})
        if verdict.outcome != "pass":
            open_groups = [group for group in _by_condition(verdict) if worst_finding(group).outcome != "pass"]
            reasons = [reason for group in open_groups for reason in _reasons(group)]
            tag = "failure" if verdict.outcome == "fail" else "error"
            mark = ET.SubElement(case, tag, {"message": _xml(reasons[0]), "type": verdict.outcome})
            mark.text = _xml("\n".join([*reasons, verdict.description]).strip())
        ET.SubElement(case, "system-out").text = _xml("\n".join(map(_describe, verdict.findings)))
    ET.indent(root)
    text = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _describe(finding: Finding) -> str:
    value, ends, rows = _numbers(finding)
    more = ", ".join(part for part in (ends, f"{rows} images" if rows else "") if part)
    name = f"{_one_line(finding.metric)} {finding.condition}"
    return f"{finding.outcome}: {name}: {value}{f' ({more})' if more else ''}; {finding.why}"


def _xml(text: str) -> str:
    """Replace the characters that no XML may contain, such as control characters in the name of a class."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def to_markdown(result: GateResult) -> str:
    """Write Markdown for a pull request or a job summary; names are code, so that they have no other meaning there."""
    rows, reasons = [], []
    for verdict in result.verdicts:
        for group in _by_condition(verdict):
            finding = worst_finding(group)
            condition = f"{_code(verdict.metric)} {finding.condition}"
            name = f"{_escape(verdict.name)}: " * bool(verdict.name)
            status = f"{_mark(finding.outcome)} {SHORT_STATUS[finding.outcome]}"
            rows.append((status, name + condition, *_numbers(finding)))
            if finding.outcome != "pass":
                first, *more = _reasons(group)
                reasons.append(f"- {condition}: {_escape(first)}")
                reasons += [f"  - {_escape(reason)}" for reason in more]
    parts = [
        f"### {_mark(result.outcome)} {_escape(heading(result))}",
        f"{_sentence(conclusion(result))} {_sentence(count_images(result))}",
        *(_sentence(_escape(note)) for note in result.notes),
        markdown_table(("", "rule", "value", "95 % interval", "images"), "llrlr", rows),
    ]
    if reasons:
        parts.append("\n".join(reasons))
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _mark(status: Status) -> str:
    return {"pass": "✅", "too little evidence": "❔", "fail": "❌"}[status]


def _code(text: str) -> str:
    r"""Put text between backticks, also in a table.

    >>> print(_code("a|b"), _code("a`b"))
    `a\|b` ``a`b``
    """
    line = _one_line(text).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " * (line.startswith("`") or line.endswith("`"))
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _escape(text: str) -> str:
    """Make Markdown show text as it is: no HTML, no link, nobody is notified."""
    return re.sub(r"[\\`*_{}\[\]<>#|~@&]", lambda match: f"&#{ord(match[0])};", _one_line(text))


def to_json(result: GateResult) -> str:
    """Write all of it as JSON without NaN."""
    return json.dumps(to_record(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_record(result: GateResult) -> dict[str, Any]:
    """Return what `--json` writes; `docs/gates.md` explains the fields."""
    return {
        "predboard_gate": GATE_FORMAT,
        "outcome": result.outcome,
        "code": result.code,
        "run": result.run,
        "step": result.step,
        "baseline": result.baseline or None,
        "baseline_step": result.baseline_step,
        "images": dict(result.images),
        "paired": dict(result.paired),
        **({"notes": list(result.notes)} if result.notes else {}),
        "rules": [
            {
                "title": verdict.title,
                "name": verdict.name,
                "description": verdict.description,
                "metric": verdict.metric,
                "bound": verdict.bound,
                "outcome": verdict.outcome,
                "findings": [_finding_record(finding) for finding in verdict.findings],
            }
            for verdict in result.verdicts
        ],
    }


def _finding_record(finding: Finding) -> dict[str, Any]:
    lower, upper = finding.interval or (None, None)
    return {
        "metric": finding.metric,
        "condition": finding.key,
        "limit": finding.limit,
        "outcome": finding.outcome,
        "why": finding.why,
        "value": finding.value,
        "lower": lower,
        "upper": upper,
        "rows": finding.rows,
        "old": finding.old,
        "new": finding.new,
    }

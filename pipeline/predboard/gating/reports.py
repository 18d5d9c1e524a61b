"""Verdicts -> a table for the terminal, JUnit XML, Markdown and JSON. Knows not how they came about, and no files."""

import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from predboard.formatting import plural, unique_names
from predboard.gating.evaluate import (
    SEVERITY,
    Finding,
    GateResult,
    Status,
    Verdict,
    format_change,
    format_number,
    group_name,
)

GATE_FORMAT = 1

TERMINAL_COLUMNS = 80
"""Columns of a terminal."""

MAX_NAMED = 5
"""Classes or slices of one rule that are named."""

SHORT_STATUS: dict[Status, str] = {"pass": "pass", "too little evidence": "unclear", "fail": "FAIL"}


def to_terminal(of: GateResult) -> Iterator[str]:
    """The table for the terminal, at most 80 columns wide as far as names allow, and the verdict below it."""
    yield heading(of)
    yield from textwrap.wrap(count_images(of), TERMINAL_COLUMNS)
    yield ""
    rows = [(verdict, group) for verdict in of.verdicts for group in _grouped(verdict)]
    cells = [("verdict", "rule", "value", "95 % interval", "images")]
    cells += [
        (SHORT_STATUS[worst_finding(group).outcome], _label(verdict, group), *_numbers(worst_finding(group)))
        for verdict, group in rows
    ]
    tail = [max(_width(cell[i]) for cell in cells) for i in (2, 3, 4)]
    room = TERMINAL_COLUMNS - 9 - sum(2 + width for width in tail)
    first = max(width for cell in cells if (width := _width(cell[1])) <= room)
    for i, (verdict, rule, *numbers) in enumerate(cells):
        right = "".join(f"  {_padded(text, width, '>')}" for text, width in zip(numbers, tail, strict=True))
        if _width(rule) > first:
            yield f"{verdict:<7}  {rule}"
            verdict = rule = ""
        if rule or right.strip():
            yield f"{verdict:<7}  {_padded(rule, first)}{right}".rstrip()
        for said in _reasons(rows[i - 1][1]) if i else ():
            yield from textwrap.wrap(said, TERMINAL_COLUMNS, initial_indent=" " * 9, subsequent_indent=" " * 9)
    yield ""
    yield from textwrap.wrap(conclusion(of), TERMINAL_COLUMNS)


def heading(of: GateResult) -> str:
    """What was tested."""
    against = "" if of.baseline_step is None else f" against {of.baseline}, step {of.baseline_step}"
    return _line(f"gate: {of.run}, step {of.step}{against}")


def count_images(of: GateResult) -> str:
    """How many images the figures rest on."""
    n = of.images
    said = [f"{n['counted']:,} of {plural(n['manifest_rows'], 'image')} count"]
    for key, what in (("missing", "missing"), ("failed", "failed"), ("unlabelled", "without a label")):
        if n[key]:
            said.append(f"{n[key]:,} {what}")
    if of.paired:
        lacking = (
            ("only_new", "only here"),
            ("only_old", "only in the baseline"),
            ("failed_old", "failed in the baseline"),
            ("labels_differ", "with another label"),
            ("pictures_differ", "with another picture under the same name"),
        )
        said.append(f"{of.paired['compared']:,} are compared with the baseline")
        said += [f"{of.paired[key]:,} {what}" for key, what in lacking if of.paired[key]]
    return ", ".join(said)


def conclusion(of: GateResult) -> str:
    """The verdict on all rules in one sentence."""
    failed, unclear = of.count("fail"), of.count("too little evidence")
    some = [f"{failed} of {plural(len(of.verdicts), 'rule')} fail{'s' * (failed == 1)}"] if failed else []
    if unclear:
        some.append(f"for {unclear}{'' if failed else f' of {len(of.verdicts)}'} there is too little evidence")
    return {
        "pass": f"the gate is passed: {plural(len(of.verdicts), 'rule')}",
        "fail": f"the gate fails: {', '.join(some)}",
        "too little evidence": f"the gate is not passed: {', '.join(some)}",
    }[of.outcome]


def worst_finding(of: list[Finding]) -> Finding:
    """The gravest of some findings; of equally grave ones the one that is farthest on the wrong side."""
    return min(of, key=lambda finding: (-SEVERITY[finding.outcome], finding.margin))


def _grouped(verdict: Verdict) -> list[list[Finding]]:
    """Findings of one condition together."""
    return [list(group) for _, group in itertools.groupby(verdict.findings, lambda finding: finding.condition)]


def _label(verdict: Verdict, group: list[Finding]) -> str:
    return f"{_line(verdict.name)}: " * bool(verdict.name) + f"{_line(verdict.metric)} {group[0].condition}"


def _numbers(of: Finding) -> tuple[str, str, str]:
    if of.value is None:
        return "–", "", ""
    sign = format_change if of.key == "max_drop" else format_number
    ends = "" if of.interval is None else " to ".join(map(sign, of.interval))
    return sign(of.value), ends, "" if of.rows is None else f"{of.rows:,}"


def _reasons(group: list[Finding], shown: int = MAX_NAMED) -> list[str]:
    """Why a condition is not met, a line for each class or slice that does not meet it, the worst first."""
    if len(group) == 1:
        return [] if group[0].outcome == "pass" else [_line(group[0].why)]
    found = []
    for outcome, said in (("fail", "fail"), ("too little evidence", "have too little evidence")):
        those = sorted((f for f in group if f.outcome == outcome), key=lambda finding: finding.margin)
        if those:
            of = f"{len(those):,} of {len(group):,} {said}"
            if len(those) == len(group) and len({f.why for f in those}) == 1:  # as where the runs have other images
                found.append(f"{of}: {_line(those[0].why)}")
                continue
            found.append(of)
            found += [_line(f"{group_name(f.metric)}: {f.why}") for f in those[:shown]]
            found += [f"and {len(those) - shown:,} more"] * (len(those) > shown)
    return found or [
        f"all {len(group):,} pass; {_line(group_name(worst_finding(group).metric))} is nearest to the limit"
    ]


def _line(text: str) -> str:
    """On one line and without characters that command a terminal."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in " ".join(text.split()))


def _width(text: str) -> int:
    """Columns of a terminal: characters of East Asia are two wide, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, side: str = "<") -> str:
    space = " " * max(width - _width(text), 0)
    return text + space if side == "<" else space + text


def to_junit(of: GateResult) -> bytes:
    """JUnit XML, as GitLab, GitHub's actions and Jenkins read it: a test case for each rule.

    A rule that fails is a failure, one with too little evidence an error: it could not be tested.
    """
    numbers = {
        "tests": str(len(of.verdicts)),
        "failures": str(of.count("fail")),
        "errors": str(of.count("too little evidence")),
        "time": "0",
    }
    root = ET.Element("testsuites", {"name": "predboard gate", **numbers})
    suite = ET.SubElement(root, "testsuite", {"name": _xml(heading(of)), **numbers, "skipped": "0"})
    for verdict, title in zip(of.verdicts, unique_names([_xml(v.title) for v in of.verdicts]), strict=True):
        case = ET.SubElement(suite, "testcase", {"classname": _xml(f"gate.{of.run}"), "name": title, "time": "0"})
        said = [s for group in _grouped(verdict) if worst_finding(group).outcome != "pass" for s in _reasons(group)]
        if verdict.outcome != "pass":
            tag = "failure" if verdict.outcome == "fail" else "error"
            mark = ET.SubElement(case, tag, {"message": _xml(said[0]), "type": verdict.outcome})
            mark.text = _xml("\n".join([*said, verdict.description]).strip())
        ET.SubElement(case, "system-out").text = _xml("\n".join(_told(finding) for finding in verdict.findings))
    ET.indent(root)
    text = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _told(of: Finding) -> str:
    value, ends, rows = _numbers(of)
    more = ", ".join(part for part in (ends, f"{rows} images" if rows else "") if part)
    return f"{of.outcome}: {_line(of.metric)} {of.condition}: {value}{f' ({more})' if more else ''}; {of.why}"


def _xml(text: str) -> str:
    """Without the characters that no XML may have, such as control characters in a class's name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def to_markdown(of: GateResult) -> str:
    """For a comment on a pull request or a job summary; names are code, so that they mean nothing else there."""
    parts = [
        f"### {_mark(of.outcome)} {_escaped(heading(of))}",
        f"{_sentence(conclusion(of))} {_sentence(count_images(of))}",
    ]
    table = ["| | rule | value | 95 % interval | images |", "|---|---|---:|---|---:|"]
    for verdict in of.verdicts:
        for group in _grouped(verdict):
            finding = worst_finding(group)
            name = f"{_escaped(verdict.name)}: " * bool(verdict.name)
            cells = [
                f"{_mark(finding.outcome)} {SHORT_STATUS[finding.outcome]}",
                f"{name}{_code(verdict.metric)} {finding.condition}",
            ]
            table.append(f"| {' | '.join([*cells, *_numbers(finding)])} |")
    parts.append("\n".join(table))
    reasons = []
    for verdict in of.verdicts:
        for group in _grouped(verdict):
            if worst_finding(group).outcome != "pass":
                first, *more = _reasons(group)
                reasons.append(f"- {_code(verdict.metric)} {group[0].condition}: {_escaped(first)}")
                reasons += [f"  - {_escaped(said)}" for said in more]
    if reasons:
        parts.append("\n".join(reasons))
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _mark(outcome: Status) -> str:
    return {"pass": "✅", "too little evidence": "❔", "fail": "❌"}[outcome]


def _code(text: str) -> str:
    r"""Text between backticks, in a table too.

    >>> print(_code("a|b"), _code("a`b"))
    `a\|b` ``a`b``
    """
    line = _line(text).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " * (line.startswith("`") or line.endswith("`"))
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _escaped(text: str) -> str:
    """Text that is shown as it is: no HTML, no link, no one is notified."""
    return re.sub(r"[\\`*_{}\[\]<>#|~@&]", lambda found: f"&#{ord(found[0])};", _line(text))


def to_json(of: GateResult) -> str:
    """All of it for machines; JSON without NaN."""
    return json.dumps(to_record(of), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_record(of: GateResult) -> dict[str, Any]:
    """What `--json` writes; `docs/gates.md` has the fields."""
    return {
        "predboard_gate": GATE_FORMAT,
        "outcome": of.outcome,
        "code": of.code,
        "run": of.run,
        "step": of.step,
        "baseline": of.baseline or None,
        "baseline_step": of.baseline_step,
        "images": dict(of.images),
        "paired": dict(of.paired),
        "rules": [
            {
                "title": verdict.title,
                "name": verdict.name,
                "description": verdict.description,
                "metric": verdict.metric,
                "bound": verdict.bound,
                "outcome": verdict.outcome,
                "findings": [_finding(finding) for finding in verdict.findings],
            }
            for verdict in of.verdicts
        ],
    }


def _finding(of: Finding) -> dict[str, Any]:
    lower, upper = of.interval or (None, None)
    return {
        "metric": of.metric,
        "condition": of.key,
        "limit": of.limit,
        "outcome": of.outcome,
        "why": of.why,
        "value": of.value,
        "lower": lower,
        "upper": upper,
        "rows": of.rows,
        "old": of.old,
        "new": of.new,
    }

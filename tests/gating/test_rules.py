"""Rules of a gate: what is understood, and that everything else is refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard import InputError
from predboard.formatting import nearest_names
from predboard.gating import rules
from predboard.gating.gate import metric_directions
from predboard.gating.rules import RULE_KEYS, Rule
from predboard.metrics.registry import pattern_of
from tests import toy

FIGURED = metric_directions()
GATES = (toy.ROOT / "docs/gates.md").read_text("utf-8")


def parsed(folder: Path, text: str) -> tuple[Rule, ...]:
    file = folder / "gates.toml"
    file.write_text(text, "utf-8")
    return rules.read_rules(file, FIGURED)


def test_every_key_is_understood(tmp_path: Path) -> None:
    text = """
        [[rule]]
        metric = "classes/River/Lake/recall"  # of the class River/Lake
        min = 0.5
        max = 1
        max_drop = 0.01
        bound = "lower"
        min_rows = 500
        max_unpaired = 0.2
        name = "rivers"
        description = "they matter"

        [[rule]]
        metric = "accuracy"
        min = 0
    """
    first, second = parsed(tmp_path, text)
    assert first == Rule("classes/River/Lake/recall", 0.5, 1, 0.01, "lower", 500, 0.2, "rivers", "they matter")
    assert (first.title, list(first.conditions)) == ("rivers", ["min", "max", "max_drop"])
    assert (second.title, second.bound, second.min_rows) == ("accuracy ≥ 0", "point", 1)
    (exact,) = parsed(tmp_path, '[[rule]]\nmetric = "images"\nmin = 5400\nmax = 5400')
    assert exact.title == "images ≥ 5,400, ≤ 5,400"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"metric": "accuracy", "mn": 0.9},
            r"rule 1 \(accuracy\) has no key 'mn' \(did you mean 'min'\?\); expected metric, min",
        ),
        ({"metric": "accuracy", "max_rise": 0.9}, "no key 'max_rise' .did you mean 'max_drop'.."),
        ({"metric": "accuracy", "min": 1, "bounds": "lower"}, "no key 'bounds' .did you mean 'bound'.."),
        ({"metric": "accuracy", "min": 1, "Min_Rows": 5}, "no key 'Min_Rows' .did you mean 'min_rows'.."),
        ({"metric": "accuracy", "min": 1, "zzz": 5}, "has no key 'zzz'; expected"),
        (
            {"metric": "acuracy", "min": 0.9},
            r"\(acuracy\): no metric has this name; did you mean 'accuracy'. summ",
        ),
        ({"metric": "ece", "max": 0.9}, "did you mean 'calibration/ece'"),
        ({"metric": "f1", "min": 0.9}, "did you mean 'classes/NAME/f1'"),
        ({"metric": "classes/River/recal", "min": 0.9}, "did you mean 'classes/River/recall'"),
        ({"metric": "classes/River", "min": 0.9}, "did you mean 'classes/River/recall'"),
        ({"metric": "class/River/recall", "min": 0.9}, "no metric has this name; did you mean 'classes/NAME/recall'"),
        ({"metric": "slices/country=NO/accurcy", "min": 0.9}, "did you mean 'slices/country=NO/accuracy'"),
        ({"metric": "images/fialed", "max": 0}, "did you mean 'images/failed'"),
        ({"metric": "qqq", "max": 0}, "no metric has this name; summary.json"),
        ({"min": 0.9}, "rule 1: metric is missing; expected a name"),
        ({"metric": "", "min": 0.9}, "metric is missing"),
        ({"metric": 5, "min": 0.9}, "metric is 5; expected text in quotes"),
        ({"metric": "accuracy", "min": 0.9, "name": 7}, "name is 7; expected text"),
        ({"metric": "accuracy", "min": 0.9, "description": ["x"]}, "description is a list; expected text"),
        ({"metric": "accuracy", "min": "0.9"}, "min is '0.9'; expected a number"),
        ({"metric": "accuracy", "max": True}, "max is true; expected a number"),
        ({"metric": "accuracy", "min": float("nan")}, "min is nan; expected a number"),
        ({"metric": "accuracy", "max": float("inf")}, "max is inf; expected a number"),
        ({"metric": "accuracy", "max": 10**400}, "max is 10+; expected a number"),
        ({"metric": "accuracy", "max_drop": {}}, "max_drop is a table; expected a number"),
        ({"metric": "accuracy", "max_drop": 0, "max_unpaired": "x"}, "max_unpaired is 'x'; expected a number"),
        (
            {"metric": "accuracy", "min": 1, "bound": "lowre"},
            "bound is 'lowre' .did you mean 'lower'..; expected lower, upper",
        ),
        ({"metric": "accuracy", "min": 1, "bound": 1}, "bound is 1; expected lower, upper, point"),
        ({"metric": "accuracy", "min": 1, "min_rows": 0}, "min_rows is 0; expected a whole number of at least 1"),
        ({"metric": "accuracy", "min": 1, "min_rows": 2.5}, "min_rows is 2.5; expected a whole number"),
        ({"metric": "accuracy", "min": 1, "min_rows": True}, "min_rows is true; expected a whole number"),
        ({"metric": "accuracy"}, r"rule 1 \(accuracy\) has no condition; expected min, max or max_drop"),
        ({"metric": "accuracy", "min_rows": 5, "bound": "lower"}, "has no condition"),
        ({"metric": "accuracy", "min": 0.9, "max": 0.8}, "min is 0.9 and max is 0.8; expected min to be at most max"),
        ({"metric": "accuracy", "min": 92.5}, "min is 92.5; expected at most 1: 92.5 % is 0.925"),
        ({"metric": "calibration/ece", "max": 5}, "max is 5; expected at most 1: 5 % is 0.05"),
        ({"metric": "classes/nll/recall", "max_drop": 2}, "max_drop is 2; expected at most 1: 2 % is 0.02"),
        ({"metric": "mcc", "min": -3}, "min is -3; expected at most 1"),
        ({"metric": "accuracy", "max_drop": -0.1}, "max_drop is -0.1; expected a number of at least 0"),
        (
            {"metric": "images/failed", "max_drop": 1},
            "no better or worse for max_drop; expected min or max",
        ),
        ({"metric": "classes/River/support", "max_drop": 1}, "this metric has no better or worse for max_drop"),
        (
            {"metric": "accuracy", "max_drop": 0, "max_unpaired": 1.5},
            "is 1.5; expected a share from 0 to 1",
        ),
        ({"metric": "accuracy", "min": 0, "max_unpaired": 0.5}, "max_unpaired has no effect without max_drop"),
    ],
)
def test_what_is_not_understood_is_one_line_that_names_it(record: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        rules.parse_rules([record], FIGURED)
    assert "\n" not in str(caught.value)


def test_what_may_be_above_1_has_limits_above_1() -> None:
    beyond = ("nll", "slices/a/nll", "brier", "calibration/nll_after", "calibration/conformal_size", "images/failed")
    found = rules.parse_rules([{"metric": name, "max": 7} for name in (*beyond, "calibration/temperature")], FIGURED)
    assert {rule.max for rule in found} == {7}


@pytest.mark.parametrize("records", [{"metric": "accuracy", "min": 0.9}, ["accuracy"], [("accuracy", 0.9)]])
def test_rules_of_a_program_are_a_list_of_tables(records: Any) -> None:
    with pytest.raises(InputError, match="rules are not a list of tables; expected one table per rule, such as"):
        rules.parse_rules(records, FIGURED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rule; expected"),
        ("rule = []", "has no rule; expected"),
        ('[rule]\nmetric = "accuracy"\nmin = 1', "is not a list of tables; expected .*in two brackets"),
        ("rule = [1]", "not a list of tables"),
        ('[[rules]]\nmetric = "accuracy"\nmin = 1', "has 'rules'; expected tables"),
        ('title = "x"\n[[rule]]\nmetric = "accuracy"\nmin = 1', "has 'title'; expected tables"),
        ("[[rule]\n", "is not valid TOML: "),
        ('[[rule]]\nmetric = "accuracy"\nmin = .9', "is not valid TOML: "),
        (f"rule = {'9' * 5_000}", "is not valid TOML: "),
        (f"rule = {'[' * 9_000}", "is not valid TOML: "),
        (
            '[[rule]]\nmetric = "nll"\nmax = 1\n[[rule]]\nmetric = "accuracy"\nmni = 1',
            r"rule 2 \(accuracy\) has no key 'mni'",
        ),
        (
            '[[rule]]\nmetric = "nll"\nmax = 1\nname = "a"\n[[rule]]\nmetric = "nll"\nmin = 0\nname = "a"',
            "two rules have the name 'a'",
        ),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"gates.toml.*{words}") as caught:
        parsed(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.toml: No such file .*--suggest > .*none\.toml"):
        rules.read_rules(tmp_path / "none.toml", FIGURED)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not valid TOML"):
        rules.read_rules(tmp_path / "bytes.toml", FIGURED)
    (tmp_path / "mark.toml").write_text('[[rule]]\nmetric = "nll"\nmax = 1', "utf-8-sig")  # with a byte order mark
    assert len(rules.read_rules(tmp_path / "mark.toml", FIGURED)) == 1


@given(
    kind=st.sampled_from(["classes", "slices"]), inner=st.text(max_size=20), figure=st.sampled_from(["recall", "nll"])
)
def test_whatever_a_class_is_called_its_figures_have_a_pattern(kind: str, inner: str, figure: str) -> None:
    assert pattern_of(f"{kind}/{inner}/{figure}") == f"{kind}/*/{figure}"


def test_of_near_words_the_one_that_ends_so_comes_first() -> None:
    assert nearest_names("temperature", FIGURED)[0] == "calibration/temperature"
    assert nearest_names("NLL", FIGURED)[0] == "nll"
    assert nearest_names("zzzzzz", FIGURED) == []
    assert nearest_names("", FIGURED) == []


def test_the_documentation_has_every_key_and_its_rules_are_understood(tmp_path: Path) -> None:
    described = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", GATES, re.MULTILINE))))
    assert set(RULE_KEYS) <= described
    for page in (GATES, (toy.ROOT / "README.md").read_text("utf-8")):
        written = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[[rule]]" in block]
        assert written
        for block in written:
            assert parsed(tmp_path, block)

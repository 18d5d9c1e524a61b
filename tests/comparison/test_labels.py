"""Comparisons of runs with several labels an image: against plain NumPy, by laws, and as files that people open."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, jaccard_score, roc_auc_score

from predboard import CompareConfig, GateConfig, InputError, VisualizeConfig, compare, gate, visualize
from predboard.cli import main
from predboard.comparison.class_mapping import ClassMapping
from predboard.comparison.join import JoinedRows
from predboard.comparison.label_changes import choose_label_examples, empty_label_examples
from predboard.comparison.label_differences import LabelComparison
from predboard.comparison.methods import METHODS, Settings
from predboard.comparison.paired_labels import PairedLabels
from predboard.metrics.intervals import (
    JACKKNIFE_OF_GROUPS,
    grouped_half_width,
    grouped_method,
    mcnemar_p,
    newcombe_interval,
)
from predboard.predictions.label_sets import MultiLabels
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import MULTI_LABEL, hash_refs
from predboard.state import merge
from predboard.storage.runs import open_step
from tests import toy

RUN = dataclasses.replace(toy.MULTI_LABEL_RUN, classes=("cloud", "river", "road", "forest", "field"))
ROWS = 400
HALVES = slice(0, 170), slice(170, ROWS)

Two = tuple[NDArray[np.float32], NDArray[np.float32], MultiLabels]


def two(seed: int = 1) -> Two:
    """Logits of two models and labels, some of them unknown, some rows without any."""
    old, known = toy.multi_label_table(RUN, ROWS, seed)
    noise = np.random.default_rng(seed + 1).normal(size=old.shape)
    return old, np.round(old + noise, 1).astype(np.float32), known


def joined(logits: Two, at: slice = slice(None)) -> JoinedRows:
    old, new, known = logits
    none = toy.predictions(RUN, old[:0], known[:0])
    sides = [toy.predictions(RUN, z[at], known[at], at.start or 0) for z in (old, new)]
    return JoinedRows(sides[0], sides[1], none, none)


def expected(logits: Two) -> dict[str, Any]:
    """Counts of decisions and sets, by plain masks."""
    old, new, known = logits
    rows = known.labelled
    true, hidden = known.labels.mask(5)[rows], known.unknown.mask(5)[rows]
    before, now = (old[rows] > 0) & ~hidden, (new[rows] > 0) & ~hidden
    was, is_ = before == true, now == true
    return {
        "lost": (true & before & ~now).sum(axis=0),
        "gained": (true & ~before & now).sum(axis=0),
        "dropped": (~true & before & ~now).sum(axis=0),
        "added": (~true & ~before & now).sum(axis=0),
        "fixed": int((~was.all(axis=1) & is_.all(axis=1)).sum()),
        "broken": int((was.all(axis=1) & ~is_.all(axis=1)).sum()),
        "true": true,
        "before": before,
        "now": now,
        "hidden": hidden,
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counts_and_figures_are_those_of_masks_and_scikit_learn(seed: int) -> None:
    logits = two(seed)
    found = LabelComparison(PairedLabels.measure(5, joined(logits)), RUN.classes)
    wanted = expected(logits)
    for place, kind in enumerate(("lost", "gained", "dropped", "added")):
        assert found.moved[place].tolist() == wanted[kind].tolist()
    assert found.fixed_broken == (wanted["fixed"], wanted["broken"])
    assert found.rows == len(wanted["true"])
    weight = ~wanted["hidden"]
    for name, side in (("old", "before"), ("new", "now")):
        true, predicted = wanted["true"], wanted[side]
        overall = found.overall
        values = {d: getattr(overall[d], name) for d in overall}
        assert values["f1_micro"] == pytest.approx(f1_score(true, predicted, average="micro"))
        assert values["f1_macro"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
        assert values["exact"] == pytest.approx((true == predicted).all(axis=1).mean())
        jaccard = jaccard_score(true, predicted, average="samples", zero_division=1)
        assert values["jaccard"] == pytest.approx(jaccard, abs=2e-6)
        assert values["hamming"] == pytest.approx(hamming_loss(true[weight], predicted[weight]))
    exact = found.overall["exact"]
    right = [(wanted["true"] == wanted[side]).all(axis=1) for side in ("before", "now")]
    ends = newcombe_interval(
        *(np.array(n) for n in ((right[0] & right[1]).sum(), right[1].sum(), right[0].sum(), len(right[0])))
    )
    assert exact.interval == pytest.approx((float(ends[0]), float(ends[1])))
    for change in found.by_label:
        c = RUN.classes.index(change.name)
        assert change.p == mcnemar_p(change.fixed, change.broken)
        assert change.f1.new == pytest.approx(f1_score(wanted["true"][:, c], wanted["now"][:, c]))
        assert change.images == wanted["true"][:, c].sum()


def test_states_merge_in_any_pieces_and_order() -> None:
    logits = two()
    pieces = [slice(0, 1), slice(1, 150), slice(150, 151), slice(151, ROWS)]
    whole = PairedLabels.measure(5, joined(logits))
    examples = choose_label_examples(joined(logits))
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        merged, chosen = PairedLabels.zero(5), empty_label_examples()
        for i in order:
            merged = merge(merged, PairedLabels.measure(5, joined(logits, pieces[i])))
            chosen = merge(chosen, choose_label_examples(joined(logits, pieces[i])))
        for name in ("moved", "sets", "both", "scored", "agreed", "same", "unlabelled"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
        np.testing.assert_array_equal(merged.now.decisions, whole.now.decisions)
        np.testing.assert_array_equal(merged.before.sums, whole.before.sums)
        for name, column in examples.of_kind.rows.items():
            np.testing.assert_array_equal(chosen.of_kind.rows[name], column)


def test_half_widths_are_about_those_of_a_bootstrap_of_images() -> None:
    """Of 20 groups each width is off by a sixth by chance, and Student's t makes all of them 1.07 times as wide."""
    ratios = []
    random = np.random.default_rng(0)
    for seed in range(8):
        logits = two(10 + seed)
        found = LabelComparison(PairedLabels.measure(5, joined(logits)), RUN.classes)
        wanted = expected(logits)
        true, sides = wanted["true"], (wanted["before"], wanted["now"])
        draws = []
        for _ in range(200):
            weight = random.poisson(1, len(true))
            f1 = [2 * (weight @ (true & s)).sum() / (weight @ true + weight @ s).sum() for s in sides]
            draws.append(f1[1] - f1[0])
        low, high = found.overall["f1_micro"].interval or (0, 0)
        ratios.append((high - low) / 2 / (1.96 * np.std(draws)))
    assert 0.9 < np.mean(ratios) / 1.07 < 1.1


def test_the_same_predictions_differ_by_nothing() -> None:
    old, _, known = two()
    found = LabelComparison(PairedLabels.measure(5, joined((old, old, known))), RUN.classes)
    assert {d.interval for d in found.differences.values()} == {(0.0, 0.0)}
    assert found.fixed_broken == found.decisions == (0, 0)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of the same images; the new one has its rows and its labels in another order, and one failed row."""
    old, new, known = two()
    toy.write_run(tmp_path / "old", old, known, dataclasses.replace(RUN, thumbnails=8))
    toy.write_run(tmp_path / "new", new, known, dataclasses.replace(RUN, thumbnails=8), failed=frozenset({3}))
    return tmp_path


def test_a_comparison_is_written_for_people_and_programs_and_twice_the_same(runs: Path) -> None:
    config = CompareConfig((runs / "old", runs / "new"), runs / "logs")
    result = compare(config)
    again = compare(dataclasses.replace(config, logdir=runs / "again"))
    assert result.event_file.read_bytes() == again.event_file.read_bytes()
    wanted = expected(two())
    lost = wanted["lost"].sum()
    record = json.loads((result.folder / "compare.json").read_text())
    assert record["rows"]["compared"] in (len(wanted["true"]), len(wanted["true"]) - 1)
    assert "micro F1" in result.verdict
    table = pd.read_parquet(str(result.folder / "changes.parquet"))
    assert abs(table["lost"].dropna().map(len).sum() - lost) <= 5  # without the failed row
    assert (table["kind"] == "failed_new").sum() == 1
    assert set(table["kind"]) <= {"fixed", "broken", "changed_wrong", "changed_unlabelled", "failed_new"}
    fixed = table[table["kind"] == "fixed"]
    assert (fixed["gained"].map(len) + fixed["dropped"].map(len) > 0).all()
    assert (fixed["lost"].map(len) + fixed["added"].map(len) == 0).all()
    assert abs(len(fixed) - wanted["fixed"]) <= 1
    lines = list(csv.DictReader(io.StringIO((result.folder / "labels.csv").read_text())))
    assert {line["label"] for line in lines} == set(RUN.classes)
    values = toy.read_values(result.event_file)
    (caption,) = (v.metadata.summary_description for (tag, _), v in values.items() if tag == "classes/difference")
    assert caption == "F1 of each label, now minus before, in points, with 95 % intervals."  # not Newcombe's
    tags = {tag for tag, _ in values}
    expected_tags = {
        "1_glance/report_card",
        "2_mistakes/broken",
        "examples/fixed",
        "classes/difference",
        "report/labels",
    }
    assert expected_tags <= tags


def test_labels_in_another_order_and_rows_in_another_order_give_the_same(runs: Path) -> None:
    _, new, known = two()
    order = [2, 0, 4, 1, 3]
    moved = toy.multi_labels(known.labels.mask(5)[:, order], known.unknown.mask(5)[:, order], known.labelled)
    names = tuple(RUN.classes[i] for i in order)
    toy.write_run(runs / "moved", new[:, order], moved, dataclasses.replace(RUN, classes=names), shard_size=90)
    toy.write_run(runs / "plain", new, known, RUN)
    first = compare(CompareConfig((runs / "old", runs / "plain"), runs / "logs")).summary["differences"]
    with pytest.raises(InputError, match="--map-classes"):
        compare(CompareConfig((runs / "old", runs / "moved"), runs / "logs"))
    config = CompareConfig((runs / "old", runs / "moved"), runs / "logs", map_classes=True)
    second = compare(config).summary["differences"]
    assert {name: d["difference"] for name, d in first.items()} == pytest.approx(
        {name: d["difference"] for name, d in second.items()}, abs=1e-6
    )


def test_thresholds_of_another_run_go_for_both(runs: Path) -> None:
    (drawn,) = visualize(VisualizeConfig((runs / "old",), runs / "drawn", panels=("thresholds",)))
    file = drawn.folder / "thresholds.json"
    record = json.loads(file.read_text())
    found = compare(CompareConfig((runs / "old", runs / "new"), runs / "logs", thresholds=file)).summary
    assert any("thresholds" in note for note in found["notes"])
    old, new, known = two()
    rows = known.labelled & (np.arange(ROWS) != 3)  # which failed
    true, hidden = known.labels.mask(5)[rows], known.unknown.mask(5)[rows]
    limits = np.array([record["labels"][name]["log_odds"] for name in RUN.classes])
    for name, z in (("old", old), ("new", new)):
        value = f1_score(true, (z[rows] >= limits) & ~hidden, average="micro")
        assert found["differences"]["f1_micro"][name] == pytest.approx(value)


def test_more_than_two_runs_are_ranked_by_micro_f1(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, _, known = two()
    toy.write_run(runs / "third", -old, known, RUN)
    sides = [str(runs / name) for name in ("old", "new", "third")]
    assert main.run(["compare", *sides, "--logdir", str(runs / "logs")]) == 0
    (folder,) = (path for path in (runs / "logs").iterdir() if path.is_dir())
    record = json.loads((folder / "compare.json").read_text())
    assert (record["headline"], record["ranking"][-1]["name"]) == ("f1_micro", "third")
    assert f"{record['ranking'][0]['f1_micro']:.4f} {record['ranking'][0]['name']}" in capsys.readouterr().out


def test_runs_of_other_labels_are_refused(runs: Path) -> None:
    old, _, known = two()
    toy.write_run(runs / "other", old, known, dataclasses.replace(RUN, classes=("a", "b", "c", "d", "e")))
    with pytest.raises(InputError, match="have no label in common, such as 'cloud' and 'a'"):
        compare(CompareConfig((runs / "old", runs / "other"), runs / "logs", map_classes=True))


def test_runs_of_other_labels_are_compared_on_those_that_both_have(tmp_path: Path) -> None:
    """As if both had had these labels alone; of a row where all of them are unknown nothing is known."""
    old, new, known = two()
    true, hidden = known.labels.mask(5), known.unknown.mask(5)
    hidden[7, :3], true[7] = True, False
    for name, z, columns in (("old", old, [0, 1, 2, 3]), ("new", new, [4, 2, 1, 0])):
        run = dataclasses.replace(RUN, classes=tuple(RUN.classes[c] for c in columns))
        labels = toy.multi_labels(true[:, columns], hidden[:, columns], known.labelled)
        toy.write_run(tmp_path / name, z[:, columns], labels, run, shard_size=90)
        common = [2, 1, 0]
        run = dataclasses.replace(RUN, classes=tuple(RUN.classes[c] for c in common))
        labels = toy.multi_labels(true[:, common], hidden[:, common], known.labelled)
        toy.write_run(tmp_path / "plain" / name, z[:, common], labels, run)
    with pytest.raises(InputError, match="--map-classes"):
        compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs"))
    config = CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs", map_classes=True)
    found = compare(config).summary
    plain = compare(CompareConfig((tmp_path / "plain/old", tmp_path / "plain/new"), tmp_path / "logs2")).summary
    assert found["notes"][0] == (
        "only the 3 labels that both runs have are compared; left out: 1 label of the old run alone (forest) and "
        "1 label of the new run alone (field), and cross-entropy, which is of all labels of a run"
    )
    assert plain["differences"].pop("bce")
    same = {name: d for name, d in plain["differences"].items() if not name.startswith("slices/")}
    assert {"average_precision_macro", "exact", "classes/road/f1"} < same.keys()
    assert {name: found["differences"][name] for name in same} == same
    assert (found["rows"], found["by_class"]) == (plain["rows"], plain["by_class"])
    assert "bce" not in found["differences"]
    rules = [{"metric": name, "max_drop": 0.5} for name in ("average_precision_macro", "classes/field/recall")]
    of_map, of_field = gate(tmp_path / "new", rules, tmp_path / "old", map_classes=True).verdicts[1:]
    assert of_map.findings[0].value == pytest.approx(same["average_precision_macro"]["difference"], abs=1e-6)
    assert of_field.outcome != "pass"


@pytest.mark.parametrize("patients", [False, True])
def test_rankings_differ_as_scikit_learn_says_without_each_group_of_images(patients: bool) -> None:
    old, new, known = two(5)
    rows = joined((old, new, known))
    group_of = hash_refs([f"{i // 4}" for i in range(ROWS)])
    if patients:
        column = rows.new.batch.append_column("group:patient", pa.array(group_of, pa.int64()))
        rows = dataclasses.replace(rows, new=MultiLabelPredictions(column))
    state = PairedLabels.measure(5, rows, scored_too=True)
    halves = [PairedLabels.measure(5, joined((old, new, known), at), scored_too=True) for at in HALVES]
    if not patients:
        assert repr(merge(*halves).scores) == repr(merge(*halves[::-1]).scores) == repr(state.scores)
    found = LabelComparison(state, RUN.classes)
    true, hidden = known.labels.mask(5), known.unknown.mask(5)
    group = jackknife_group(group_of if patients else rows.new.key)

    def macro(z: NDArray[np.float32], at: NDArray[np.bool_], function: Any) -> float:
        seen = [at & known.labelled & ~hidden[:, c] for c in range(5)]
        return float(np.mean([function(true[rows, c], z[rows, c]) for c, rows in enumerate(seen)]))

    def micro(z: NDArray[np.float32], at: NDArray[np.bool_], function: Any) -> float:
        decided = (at & known.labelled)[:, None] & ~hidden
        return float(function(true[decided], z[decided]))

    present = sorted(set(group[known.labelled].tolist()))
    for average, of in (("macro", macro), ("micro", micro)):
        for name, function in (("average_precision", average_precision_score), ("auroc", roc_auc_score)):
            d = found.overall[f"{name}_{average}"]
            gain = [of(new, group != g, function) - of(old, group != g, function) for g in (-1, *present)]
            exact = of(old, group >= 0, function), of(new, group >= 0, function)
            assert (d.old, d.new) == pytest.approx(exact, abs=0.01)
            assert d.difference == pytest.approx(gain[0], abs=0.01)
            half, (low, high) = float(grouped_half_width(np.array(gain[1:]))), d.interval or (0, 0)
            assert half * 0.95 < (high - low) / 2 < half * 1.25  # widened by how far binned scores may be off
            assert d.method.startswith(grouped_method("patient") if patients else JACKKNIFE_OF_GROUPS)
            assert found.is_paired(f"{name}_{average}")


def test_a_label_that_differs_is_left_out(tmp_path: Path) -> None:
    old, new, known = two()
    other = known.labels.mask(5)
    other[0] = ~other[0]
    toy.write_run(tmp_path / "old", old, known, RUN)
    toy.write_run(tmp_path / "new", new, toy.multi_labels(other, known.unknown.mask(5), known.labelled), RUN)
    steps = [open_step(tmp_path / name, 0) for name in ("old", "new")]
    assert steps[0] is not None
    assert steps[1] is not None
    found = METHODS[MULTI_LABEL].compare_pair(steps[0], steps[1], ClassMapping(RUN.classes), Settings(), False)
    assert found.state.labels_differ == 1
    assert found.rows == known.labelled.sum() - known.labelled[0]


def test_a_gate_with_a_baseline_is_paired(runs: Path) -> None:
    found = compare(CompareConfig((runs / "old", runs / "new"), runs / "logs")).summary["differences"]
    names = ("f1_micro", "exact", "classes/river/recall")
    rules = "".join(f'[[rule]]\nmetric = "{name}"\nmax_drop = 1.0\n' for name in (*names, "average_precision_macro"))
    (runs / "rules.toml").write_text(rules)
    result = gate(GateConfig(runs / "new", runs / "rules.toml", baseline=runs / "old"))
    values = {verdict.metric: verdict.findings[0].value for verdict in result.verdicts}
    for name in names:
        assert values[name] == pytest.approx(found[name]["difference"])
    assert result.code == 0

"""Groups of classes: every figure against pandas and scikit-learn, the file of groups, gate and compare."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import predboard
from predboard import InputError
from predboard.metrics import registry
from predboard.metrics.class_groups import ClassGroups, read_class_groups
from predboard.metrics.group_counts import GroupCounts
from predboard.metrics.values import group_metrics
from predboard.panels import groups as panel
from predboard.predictions.schema import Run
from predboard.state import merge
from tests import toy

EUROSAT = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)
COVER = dict(zip(EUROSAT, ["farm", "wild", "wild", "built", "built", "farm", "farm", "built", "", ""], strict=True))
NATURE = {c: {"farm": "land", "wild": "land", "built": "built"}.get(g, "water") for c, g in COVER.items()}
MANY = tuple(f"class{i}" for i in range(1000))
FINE = {c: f"fine{i % 25}" for i, c in enumerate(MANY)}
COARSE = {c: f"coarse{i % 25 % 4}" for i, c in enumerate(MANY)}


def write_groups(file: Path, classes: Sequence[str], **levels: Mapping[str, str]) -> Path:
    pd.DataFrame({"class": classes, **{n: [g[c] for c in classes] for n, g in levels.items()}}).to_csv(
        file, index=False
    )
    return file


def eurosat(folder: Path) -> Path:
    return write_groups(folder / "eurosat.csv", EUROSAT, nature=NATURE, cover=COVER)


def expected(z: NDArray[np.float32], label: NDArray[np.int64], classes: Sequence[str], levels: Any) -> dict[str, float]:
    """The figures by pandas and scikit-learn; `levels` has the finest first, as (name, group by class)."""
    p = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    frame = pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=pd.Index(classes))
    names = pd.Series(classes)
    true, predicted = names[label].to_numpy(), names[z.argmax(axis=1)].to_numpy()
    wrong = true != predicted
    figures = {}
    height = wrong.astype(int)
    for level, group in levels:
        own = {c: group[c] or c for c in classes}
        t, q = (pd.Series(column).map(own) for column in (true, predicted))
        s = frame.T.groupby(list(map(own.__getitem__, classes))).sum().T.idxmax(axis=1)
        for end, decided in (("", q), ("_summed", s)):
            figures[f"groups/{level}/accuracy{end}"] = accuracy_score(t, decided)
            figures[f"groups/{level}/balanced_accuracy{end}"] = balanced_accuracy_score(t, decided)
            figures[f"groups/{level}/f1_macro{end}"] = f1_score(t, decided, average="macro", zero_division=0)
        figures[f"groups/{level}/errors_inside"] = float((t == q)[wrong].mean())
        height = height + (t != q).astype(int).to_numpy()
    return {**figures, "groups/all/mistake_height": float(height[wrong].mean())}


@pytest.mark.parametrize(
    ("classes", "levels", "rows"),
    [(EUROSAT, [("cover", COVER), ("nature", NATURE)], 800), (MANY, [("fine", FINE), ("coarse", COARSE)], 4000)],
    ids=["eurosat", "1,000 classes"],
)
def test_every_figure_is_that_of_pandas(tmp_path: Path, classes: tuple[str, ...], levels: Any, rows: int) -> None:
    run = Run(classes, "toy")
    z, label = toy.table(run, rows)
    groups = read_class_groups(write_groups(tmp_path / "g.csv", classes, **dict(levels[::-1])), classes)
    assert [level.name for level in groups.levels] == [name for name, _ in levels]  # the finest first
    metrics = group_metrics(GroupCounts.measure(run, toy.predictions(run, z, label), groups, sum_up=True), groups)
    wanted = expected(z, label, classes, levels)
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(wanted, abs=1e-12)
    assert {registry.pattern_of(name) for name in metrics} == set(panel.Panel().metric_directions)
    for name, metric in metrics.items():
        assert metric.interval is not None, name
        assert metric.interval[0] <= metric.value <= metric.interval[1]
        assert metric.definition


def test_both_decisions_can_differ() -> None:
    """One class has .4, the two of another group .3 each: the highest is in the first, the sum in the second."""
    run = Run(("a", "b", "c"), "toy")
    groups = read("class,g\na,one\nb,two\nc,two\n", run.classes)
    z = np.log([[0.4, 0.3, 0.3]]).astype(np.float32)
    metrics = group_metrics(GroupCounts.measure(run, toy.predictions(run, z, np.array([1])), groups, True), groups)
    assert metrics["groups/g/accuracy"].value == 0
    assert metrics["groups/g/accuracy_summed"].value == 1
    without = group_metrics(GroupCounts.measure(run, toy.predictions(run, z, np.array([1])), groups, False), groups)
    assert without == {name: metric for name, metric in metrics.items() if not name.endswith("_summed")}


def test_heights_by_hand() -> None:
    groups = read(
        "class,genus,family\ncat,Felis,Felidae\nlion,Panthera,Felidae\ntiger,Panthera,Felidae\ndog,Canis,Canidae\n"
    )
    true, predicted = np.array([1, 1, 1, 0]), np.array([1, 2, 0, 3])  # lion: lion, tiger, cat; cat: dog
    assert groups.heights(true, predicted).tolist() == [0, 1, 2, 3]
    assert groups.nested
    crossed = read("class,size,colour\ncat,small,red\nlion,large,red\ntiger,large,grey\ndog,small,grey\n")
    assert not crossed.nested
    state = GroupCounts.measure(run := Run(ANIMALS, "toy"), toy.predictions(run, *toy.table(run, 50)), crossed, True)
    assert "groups/all/mistake_height" not in group_metrics(state, crossed)


ANIMALS = ("cat", "lion", "tiger", "dog")


def read(text: str, classes: Sequence[str] = ANIMALS, folder: Path | None = None) -> ClassGroups:
    import tempfile

    with tempfile.TemporaryDirectory() as own:
        file = (folder or Path(own)) / "g.csv"
        file.write_text(text, "utf-8")
        return read_class_groups(file, classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no level"),
        ("class\ncat\n", "has no level"),
        ("cat,a\ndog,a\n", "begins with the class 'cat'; expected a header such as class,group above it"),
        ("class,g,g\ncat,a,b\n", "two levels 'g'"),
        ("class,\ncat,a\n", "a level without a name"),
        ("class,all\ncat,a\n", "a level 'all', which stands for all levels"),
        ("class,g\ncat,a\ncat,b\n", "names the class 'cat' twice"),
        (
            "class,g\nlyon,a\nwolf,b\n",
            "names 2 classes that the run does not have, the first of them 'lyon'; did you mean lion\\?; there are "
            "cat, lion, tiger, dog$",
        ),
        ("class,g\ncat,a,b\n", "row 2 of .* has 3 cells; expected at most 2"),
        ("class,g\ncat,\n", "level 'g' .* puts no class into a group"),
        ("class,g\ncat,lion\n", "a group 'lion', and the class 'lion' without a group"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


def test_classes_without_a_group_are_their_own() -> None:
    groups = read("\ufeffclass;kind\nlion ; big\ntiger;big\n\n")
    (level,) = groups.levels
    assert (level.groups, level.group_of, groups.alone) == (("big", "cat", "dog"), (1, 0, 0, 2), 2)


@pytest.mark.parametrize("classes", [EUROSAT, MANY], ids=len)
def test_states_obey_the_laws(tmp_path: Path, classes: tuple[str, ...]) -> None:
    levels = {"cover": COVER, "nature": NATURE} if classes == EUROSAT else {"fine": FINE, "coarse": COARSE}
    groups = read_class_groups(write_groups(tmp_path / "g.csv", classes, **levels), classes)
    run, own = Run(classes, "toy"), panel.Panel(groups=groups)
    z, label = toy.table(run, 300)
    label[::7] = -1
    batch = toy.predictions(run, z, label, failed=frozenset(range(0, 300, 11)))
    whole = own.measure(run, batch)
    dealt = np.random.default_rng(1).integers(0, 4, 300)
    pieces = [own.measure(run, batch.take(dealt == i)) for i in range(4)]
    merged = merge(merge(pieces[3], pieces[1]), merge(own.zero(run), merge(pieces[0], pieces[2])))
    for a, b in ((merged.summed, whole.summed), (merged.counts.confusion, whole.counts.confusion)):
        assert a.value.tobytes() == b.value.tobytes()
        assert a.count.tobytes() == b.count.tobytes()


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of the same images, the second better."""
    run = Run(EUROSAT, "toy", 3)
    z, label = toy.table(run, 600)
    for name, noise in (("old", 3), ("new", 1)):
        more = np.random.default_rng(noise).normal(scale=noise, size=z.shape).astype(np.float32)
        toy.write_run(tmp_path / name, z + more, label, run)
    return tmp_path / "old", tmp_path / "new"


def logits(run: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    frame = predboard.open_predictions(run).to_pandas()
    return np.stack(frame["logits"].tolist()), frame["label"].to_numpy().astype(np.int64)


def test_they_are_drawn_gated_and_compared(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    old, new = runs
    file = eurosat(tmp_path)
    logs = tmp_path / "logs"
    (written,) = predboard.visualize(new, logdir=logs, groups=file, panels=("groups", "glance"))
    summary = json.loads((logs / "new" / "summary.json").read_text())
    levels = [("cover", COVER), ("nature", NATURE)]
    wanted = expected(*logits(new), EUROSAT, levels)
    figures = {name: one["value"] for name, one in summary["steps"]["3"].items() if name.startswith("groups/")}
    assert figures == pytest.approx(wanted, abs=1e-8)
    assert summary["definitions"]["groups/*/mistake_height"]["interval"]
    values = toy.read_values(written.event_file)
    assert {("groups/cover", 3), ("groups/nature", 3), ("report/groups", 3)} <= set(values)
    table = pd.read_csv(logs / "new" / "groups.csv").set_index(["level", "group"])
    assert table.loc[("cover", "farm"), "classes"] == "AnnualCrop|Pasture|PermanentCrop"
    assert table.loc["nature"]["hits"].sum() / 600 == pytest.approx(wanted["groups/nature/accuracy"])
    assert table.loc["nature"]["hits_summed"].sum() / 600 == pytest.approx(wanted["groups/nature/accuracy_summed"])

    assert predboard.visualize(new, logdir=logs, groups=file, panels=("groups", "glance"))[0].unchanged
    write_groups(file, EUROSAT, cover=NATURE)  # another content under the same name
    assert not predboard.visualize(new, logdir=logs, groups=file, panels=("groups", "glance"))[0].unchanged
    eurosat(tmp_path)

    rules = [
        {"metric": "groups/nature/accuracy", "min": wanted["groups/nature/accuracy"] - 1e-9, "max_drop": 0.0},
        {"metric": "groups/*/accuracy_summed", "min": 0.1, "max_drop": 0.0},
        {"metric": "groups/all/mistake_height", "max": wanted["groups/all/mistake_height"] + 1e-9},
    ]
    assert predboard.gate(new, rules, baseline=old, groups=file).outcome == "pass"
    assert predboard.gate(old, rules, baseline=new, groups=file).outcome == "fail"
    with pytest.raises(InputError, match="is on groups of classes: name their file"):
        predboard.gate(new, rules[2])

    differences = predboard.compare(old, new, logdir=logs, groups=file).summary["differences"]
    before = expected(*logits(old), EUROSAT, levels)
    for name in ("accuracy", "balanced_accuracy", "f1_macro"):
        for level in ("cover", "nature"):
            d, key = differences[f"groups/{level}/{name}"], f"groups/{level}/{name}"
            assert (d["old"], d["new"]) == pytest.approx((before[key], wanted[key]), abs=1e-8)
            assert d["lower"] < d["difference"] < d["upper"]


def test_without_a_file_of_groups_nothing_changes(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="the panel groups needs groups= FILE"):
        predboard.visualize(runs[0], logdir=tmp_path / "logs", panels=("groups",))
    predboard.visualize(runs[0], logdir=tmp_path / "logs", panels=("glance", "metrics"))
    assert "groups/" not in (tmp_path / "logs" / "old" / "summary.json").read_text()
    report = predboard.compare(*runs, logdir=tmp_path / "logs").summary
    assert not any(name.startswith("groups/") for name in report["differences"])


def test_runs_of_several_labels_are_refused(tmp_path: Path) -> None:
    toy.write_run(tmp_path / "run", *toy.multi_label_table(toy.MULTI_LABEL_RUN, 20), toy.MULTI_LABEL_RUN)
    (tmp_path / "g.csv").write_text("class,g\na,x\n")
    with pytest.raises(InputError, match="is for one label per image"):
        predboard.visualize(tmp_path / "run", logdir=tmp_path / "logs", groups=tmp_path / "g.csv")


def test_runs_without_scores_have_the_group_of_the_predicted_class(tmp_path: Path) -> None:
    run = dataclasses.replace(Run(("a", "b", "c"), "toy"), scores="confidence")
    z = np.array([[0, 0.9], [1, 0.8], [2, 0.7]], np.float32)
    toy.write_run(tmp_path / "run", z, np.array([0, 2, 2]), run)
    file = tmp_path / "g.csv"
    file.write_text("class,g\nb,x\nc,x\n")
    predboard.visualize(tmp_path / "run", logdir=tmp_path / "logs", groups=file)
    figures = json.loads((tmp_path / "logs" / "run" / "summary.json").read_text())["steps"]["0"]
    assert figures["groups/g/accuracy"]["value"] == 1
    assert "groups/g/accuracy_summed" not in figures

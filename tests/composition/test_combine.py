"""Averages of saved runs against NumPy, whatever the order of their rows, and what is refused."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import predboard
from predboard import CombineConfig, InputError
from predboard.cli import main
from predboard.composition.combine import combine
from predboard.composition.inputs import split_step
from predboard.composition.scores import Average
from predboard.predictions.derive import MIN_PROBABILITY
from predboard.predictions.schema import SINGLE_LABEL, Run
from predboard.storage.inspection import inspect
from predboard.storage.remote import RemotePath
from predboard.storage.runs import open_run, part_path, step_folder
from tests import fake_storage, toy
from tests.comparison.test_join import names, step

CIFAR, EUROSAT = toy.SHARED / "cifar10_resnet", toy.SHARED / "eurosat_rgb"
RNG = np.random.default_rng(5)


def scores(folder: Path) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """All rows of a run by their names, with the logits [rows, classes] of those that have any."""
    frame = predboard.open_predictions(folder).to_pandas().set_index("image", drop=False)
    return frame, np.stack([z for z in frame["logits"] if z is not None])


def softmax(z: NDArray[np.float32]) -> NDArray[np.float64]:
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True), np.float64)


def log(p: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.log(np.maximum(p, MIN_PROBABILITY)).astype(np.float32)


def three(tmp_path: Path, order: Sequence[str] | None = None, b_size: int = 30) -> list[Path]:
    """Three runs of the same hundred images; the second in another order, or in parts of another size."""
    folders = [tmp_path / name for name in "abc"]
    for seed, folder in enumerate(folders):
        own = order if folder.name == "b" and order is not None else names(100)
        step(folder, own, seed=seed, shard_size=b_size if folder.name == "b" else 30)
    return folders


@pytest.mark.parametrize("order", ["same", "shuffled", "other parts"])
def test_it_is_the_mean_of_probabilities_to_the_last_bit(tmp_path: Path, order: str) -> None:
    mixed = [names(100)[i] for i in RNG.permutation(100)]
    folders = three(tmp_path, mixed if order == "shuffled" else None, 47 if order == "other parts" else 30)
    combine(CombineConfig(tuple(folders), tmp_path / "e", weights=(1, 1, 2)))
    frame, z = scores(tmp_path / "e")
    by_name = [softmax(np.stack(scores(folder)[0].loc[names(100), "logits"].tolist())) for folder in folders]
    expected = by_name[0] * 0.25 + by_name[1] * 0.25 + by_name[2] * 0.5
    np.testing.assert_array_equal(z, log(expected))
    assert frame["image"].tolist() == names(100)
    np.testing.assert_array_equal(frame["predicted"], expected.argmax(axis=1))
    np.testing.assert_allclose(frame["confidence"], expected.max(axis=1), rtol=1e-6)
    report = inspect(tmp_path / "e")
    assert report.complete  # keys, digests and derived columns are right
    (written,) = open_run(tmp_path / "e")
    assert written.run.scores == "log_probabilities"
    assert written.run.model == "a + b + c"
    assert written.parts[0].part.provenance["shares"] == [0.25, 0.25, 0.5]


def test_the_mean_of_logits(tmp_path: Path) -> None:
    folders = three(tmp_path)
    predboard.combine(*folders, out=tmp_path / "e", by="logits", weights=[1, 1, 2])
    z = [scores(folder)[1].astype(np.float64) for folder in folders]
    np.testing.assert_array_equal(scores(tmp_path / "e")[1], (z[0] / 4 + z[1] / 4 + z[2] / 2).astype(np.float32))
    assert open_run(tmp_path / "e")[0].run.scores == "logits"


def test_images_that_not_all_have_are_failed_rows_with_the_reason(tmp_path: Path) -> None:
    step(tmp_path / "a", names(50), shard_size=20)
    step(tmp_path / "b", names(50, 10)[::-1], seed=1)
    result = combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    frame, z = scores(tmp_path / "e")
    assert (result.rows, result.failed, len(z)) == (60, 20, 40)
    assert frame["image"].tolist() == [*names(50), *names(10, 50)[::-1]]
    assert frame["error"].fillna("").tolist() == ["not in b"] * 10 + [""] * 40 + ["not in a"] * 10
    a, b = (softmax(np.stack(scores(tmp_path / n)[0].loc[names(40, 10), "logits"].tolist())) for n in "ab")
    np.testing.assert_array_equal(z, log((a + b) / 2))
    assert frame["label"].notna().all()
    assert inspect(tmp_path / "e").complete


def test_a_row_that_failed_in_one_run_failed(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "a", logits, label, failed=frozenset({3}))
    toy.write_run(tmp_path / "b", logits, label, failed=frozenset({3, 7}))
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    frame, z = scores(tmp_path / "e")
    assert frame["error"].dropna().tolist() == ["a: broken; b: broken", "b: broken"]
    np.testing.assert_allclose(z, log(softmax(np.delete(logits, [3, 7], 0))), rtol=1e-6)


def test_labels_that_one_run_lacks_are_taken_from_another(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "a", logits, np.where(np.arange(30) < 5, -1, label))
    toy.write_run(tmp_path / "b", logits, np.where(np.arange(30) > 27, -1, label))
    lines: list[str] = []
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"), lines.append)
    assert scores(tmp_path / "e")[0]["label"].tolist() == label.tolist()
    assert lines == ["5 labels that a lacks are of b"]


def test_labels_that_differ_are_refused_with_their_number(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "a", logits, label)
    other = label.copy()
    other[[4, 9]] = (other[[4, 9]] + 1) % 10
    toy.write_run(tmp_path / "b", logits, other)
    with pytest.raises(
        InputError, match=r"^2 images have another label in b than in a, the first of them '000004.png'"
    ):
        combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_further_columns_and_thumbnails_are_those_of_the_first(tmp_path: Path) -> None:
    country = pa.record_batch({"country": ["NO", "SE"] * 10})
    step(tmp_path / "a", names(20), further=country)
    step(tmp_path / "b", names(20, 3), further=pa.record_batch({"country": ["DK"] * 20, "cloud": [1.0] * 20}))
    lines: list[str] = []
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"), lines.append)
    assert scores(tmp_path / "e")[0]["country"].tolist() == ["NO", "SE"] * 10 + ["DK"] * 3
    assert lines[-1] == "left out: cloud of b; further columns are those of a"


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "a", logits, label)
    turned = dataclasses.replace(toy.RUN, classes=(*toy.RUN.classes[::-1], "new"))
    more = np.column_stack([logits[:, ::-1], np.zeros(30, np.float32)])
    toy.write_run(tmp_path / "b", more, 9 - label, turned)
    both = tmp_path / "a", tmp_path / "b"
    with pytest.raises(InputError, match="the classes differ: class 0 is 'class9' in b and 'class0' in a"):
        combine(CombineConfig(both, tmp_path / "e"))
    with pytest.raises(InputError, match="a has no class 'new', and so no score for it: leave out"):
        combine(CombineConfig(both, tmp_path / "e", map_classes=True, by="logits"))
    combine(CombineConfig(both, tmp_path / "e", map_classes=True))
    frame, z = scores(tmp_path / "e")
    p = softmax(more)
    expected = (np.column_stack([softmax(logits), np.zeros(30)]) + np.column_stack([p[:, 9::-1], p[:, 10]])) / 2
    np.testing.assert_allclose(z, log(expected), rtol=1e-6)
    assert frame["label"].tolist() == label.tolist()


def test_steps_of_one_run_by_name(tmp_path: Path) -> None:
    for number in (10, 11):
        logits, label = toy.table(toy.RUN, 20, seed=number)
        toy.write_run(tmp_path / "a", logits, np.zeros(20, np.int64), dataclasses.replace(toy.RUN, step=number))
    del label
    a = tmp_path / "a"
    combine(CombineConfig((f"{a}@10", f"{a}@11"), tmp_path / "e"))  # type: ignore[arg-type]  # texts become paths
    (written,) = open_run(tmp_path / "e")
    assert (written.step, written.run.model) == (11, "a@10 + a@11")
    for named, message in (((f"{a}@9", a), "has no step 9; there are 10, 11"), ((f"{a}@11", a), "named twice")):
        with pytest.raises(InputError, match=message):
            combine(CombineConfig(named, tmp_path / "f"))  # type: ignore[arg-type]
    (tmp_path / "x@3").mkdir()
    assert split_step(tmp_path / "x@3") == (tmp_path / "x@3", None)


def test_several_labels_have_the_log_odds_of_the_mean(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in "abc"]
    saved = [toy.multi_label_table(toy.MULTI_LABEL_RUN, 60, seed=seed)[0] for seed in range(3)]
    _, labels = toy.multi_label_table(toy.MULTI_LABEL_RUN, 60)
    for folder, z in zip(runs, saved, strict=True):
        toy.write_run(folder, z, labels, toy.MULTI_LABEL_RUN, shard_size=25)
    combine(CombineConfig(tuple(runs), tmp_path / "e", weights=(1, 1, 2)))
    p = [1 / (1 + np.exp(-z.astype(np.float64))) for z in saved]
    mean = p[0] / 4 + p[1] / 4 + p[2] / 2
    frame, z = scores(tmp_path / "e")
    np.testing.assert_allclose(z, np.log(mean) - np.log1p(-mean), rtol=1e-6, atol=1e-6)
    assert [list(row) for row in frame["predicted_labels"]] == [np.flatnonzero(row > 0).tolist() for row in z]
    before = predboard.open_predictions(runs[0]).to_pandas()["labels"]
    as_lists = [[row if row is None else list(row) for row in column] for column in (before, frame["labels"])]
    assert as_lists[0] == as_lists[1]
    assert inspect(tmp_path / "e").complete
    assert open_run(tmp_path / "e")[0].run.scores == "log_odds"

    other = toy.multi_labels(~labels.labels.mask(len(toy.MULTI_LABEL_RUN.classes)))
    toy.write_run(tmp_path / "other", saved[0], other, toy.MULTI_LABEL_RUN)
    with pytest.raises(InputError, match=r"\d+ images have another label in other than in a"):
        combine(CombineConfig((runs[0], tmp_path / "other"), tmp_path / "f"))
    toy.write_run(tmp_path / "single", *toy.table(toy.RUN, 60))
    with pytest.raises(InputError, match="only runs of one task can be combined"):
        combine(CombineConfig((runs[0], tmp_path / "single"), tmp_path / "f"))


def test_unlabelled_and_unknown_labels_are_those_of_the_run_that_knows_them(tmp_path: Path) -> None:
    run = dataclasses.replace(toy.MULTI_LABEL_RUN, classes=("x", "y", "z"))
    z = np.ones((3, 3), np.float32)
    true = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    hidden = np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
    toy.write_run(tmp_path / "a", z, toy.multi_labels(true, hidden, np.array([True, False, True])), run)
    toy.write_run(tmp_path / "b", z, toy.multi_labels(true), run)
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    frame, _ = scores(tmp_path / "e")
    assert [list(row) for row in frame["labels"]] == [[0], [1], [2]]
    assert [None if row is None else list(row) for row in frame["unknown"]] == [[2], None, None]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("part-*"))}


def test_the_same_input_gives_the_same_bytes_and_valid_parts_stay(tmp_path: Path) -> None:
    folders = three(tmp_path, names(100)[::-1])
    lines: list[str] = []
    config = CombineConfig(tuple(folders), tmp_path / "e")
    assert combine(config).written == 100
    first = digests(tmp_path / "e")
    combine(CombineConfig(tuple(folders), tmp_path / "f"))
    assert digests(tmp_path / "f") == first
    part_path(tmp_path / "e", 0, 1).unlink()  # as if it had been killed before the second part
    toy.spoil(part_path(tmp_path / "e", 0, 2), "key")
    assert combine(config, lines.append).written == 60
    assert digests(tmp_path / "e") == first
    assert "2 of 4 parts" in lines[-1]
    step(folders[1], names(100), seed=7, shard_size=30)  # predictions that changed since
    with pytest.raises(InputError, match="was made of other rows, or these have changed since"):
        combine(config)
    with pytest.raises(InputError, match="another model_args"):
        combine(dataclasses.replace(config, weights=(1, 2, 3)))
    combine(dataclasses.replace(config, overwrite=True))
    assert digests(tmp_path / "e") != first


def test_what_cannot_be_combined_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = three(tmp_path)[0]
    step(tmp_path / "far", names(100, 500))
    incomplete = tmp_path / "incomplete"
    step(incomplete, names(100), shard_size=30)
    part_path(incomplete, 0, 1).unlink()
    empty = tmp_path / "empty"
    step(empty, names(100))
    step_folder(empty, 12).mkdir()
    b = tmp_path / "b"
    out = "--out", str(tmp_path / "e")
    for arguments, message in (
        ((str(a), *out), "combine needs two steps or more"),
        ((str(a), str(b)), "where to? For example: --out predictions/new"),
        ((str(a), str(b), "--out", str(a)), "is one of the runs"),
        ((str(a), str(b), *out, "--weights", "1,2,3"), "--weights has 3 numbers for 2 steps"),
        ((str(a), str(b), *out, "--weights", "1,0"), "expected numbers above 0"),
        ((str(a), str(tmp_path / "far"), *out), "no image is in all of a and far ('00000.png' is in one, '00500.png'"),
        ((str(a), str(incomplete), *out), "is missing 30 rows of 100"),
        ((str(a), str(empty), *out), "step=00000012 holds no part: run the command that wrote it again, delete this f"),
        ((str(a), str(empty), *out), f"or name a step, as in {empty}@0"),
    ):
        assert main.run(["combine", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "e").exists()
    assert main.run(["combine", str(a), f"{empty}@0", *out]) == 0


def test_runs_in_storage(tmp_path: Path) -> None:
    folders = three(tmp_path, names(100)[::-1])
    combine(CombineConfig(tuple(folders), tmp_path / "e"))
    storage = fake_storage.empty()
    remote = [fake_storage.copied(storage, folder, f"runs/{folder.name}") for folder in folders]
    combine(CombineConfig(tuple(remote), RemotePath("fake://runs/e")))
    written = {file.rpartition("/")[2]: storage.cat_file(file) for file in storage.find("/runs/e")}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in written.items()} == digests(tmp_path / "e")


def test_an_average_by_hand() -> None:
    """Of (1/4, 3/4) and (3/4, 1/4), the first counted three times: (3/8, 5/8)."""
    one, other = np.log([[0.25, 0.75]]).astype(np.float32), np.log([[0.75, 0.25]]).astype(np.float32)
    average = Average((0.75, 0.25), "probabilities", SINGLE_LABEL, 2, (None, None))
    z, raised = average([one, other])
    np.testing.assert_allclose(np.exp(z), [[3 / 8, 5 / 8]], rtol=1e-6)
    assert raised == 0
    z, raised = average([np.array([[0, 200]], np.float32)] * 2)
    assert raised == 1
    assert z[0, 0] == np.float32(np.log(MIN_PROBABILITY))


def test_the_average_of_eurosats_five_steps(tmp_path: Path) -> None:
    if not EUROSAT.is_dir():
        pytest.skip(f"needs the saved logits in {EUROSAT}")
    folders = [line.split()[1] for line in (EUROSAT / "splits" / "test.txt").read_text().splitlines()]
    classes = tuple(sorted(set(folders)))
    label = np.array([classes.index(folder) for folder in folders])
    saved = {n: np.load(EUROSAT / "small_cnn" / f"eurosat_cnn_epoch{n:02d}_testlogits.npy") for n in (1, 3, 6, 9, 12)}
    for number, logits in saved.items():
        toy.write_run(tmp_path / "net", logits, label, Run(classes, "net", number))
    combine(CombineConfig(tuple(tmp_path / f"net@{number}" for number in saved), tmp_path / "e"))
    expected = np.mean([softmax(logits) for logits in saved.values()], axis=0)
    frame, z = scores(tmp_path / "e")
    np.testing.assert_allclose(np.exp(z.astype(np.float64)), expected, rtol=1e-5, atol=1e-37)
    np.testing.assert_array_equal(frame["predicted"], expected.argmax(axis=1))
    assert (frame["predicted"] == frame["label"]).mean() == (expected.argmax(axis=1) == label).mean()


def test_an_ensemble_of_two_published_networks(tmp_path: Path) -> None:
    if not CIFAR.is_dir():
        pytest.skip(f"needs the saved logits in {CIFAR}")
    with zipfile.ZipFile(CIFAR / "cifar10_test1000_png.zip") as archive:
        images = sorted(name for name in archive.namelist() if name.endswith(".png"))
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    label = np.array([classes.index(Path(image).stem.split("_")[1]) for image in images])
    saved = [np.load(CIFAR / "reference" / f"resnet{n}_png1000_logits.npy") for n in (20, 32)]
    assert [(z.argmax(axis=1) == label).sum() for z in saved] == [915, 928]  # as published
    for name, logits in zip("ab", saved, strict=True):
        toy.write_run(tmp_path / name, logits, label, Run(classes, name))
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    expected = (softmax(saved[0]) + softmax(saved[1])) / 2
    frame, z = scores(tmp_path / "e")
    np.testing.assert_array_equal(z, log(expected))
    nll = -np.log(expected[np.arange(1000), label]).mean()
    assert frame["loss"].mean() == pytest.approx(nll, rel=1e-5)
    result = predboard.compare(tmp_path / "b", tmp_path / "e", logdir=tmp_path / "logs")
    right = [(p.argmax(axis=1) == label) for p in (saved[1], expected)]
    rows = result.summary["rows"]
    assert (rows["fixed"], rows["broken"]) == ((right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum())


def test_the_page_of_a_run_says_what_it_was_made_of(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    for name, crop in (("a", 224), ("b", 192)):
        run = dataclasses.replace(toy.RUN, transform={"crop": crop, "resize": 256}, weights=f"of {name}")
        toy.write_run(tmp_path / name, logits, label, run)
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "e"))
    (drawn,) = predboard.visualize(tmp_path / "e", logdir=tmp_path / "logs", panels=("report", "glance"))
    page = toy.read_values(drawn.event_file)["report/run", 0].tensor.string_val[0].decode()
    assert "| transform | resize 256 |" in page
    assert "| source 2 | model toy.py:build, rows 30, run b, step 0, weights of b, crop 192 |" in page

"""Labels that change in the list after inference: parts are rewritten without the model, bit for bit as a new run's."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from predboard import infer
from predboard.errors import InputError
from predboard.images.manifest import make_manifest
from predboard.inference import relabel as relabelling
from predboard.inference.relabel import find_relabelled, rewrite_labels
from predboard.storage.inspection import inspect
from predboard.storage.part_plan import plan_parts
from predboard.storage.parts import PartWriter, open_part
from predboard.storage.runs import list_part_paths, open_run
from tests import toy
from tests.inference.nets import count_reads, make_config, modification_times, read_frame, save_checkpoints

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def write_list(folder: Path, labels: dict[int, str]) -> Path:
    """A list of twelve pictures with a column of places, some with other labels."""
    lines = ["image,label,place"]
    for i in range(12):
        name = f"{'abc'[i // 4]}/{i % 4:03d}.png"
        lines.append(f"{name},{labels.get(i, 'abc'[i // 4])},{i % 2}")
    file = folder / "data/list.csv"
    file.write_text("\n".join([*lines, ""]))
    return file


def configured(folder: Path, net: str, **more: Any) -> Any:
    files = save_checkpoints(folder, net, (1, 2))
    return make_config(folder, net, data=str(folder / "data/list.csv"), checkpoint=files, shard_size=5, **more)


def test_labels_alone_are_rewritten_without_the_model(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    write_list(tmp_path, {})
    infer(configured(tmp_path, net))
    before = modification_times(tmp_path / "out")
    write_list(tmp_path, {1: "c", 11: "a"})  # in the first and the last of three parts
    with pytest.raises(InputError, match="in 2 of them labels alone changed, for which it does not run the model"):
        infer(configured(tmp_path, net))
    reads = count_reads(monkeypatch)
    lines: list[str] = []
    outcome = infer(configured(tmp_path, net, update=True), lines.append)
    said = "nothing but labels changed in 4 parts of 2 steps: 4 labels and what follows from them rewritten"
    assert any(line.startswith(said) and line.endswith("without running the model") for line in lines)
    assert (outcome.written, outcome.complete) == (0, True)
    assert reads == ["a/000.png"]  # the first, which every run looks at
    after = modification_times(tmp_path / "out")
    assert sum(after[name] != before[name] for name in before) == 4
    assert inspect(tmp_path / "out").complete
    infer(configured(tmp_path, net, out=tmp_path / "new"))
    for step in (1, 2):
        pd.testing.assert_frame_equal(read_frame(tmp_path / "out", step), read_frame(tmp_path / "new", step))
        for old, new in zip(*(list_part_paths(tmp_path / name, step) for name in ("out", "new")), strict=True):
            a, b = open_part(old).part, open_part(new).part
            assert (a.manifest_digest, a.content_digest) == (b.manifest_digest, b.content_digest)
    assert infer(configured(tmp_path, net)).written == 0


def test_what_changed_besides_labels_is_made_again(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    file = write_list(tmp_path, {})
    infer(configured(tmp_path, net))
    file.write_text(write_list(tmp_path, {1: "c"}).read_text().replace("b/003.png,b,1", "b/003.png,b,7"))
    lines: list[str] = []
    outcome = infer(configured(tmp_path, net, update=True), lines.append)
    assert outcome.written == 2 * 5  # the part with another place; that with another label alone is rewritten
    assert any("nothing but labels changed in 2 parts" in line for line in lines)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_that_is_killed_has_each_part_whole(
    tmp_path: Path, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy.MULTI_LABEL_RUN if multi_label else toy.RUN
    label: Any
    new: Any
    if multi_label:
        logits, label = toy.multi_label_table(run, 30)
        new = toy.multi_label_table(run, 30, seed=1)[1]
    else:
        logits, label = toy.table(run, 30)
        new = np.where(np.arange(30) % 3 == 0, -1, label).astype(np.int32)
    for name, labels in (("run", label), ("expected", new)):
        toy.write_run(tmp_path / name, logits, labels, run, shard_size=10)
    refs = pd.read_parquet(tmp_path / "run").image.tolist()
    manifest = make_manifest(tmp_path, refs, new, run.classes)
    paths = list_part_paths(tmp_path / "run", run.step)
    publish = PartWriter.publish
    published: list[Any] = []

    def dies_at_the_second(self: PartWriter, part: Any) -> None:
        if published:
            raise KeyboardInterrupt
        publish(self, part)
        published.append(part)

    monkeypatch.setattr(PartWriter, "publish", dies_at_the_second)
    files = find_relabelled(paths, manifest, plan_parts(30, 10))
    assert len(files) == 3
    with pytest.raises(KeyboardInterrupt):
        rewrite_labels(files, manifest, print)
    monkeypatch.undo()
    assert sorted(paths[0].parent.iterdir()) == paths  # nothing is left aside
    left = find_relabelled(
        [path for path in paths if open_part(path).part != published[0]], manifest, plan_parts(30, 10)
    )
    rewrite_labels([file for file in left if file.path != paths[0]], manifest, print)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run"), pd.read_parquet(tmp_path / "expected"))
    assert [part.part.manifest_digest for part in open_run(tmp_path / "run")[0].parts] == [
        manifest.digest(part.start, part.stop) for part in plan_parts(30, 10)
    ]


def test_items_of_a_dataset_may_have_labels_of_their_own(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 10)
    toy.write_run(tmp_path / "run", logits, label, shard_size=10)
    paths: list[Any] = list_part_paths(tmp_path / "run", 0)
    refs = pd.read_parquet(tmp_path / "run").image.tolist()
    manifest = make_manifest(tmp_path, refs, label.astype(np.int32)[::-1].copy(), toy.RUN.classes)
    check: Callable[..., Any] = relabelling.find_relabelled
    assert len(check(paths, manifest, plan_parts(10, 10))) == 1
    assert check(paths, manifest, plan_parts(10, 7)) == []
    object.__setattr__(manifest, "dataset", object())
    assert check(paths, manifest, plan_parts(10, 10)) == []

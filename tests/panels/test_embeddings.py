"""Points of the Projector: which rows, which vectors, which pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from predboard import VisualizeConfig, panels, visualize
from predboard.evaluation.measure import measure_steps
from predboard.panels import RunInfo, StepInfo, embeddings
from predboard.parallel.executor import Executor
from predboard.parallel.pool import ProcessPool
from predboard.predictions.schema import Part, Run, part_schema
from predboard.predictions.table import Predictions
from predboard.storage.parts import PartWriter
from predboard.storage.runs import Step, open_run, part_path, read_values
from predboard.summaries import Projector
from predboard.visualization import events
from tests import toy


def projector(panel: embeddings.Panel, run: Run, batch: Predictions) -> Projector:
    ((step, found),) = panel.render(RunInfo("toy", run, {4: StepInfo(1, 1)}), {4: panel.measure(run, batch)})
    assert step == 4
    assert isinstance(found, Projector)
    return found


def test_the_points_are_the_rows_of_lowest_hash_and_no_more_than_wanted() -> None:
    panel = embeddings.Panel(most=20)
    logits, label = toy.table(toy.RUN, 300)
    batch = toy.predictions(toy.RUN, logits, label, failed=frozenset(range(0, 300, 7)))
    few = projector(panel, toy.RUN, Predictions(batch.batch, manifest_rows=300))
    all_known = projector(panel, toy.RUN, batch)
    assert len(few.vectors) == 20
    np.testing.assert_array_equal(few.vectors, all_known.vectors)  # the draw before the draw takes none of them away
    ids = few.rows["id"]
    assert not set(ids.tolist()) & set(range(0, 300, 7))
    np.testing.assert_array_equal(few.vectors, logits[ids])


def test_there_are_fewer_points_where_vectors_are_long() -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple(map(str, range(400))))
    panel = embeddings.Panel(values=40 * 400)
    logits, label = toy.table(run, 100)
    assert projector(panel, run, toy.predictions(run, logits, label)).vectors.shape == (40, 400)


def test_stored_embeddings_are_drawn_rather_than_logits(tmp_path: Path) -> None:
    run = dataclasses.replace(toy.RUN, embedding=6)
    logits, label = toy.table(run, 30)
    vectors = np.random.default_rng(3).normal(size=(30, 6)).astype(np.float16)
    plain = toy.predictions(toy.RUN, logits, label)
    made = Predictions.build(
        part_schema(run),
        id=plain.id,
        key=plain.key,
        image=plain.column("image"),
        label=label,
        logits=logits,
        error=["broken" if i == 2 else None for i in range(30)],
        more={
            **{n: plain.column(n) for n in ("digest", "bytes", "width", "height", "brightness", "contrast")},
            "embedding": vectors,
        },
    )
    writer = PartWriter(part_path(tmp_path / "run", 0, 0), run)
    writer.write(made)
    writer.publish(Part(0, 30, toy.manifest_digest(made), 30, "", started=1.7e9, finished=1.7e9))
    (written,) = visualize(
        VisualizeConfig(predictions=(tmp_path / "run",), logdir=tmp_path / "logs", panels=("embeddings",))
    )
    found = np.frombuffer((written.folder / "projector" / "vectors.bytes").read_bytes(), "<f4").reshape(-1, 6)
    words = (written.folder / "projector" / "metadata.tsv").read_text().splitlines()
    ids = [int(line.split("\t")[words[0].split("\t").index("row")]) for line in words[1:]]
    assert sorted(ids) == [i for i in range(30) if i != 2]
    np.testing.assert_array_equal(found, vectors[ids].astype(np.float32))
    assert not (written.folder / "rows.parquet").exists()  # panels were picked, and none looks again


def test_vectors_that_could_be_taken_for_text_are_written_as_text() -> None:
    rows = {"id": np.arange(2), "image": np.array(["a", "b"], object)}
    summary = Projector("zeros", np.zeros((2, 3), np.float32), {"true": ["a\tb", "c\nd"], "x": ["1", "2"]}, rows)
    files = {file.tag: file.content for file in events.encode_projector(summary, b"jpeg", 8)}
    assert files["projector/vectors.tsv"] == b"0\t0\t0\n0\t0\t0\n"
    assert files["projector/metadata.tsv"] == b"true\tx\na b\t1\nc d\t2\n"
    assert b"tensor_shape" not in files["projector_config.pbtxt"]


def test_the_panel_is_silent_where_there_are_no_points() -> None:
    panel = panels.load("embeddings")
    assert list(panel.render(RunInfo("toy", toy.RUN, {0: StepInfo(0, 0)}), {0: panel.zero(toy.RUN)})) == []


def test_only_the_last_step_is_measured(tmp_path: Path) -> None:
    for step in (1, 2):
        logits, label = toy.table(toy.RUN, 30, seed=step)
        toy.write_run(tmp_path, logits, label, dataclasses.replace(toy.RUN, step=step), shard_size=20)
    states = measure_steps(open_run(tmp_path), panels.choose(("embeddings", "glance")), Executor(ProcessPool(1)))
    assert {step: len(state["embeddings"].points.score) for step, state in states.items()} == {1: 0, 2: 30}
    ids = states[2]["embeddings"].points.rows["id"]
    np.testing.assert_array_equal(states[2]["embeddings"].points.rows["vector"], logits[ids])


@pytest.mark.parametrize("where", ["thumbnails", "nowhere"])
def test_pictures_of_the_sprite_come_from_thumbnails_where_there_are_no_sources(where: str, tmp_path: Path) -> None:
    run = dataclasses.replace(toy.RUN, thumbnails=8 if where == "thumbnails" else 0, root=str(tmp_path / "gone"))
    logits, label = toy.table(run, 9)
    toy.write_run(tmp_path / "run", logits, label, run)
    (written,) = visualize(
        VisualizeConfig(predictions=(tmp_path / "run",), logdir=tmp_path / "logs", panels=("embeddings",))
    )
    assert written.missing_pictures == (0 if where == "thumbnails" else 9)
    there = where == "thumbnails"
    assert (written.folder / "projector" / "sprite.jpg").exists() == there
    assert ("sprite" in (written.folder / "projector_config.pbtxt").read_text()) == there


def test_thumbnails_of_all_tiles_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dataclasses.replace(toy.RUN, thumbnails=8, root=str(tmp_path / "gone"))
    logits, label = toy.table(run, 60)
    toy.write_run(tmp_path / "run", logits, label, run)
    asked = []
    pick = read_values

    def counted(step: Step, ids: set[int], column: str) -> dict[int, bytes]:
        asked.append(len(ids))
        return pick(step, ids, column)

    monkeypatch.setattr("predboard.visualization.source_images.read_values", counted)
    (written,) = visualize(
        VisualizeConfig(predictions=(tmp_path / "run",), logdir=tmp_path / "logs", panels=("mistakes", "predictions"))
    )
    assert written.missing_pictures == 0
    assert len(asked) <= 2  # once for each panel, at most
    assert pq.read_metadata(next((tmp_path / "run").rglob("*.parquet"))).num_rows == 60

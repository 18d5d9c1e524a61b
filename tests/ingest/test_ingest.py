"""The import as a whole: what is stored, steps, what is on disk after a kill or a change, and the command."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import open_predictions
from predboard.cli import main
from predboard.config import ImportConfig
from predboard.errors import InputError
from predboard.images import sources
from predboard.ingest.ingest import import_predictions
from predboard.storage.parts import PartWriter
from predboard.storage.runs import list_step_numbers, open_run
from tests import toy
from tests.ingest.examples import logits_of, make, refused, run, save_csv, save_npz, softmax

# --- what is stored ---


def test_probabilities_and_their_logarithms_give_the_same_derived_columns_as_logits(tmp_path: Path) -> None:
    logits, label, image = make()
    p = softmax(logits)
    frames = {}
    for kind, scores in (("logits", logits), ("probabilities", p), ("log_probabilities", np.log(p))):
        np.savez(tmp_path / f"{kind}.npz", scores=scores, labels=label, files=image)
        frames[kind] = run(tmp_path / kind, tmp_path / f"{kind}.npz", scores=kind)
        assert open_predictions(tmp_path / kind / "out").run.scores == (
            kind if kind == "logits" else "log_probabilities"
        )
        for name in ("confidence", "loss", "margin", "entropy"):
            np.testing.assert_allclose(frames[kind][name], frames["logits"][name], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(softmax(logits_of(frames["probabilities"])), p, rtol=1e-5)


def test_one_row_is_logged_in_the_singular(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "one.csv").write_text("path,prob_a,prob_b,label\nx.jpg,.5,.5,a\n")
    import_predictions(ImportConfig("probabilities", (tmp_path / "one.csv",), tmp_path / "one"), lines.append)
    assert lines[0] == "one.csv: 1 row, 2 classes in prob_a, prob_b"
    (tmp_path / "two.csv").write_text("prob_a,prob_b\n1,0\n.5,nan\n")
    (tmp_path / "labels.txt").write_text("cow\na\n")
    (tmp_path / "names.txt").write_text("a\nb\n")
    lines.clear()
    config = ImportConfig("probabilities", (tmp_path / "two.csv",), tmp_path / "two", labels=tmp_path / "labels.txt")
    import_predictions(dataclasses.replace(config, classes=tmp_path / "names.txt"), lines.append)
    assert lines == [
        "two.csv: 2 rows, 2 classes in prob_a, prob_b",
        "warning: 1 label in labels.txt is not among the classes (cow); it counts as unknown",
        f"labels: labels.txt; images: none; order of the classes: --classes {tmp_path / 'names.txt'}",
        "warning: 1 row in two.csv has scores that are not finite; it becomes a failed row",
        "1 probability below 1.2e-38 in two.csv was raised to that, a loss of 87.3 nats",
    ]


def test_a_probability_of_zero_and_a_row_that_is_not_finite(tmp_path: Path) -> None:
    p = np.array([[1, 0, 0], [0.5, 0.25, 0.25], [np.nan] * 3, [0.2, np.nan, 0.8]])
    saved = pd.DataFrame(p, columns=["prob_a", "prob_b", "prob_c"])
    saved["label"] = pd.Series(["b", "a", "a", None])
    saved.to_csv(tmp_path / "a.csv", index=False)
    lines: list[str] = []
    out = tmp_path / "out"
    result = import_predictions(ImportConfig("probabilities", (tmp_path / "a.csv",), out), lines.append)
    assert lines == [
        "a.csv: 4 rows, 3 classes in prob_a, prob_b, prob_c",
        "labels: 'label' of a.csv; images: none; order of the classes: the score columns",
        "warning: 2 rows in a.csv have scores that are not finite; they become failed rows",
        "2 probabilities below 1.2e-38 in a.csv were raised to that, a loss of 87.3 nats",
    ]
    frame = open_predictions(out).to_pandas()
    assert frame["error"].fillna("").tolist() == ["", "", "the scores are not finite", "the scores are not finite"]
    assert frame["loss"].tolist()[0] == pytest.approx(126 * np.log(2))
    assert frame["label"].tolist()[:3] == [1, 0, 0] and frame["label"].isna().tolist() == [False] * 3 + [True]
    assert (result.failed, result.steps[0].accuracy) == (2, 0.5)
    assert open_predictions(out).run.classes == ("a", "b", "c")
    assert [part.part.clipped for part in open_predictions(out).step.parts] == [2]


def test_missing_or_too_large_scores_make_a_failed_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"logits": [[1.0, 2.0], None, [3.0, None], [1e300, 0.0]]}), tmp_path / "a.parquet")
    frame = run(tmp_path, tmp_path / "a.parquet")
    assert frame["error"].fillna("").tolist() == ["", *["the scores are not finite"] * 3]
    assert frame["predicted"].fillna(-1).tolist() == [1, -1, -1, -1]


def test_other_scores_of_the_same_file_count_as_other_content(tmp_path: Path) -> None:
    logits, *_ = make()
    np.savez(tmp_path / "a.npz", first=logits, second=-logits)
    run(tmp_path, tmp_path / "a.npz", score_column="first")
    with pytest.raises(InputError, match="made with another content of the files"):
        run(tmp_path, tmp_path / "a.npz", score_column="second")


def test_pictures_that_are_not_found_are_counted(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = make(12)
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "data/b/001.png").unlink()
    refs = [f"{c}/{i:03d}.png" for c in "abc" for i in range(4)]
    (tmp_path / "list.txt").write_text("\n".join(refs))
    config = ImportConfig("logits", (tmp_path / "a.npy",), tmp_path / "out", images=str(tmp_path / "list.txt"))
    assert import_predictions(config).missing == 12
    root = ImportConfig(
        "logits",
        (tmp_path / "a.npy",),
        tmp_path / "out2",
        images=str(tmp_path / "list.txt"),
        image_root=tmp_path / "data",
    )
    assert import_predictions(root).missing == 1
    frame = open_predictions(tmp_path / "out2").to_pandas()
    assert frame["digest"].isna().tolist() == [ref == "b/001.png" for ref in refs]
    assert frame["error"].isna().all()


# --- steps ---


def test_files_are_steps_if_their_names_have_numbers_else_one_table(tmp_path: Path) -> None:
    logits, label, image = make()
    for epoch in (2, 10):
        save_npz(tmp_path / f"net_epoch{epoch:02d}.npz", logits * epoch, label, image)
    for half, rows in (("a", slice(0, 25)), ("b", slice(25, 40))):
        save_npz(tmp_path / f"{half}.npz", logits[rows], label[rows], image[rows])
        save_npz(tmp_path / f"step7_{half}.npz", logits[rows] * 7, label[rows], image[rows])
    epochs = [tmp_path / "net_epoch10.npz", tmp_path / "net_epoch02.npz"]
    run(tmp_path, *epochs)
    for epoch in (2, 10):
        np.testing.assert_array_equal(
            logits_of(open_predictions(tmp_path / "out", step=epoch).to_pandas()), logits * epoch
        )
    halves = [tmp_path / "a.npz", tmp_path / "b.npz"]
    run(tmp_path, *halves, step=(3,), shard_size=16)
    run(tmp_path, tmp_path / "step7_a.npz", tmp_path / "step7_b.npz")
    run(tmp_path, tmp_path / "a.npz", tmp_path / "a.npz", step=(20, 21))
    assert list_step_numbers(tmp_path / "out") == [2, 3, 7, 10, 20, 21]
    for step in (3, 7):
        frame = open_predictions(tmp_path / "out", step=step).to_pandas()
        np.testing.assert_array_equal(logits_of(frame), logits * (7 if step == 7 else 1))
        assert frame["image"].tolist() == image
    with pytest.raises(InputError, match=r"a\.npz has no step in its name, but other files have: give --step"):
        run(tmp_path, tmp_path / "a.npz", tmp_path / "net_epoch02.npz")
    with pytest.raises(InputError, match="--step has 3 numbers for 2 files"):
        run(tmp_path, *halves, step=(1, 2, 3))


def test_steps_of_other_classes_do_not_mix(tmp_path: Path) -> None:
    for classes in (3, 4):
        logits, *_ = make(classes=classes)
        np.save(tmp_path / f"step{classes}.npy", logits)
    run(tmp_path, tmp_path / "step3.npy")
    with pytest.raises(InputError, match=r"steps 3 and 4 have different classes \(0, 1, 2 and 0, 1, 2, 3\)"):
        run(tmp_path, tmp_path / "step4.npy")
    refused("steps 4 and 3 have different classes", tmp_path / "x", tmp_path / "step3.npy", tmp_path / "step4.npy")
    refused(
        "step4.npy and step3.npy have different classes: 4 and 3",
        tmp_path / "x",
        tmp_path / "step3.npy",
        tmp_path / "step4.npy",
        step=(1,),
    )


# --- on disk ---


def _parts(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(out.rglob("*.parquet"))}


def test_a_killed_import_continues_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, label, image = make(100)
    file = save_csv(tmp_path / "a.csv", logits, label, image)
    whole = run(tmp_path / "whole", file, shard_size=16)
    publish, calls = PartWriter.publish, 0

    def killed(self: PartWriter, part: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        publish(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, file, shard_size=16)
    before = _parts(tmp_path / "out")
    assert len(before) == 3 and not list((tmp_path / "out").rglob(".part-*"))
    (tmp_path / "out/step=00000000/part-00001.parquet").unlink()
    again = run(tmp_path, file, shard_size=16)
    pd.testing.assert_frame_equal(again, whole)
    after = _parts(tmp_path / "out")
    assert len(after) == 7 and after["part-00000.parquet"] == before["part-00000.parquet"]
    assert [p.part.content_digest for p in open_run(tmp_path / "out")[0].parts] == [
        p.part.content_digest for p in open_run(tmp_path / "whole/out")[0].parts
    ]
    run(tmp_path, file, shard_size=16)
    assert _parts(tmp_path / "out") == after  # nothing to do


def test_changed_files_are_refused_and_changed_labels_updated(tmp_path: Path) -> None:
    logits, label, _ = make(100)
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "y.txt").write_text("\n".join(map(str, label)))
    options: dict[str, Any] = {"labels": tmp_path / "y.txt", "shard_size": 50}
    run(tmp_path, tmp_path / "a.npy", **options)
    before = _parts(tmp_path / "out")
    other = [*label[:99].tolist(), (label[99] + 1) % 3]
    (tmp_path / "y.txt").write_text("\n".join(map(str, other)))
    with pytest.raises(InputError, match=r"the data changed: 1 of 2 parts .*--update"):
        run(tmp_path, tmp_path / "a.npy", **options)
    frame = run(tmp_path, tmp_path / "a.npy", update=True, **options)
    assert frame["label"].tolist() == other
    assert _parts(tmp_path / "out")["part-00000.parquet"] == before["part-00000.parquet"]
    np.save(tmp_path / "a.npy", logits + 1)
    with pytest.raises(InputError, match=r"was made with another content of the files \(.*--overwrite"):
        run(tmp_path, tmp_path / "a.npy", **options)
    frame = run(tmp_path, tmp_path / "a.npy", overwrite=True, **options)
    np.testing.assert_array_equal(logits_of(frame), logits + 1)


def test_pictures_are_read_once_for_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = make(12)
    files = [tmp_path / f"epoch{i}.npy" for i in (1, 2, 3)]
    for file in files:
        np.save(file, logits)
    reads: list[str] = []
    read = sources.read

    def counted(root: str, ref: str, max_read_gb: float) -> bytes:
        reads.append(ref)
        return read(root, ref, max_read_gb)

    monkeypatch.setattr(sources, "read", counted)
    run(tmp_path, *files, images=str(tmp_path / "data"), shard_size=5)
    assert len(reads) == len(set(reads)) == 12
    for step in (1, 2, 3):
        assert open_predictions(tmp_path / "out", step=step).to_pandas()["digest"].notna().all()


def test_nothing_is_deleted_where_one_step_is_refused(tmp_path: Path) -> None:
    logits, label, _ = make()
    (tmp_path / "y.txt").write_text("\n".join(map(str, label)))
    files = [tmp_path / f"epoch{i}.npy" for i in (1, 2)]
    for file in files:
        np.save(file, logits)
    run(tmp_path, *files, labels=tmp_path / "y.txt")
    before = sorted((tmp_path / "out").rglob("*.parquet"))
    (tmp_path / "y.txt").write_text("\n".join(map(str, (label + 1) % 3)))
    np.save(files[1], logits + 1)
    with pytest.raises(InputError, match="step 2 was made with another content of the files"):
        run(tmp_path, *files, labels=tmp_path / "y.txt", update=True)
    assert sorted((tmp_path / "out").rglob("*.parquet")) == before


_PEAK = """
import re, sys
from pathlib import Path
from predboard.ingest.ingest import import_predictions
from predboard.config import ImportConfig
import_predictions(ImportConfig("logits", (Path(sys.argv[1]),), Path(sys.argv[2])))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""  # not ru_maxrss: a process inherits its parent's


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_memory_does_not_grow_with_the_scores(kind: str, tmp_path: Path) -> None:
    block = np.random.default_rng(0).integers(0, 4, (20_000, 200)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), 200)
    processes = []
    for blocks in (1, 4):
        file = tmp_path / f"{blocks}.{kind}"
        if kind == "npy":
            np.save(file, np.tile(block, (blocks, 1)))
        else:
            pq.write_table(pa.table({"logits": pa.chunked_array([lists] * blocks)}), file, row_group_size=5_000)
        command = [sys.executable, "-c", _PEAK, str(file), str(tmp_path / f"out{blocks}")]
        processes.append(subprocess.Popen(command, cwd=toy.ROOT, stdout=subprocess.PIPE, text=True))
    few, many = (int(process.communicate(timeout=120)[0]) / 1024 for process in processes)
    assert many - few < 24, (few, many)  # MB, of 48 MB more scores


# --- the command ---


@pytest.mark.slow
def test_the_command_and_stage_two_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=10, size=(12, 8))
    logits, label, _ = make(30)
    np.savez(tmp_path / "net_epoch1.npz", probs=softmax(logits), labels=label)
    np.savez(tmp_path / "net_epoch2.npz", probs=softmax(logits * 2), labels=label)
    files = [str(tmp_path / f"net_epoch{i}.npz") for i in (1, 2)]
    out, bare = tmp_path / "run", tmp_path / "bare"
    (tmp_path / "flags.toml").write_text(f"files = {files!r}\nscores = 'probabilities'\nout = {str(bare)!r}\n")
    assert (
        main.run(["import", *files, "--scores", "probabilities", "--images", str(tmp_path / "data"), "--out", str(out)])
        == 0
    )
    printed = capsys.readouterr()
    right = int((logits.argmax(1) == label).sum())
    assert [line.split(",")[0] for line in printed.out.splitlines()[:2]] == ["step 1: 30 ok", "step 2: 30 ok"]
    assert f"accuracy {right / 30:.4f}" in printed.out and f"next: predboard visualize {out}" in printed.out
    assert main.run(["import", "--config", str(tmp_path / "flags.toml")]) == 0
    for folder in (out, bare):
        capsys.readouterr()
        assert main.run(["inspect", str(folder)]) == 0
        assert "net_epoch1.npz" in capsys.readouterr().out
        for unchanged in (False, True):
            assert main.run(["visualize", str(folder), "--logdir", str(tmp_path / "logs")]) == 0
            printed = capsys.readouterr()
            assert ("nothing changed" in printed.out) == unchanged
            assert "not found" not in printed.err


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", make()[0])
    a = str(tmp_path / "a.npy")
    for arguments, words in (
        ([], "--scores"),
        (["--scores", "logits"], "no files given; for example"),
        ([a], "--scores"),
        ([a, "--scores", "guess"], "expected logits, probabilities, log_probabilities or confidence"),
        (
            [a, "--scores", "probabilities", "--out", str(tmp_path / "o")],
            "a.npy does not hold probabilities: of 40 rows",
        ),
        ([str(tmp_path / "b.npy"), "--scores", "logits"], "no file .*b.npy"),
        (
            [a, "--scores", "logits", "--labels", a, "--labels-from-folders"],
            "exclude each other: a row has only one label",
        ),
        ([a, "--scores", "logits", "--image-root", str(tmp_path / "x")], "--image-root .*x does not exist"),
        ([a, "--scores", "logits", "--thumbnails", "8", "--no-pictures"], "--thumbnails reads the images, but"),
        ([a, "--scores", "logits", "--classes", a], "contains no class names|cannot read"),
    ):
        assert main.run(["import", *arguments]) == 2
        printed = capsys.readouterr()
        *_, line = printed.err.splitlines()
        assert line.startswith("predboard: ")
        assert re.search(words, line), line
    assert not list(tmp_path.rglob("*.parquet"))

"""Every kind of storage gives the same: files, runs, logs, comparisons and images, on this machine, fake and S3."""

import dataclasses
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import (
    ImportConfig,
    InferConfig,
    InputError,
    compare,
    gate,
    import_predictions,
    infer,
    open_predictions,
)
from predboard import visualize as draw_logs
from predboard.images import sources
from predboard.images.manifest import Manifest
from predboard.inference.infer import InferResult
from predboard.storage.inspection import inspect
from predboard.storage.locks import lock_folder
from predboard.storage.mirror import MIRROR_FILE, mirror_log_folder
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.paths import (
    AnyPath,
    arrow_source,
    map_files,
    open_binary,
    open_tail,
    publish_file,
    remove_tree,
    resolve_name,
    staging_dir,
    write_file,
)
from predboard.storage.remote import RemotePath
from predboard.storage.runs import list_part_paths
from predboard.visualization.log_folder import place_independent_record, read_record
from predboard.visualization.visualize import VisualizeResult
from tests import toy

pytestmark = pytest.mark.slow


def copied(folder: Path, to: AnyPath) -> AnyPath:
    """Copy a folder with all its files. -> the copy."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            write_file(to / file.relative_to(folder).as_posix(), file.read_bytes())
    return to


def contents(folder: AnyPath) -> dict[str, bytes]:
    """Content of all files in a folder but locks, by name."""
    files = folder.walk_files() if isinstance(folder, RemotePath) else [p for p in folder.rglob("*") if p.is_file()]
    start = len(f"{folder}/")
    return {str(file)[start:]: file.read_bytes() for file in files if not file.name.endswith(".lock")}


# --- files ---


def test_files_are_written_listed_read_and_deleted(anywhere: AnyPath) -> None:
    names = ("run/.hidden", "run/step=1/part-0.parquet", "run/step=1/part-1.parquet", "run/step=2/x.txt", "run2/y")
    assert not anywhere.exists() and not anywhere.is_dir()
    for name in names:
        write_file(anywhere / name, name.encode())
    assert contents(anywhere) == {name: name.encode() for name in names}
    kinds = {"run": "folder", "run/step=1": "folder", names[1]: "file", "run/none": "nothing", "ru": "nothing"}
    for name, kind in kinds.items():
        path = anywhere / name
        expected = (kind != "nothing", kind == "folder", kind == "file")
        assert (path.exists(), path.is_dir(), path.is_file()) == expected, name
    assert sorted(path.name for path in (anywhere / "run").iterdir()) == [".hidden", "step=1", "step=2"]
    part = anywhere / names[1]
    assert (part.name, part.stem, part.suffix, part.parent) == (
        "part-0.parquet",
        "part-0",
        ".parquet",
        anywhere / "run/step=1",
    )
    assert (part.read_bytes(), part.read_text()) == (names[1].encode(), names[1])
    assert part.stat().st_size == 25
    assert [path.stat().st_size for path in (anywhere / "run/step=1").iterdir()] == [25, 25]  # from the listing
    for missing in (anywhere / "none").read_bytes, (anywhere / "none").stat, (anywhere / "none").unlink:
        with pytest.raises(FileNotFoundError):
            missing()
    (anywhere / "none").unlink(missing_ok=True)
    part.unlink()
    assert not part.exists()
    remove_tree(anywhere / "run")
    assert contents(anywhere) == {"run2/y": b"run2/y"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("step=*", ["step=1", "step=2"]),
        ("step=*/part-*.parquet", ["step=1/part-0.parquet", "step=1/part-1.parquet"]),
        ("*/x.txt", ["step=2/x.txt"]),
        ("step=1/*", ["step=1/part-0.parquet", "step=1/part-1.parquet"]),
        ("none/*", []),
        ("*.txt", []),
        ("step=?/part-[0]*", ["step=1/part-0.parquet"]),
    ],
)
def test_patterns_find_what_they_find_on_disk(pattern: str, expected: list[str], anywhere: AnyPath) -> None:
    for name in ("step=1/part-0.parquet", "step=1/part-1.parquet", "step=2/x.txt", ".hidden"):
        write_file(anywhere / name, b"")
    assert sorted(str(path)[len(f"{anywhere}/") :] for path in anywhere.glob(pattern)) == expected


def test_files_are_read_in_pieces_and_from_their_end(anywhere: AnyPath) -> None:
    content = bytes(range(256)) * 100
    write_file(anywhere / "x", content)
    for piece in (0, 1000):
        with open_binary(anywhere / "x", piece) as file:
            file.seek(5000)
            assert bytes(file.read(3000)) == content[5000:8000]
            file.seek(10)
            assert bytes(file.read(10)) == content[10:20]
    for length in (7, 10**6):
        with open_tail(anywhere / "x", length) as file:
            assert content.endswith(file.read()[-7:])
    pq.write_table(table := pa.table({"a": [1, 2, 3]}), staged := staged_file(anywhere))
    publish_file(staged, anywhere / "t.parquet")
    for whole in (False, True):
        assert pq.read_table(arrow_source(anywhere / "t.parquet", whole)).equals(table)


def staged_file(folder: AnyPath) -> Path:
    """A file in the staging folder."""
    staging = staging_dir(folder)
    staging.mkdir(parents=True, exist_ok=True)
    return staging / "staged"


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_a_published_file_replaces_what_was_there(content: bytes, anywhere: AnyPath) -> None:
    write_file(anywhere / "x", b"before")
    staged = staged_file(anywhere)
    staged.write_bytes(content)
    publish_file(staged, anywhere / "x")
    assert contents(anywhere) == {"x": content}
    assert not staged.exists()


def test_many_threads_read_one_file(anywhere: AnyPath) -> None:
    content = bytes(range(256)) * 4096
    write_file(anywhere / "a", content)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: (anywhere / "a").read_bytes(), range(100))) == {content}


def test_results_come_in_the_order_of_the_items(anywhere: AnyPath) -> None:
    assert list(map_files(lambda i: i * i, range(50), anywhere)) == [i * i for i in range(50)]


def test_a_folder_is_locked_against_others_of_this_machine(anywhere: AnyPath) -> None:
    with lock_folder(anywhere), pytest.raises(InputError, match="another process is writing to"):
        lock_folder(anywhere).__enter__()
    with lock_folder(anywhere):
        pass
    assert contents(anywhere) == {}


# --- runs ---


@pytest.fixture
def inferred(tmp_path: Path, anywhere: AnyPath) -> Callable[..., InferResult]:
    """A function that infers 12 images in the storage, one of them broken, into `out`."""
    photos = toy.pictures(tmp_path / "photos", 3, 4)
    (photos / "b" / "001.png").write_bytes(b"no picture")
    data = copied(photos, anywhere / "photos")

    def run(out: AnyPath = anywhere / "run", **options: Any) -> InferResult:
        return infer(InferConfig(str(data), toy.model_file(tmp_path), out=out, shard_size=5, step=(3,), **options))

    return run


def test_a_run_is_the_same_everywhere(anywhere: AnyPath, inferred: Callable[..., InferResult], tmp_path: Path) -> None:
    inferred(tmp_path / "local")
    done = inferred()
    assert done.complete
    assert done.steps[3].failed == 1
    pd.testing.assert_frame_equal(
        open_predictions(anywhere / "run").to_pandas(), open_predictions(tmp_path / "local").to_pandas()
    )
    assert open_predictions(str(anywhere / "run")).run.root == str(anywhere / "photos")
    files = contents(anywhere / "run")
    assert set(files) == {
        *(f"step=00000003/part-0000{i}.parquet" for i in range(3)),
        *(f"_preflight/step=00000003{suffix}" for suffix in (".json", ".png")),
    }
    found = inspect(anywhere / "run")
    assert found.complete
    assert found.facts["bytes"] == sum(len(content) for name, content in files.items() if name.endswith(".parquet"))
    assert not list(staging_dir(anywhere / "run").rglob("*.tmp"))


def test_a_run_goes_on_where_it_stopped(anywhere: AnyPath, inferred: Callable[..., InferResult]) -> None:
    inferred()
    expected = open_predictions(anywhere / "run").to_pandas()
    first, second, third = list_part_paths(anywhere / "run", 3)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-30] + b"x" + second.read_bytes()[-29:])  # in its footer
    kept = third.read_bytes()
    assert inferred().written == 10
    assert third.read_bytes() == kept
    pd.testing.assert_frame_equal(open_predictions(anywhere / "run").to_pandas(), expected)
    assert inferred().written == 0
    assert inferred(overwrite=True).written == 12


def test_saved_predictions_are_imported(anywhere: AnyPath, tmp_path: Path) -> None:
    images = copied(toy.sources(tmp_path / "images", 20), anywhere / "images")
    logits, label = toy.table(toy.RUN, 20)
    refs = np.array([f"{i:06d}.png" for i in range(20)])
    np.savez(tmp_path / "saved.npz", logits=logits, labels=label, filenames=refs)
    config = ImportConfig("logits", (tmp_path / "saved.npz",), out=anywhere / "run", image_root=images, thumbnails=8)
    import_predictions(config)
    reader = open_predictions(anywhere / "run")
    frame = reader.to_pandas()
    np.testing.assert_array_equal(np.stack(frame["logits"]), logits)
    assert (frame["width"] == 8).all()
    assert reader.run.root == str(images)


def test_what_is_no_run_is_one_line(anywhere: AnyPath) -> None:
    toy.write_run(anywhere / "run", *toy.table(toy.RUN, 40))
    with pytest.raises(InputError, match=f"^no folder {anywhere}/none: expected a folder of predictions"):
        open_predictions(anywhere / "none")
    with pytest.raises(InputError, match=f"^{anywhere} contains 1 run; name one, for example {anywhere}/run$"):
        open_predictions(anywhere)


# --- logs ---


def test_logs_are_the_same_everywhere(remote_folder: RemotePath, tmp_path: Path) -> None:
    toy.write_run(tmp_path / "run", *toy.table(toy.RUN, 60), shard_size=25)
    copied(tmp_path / "run", remote_folder / "run")
    images = copied(toy.sources(tmp_path / "images", 60), remote_folder / "images")
    draw_logs(tmp_path / "run", tmp_path / "logs", image_root=tmp_path / "images")

    def draw(**options: Any) -> VisualizeResult:
        return draw_logs(remote_folder / "run", remote_folder / "logs", thumbnails="always", **options)[0]

    first = draw(image_root=images)
    assert first.missing_pictures == 0
    local, before = contents(tmp_path / "logs/run"), contents(remote_folder / "logs/run")
    assert set(before) == set(local)
    for name in set(local) - {".predboard.json"}:  # which knows where the images are
        assert before[name] == local[name], name
    again = draw(image_root=images)
    assert again.unchanged
    assert again.event_file == first.event_file
    assert contents(remote_folder / "logs/run") == before
    few = draw(panels=("metrics",))
    assert not few.unchanged
    assert set(contents(remote_folder / "logs/run")) == {few.event_file.name, "summary.json", ".predboard.json"}


def test_logs_know_which_run_they_are_of(remote_folder: RemotePath, tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    for name, shift in (("a/net", 0), ("b/net", 1), ("c/net", 2)):
        toy.write_run(remote_folder / name, logits + np.float32(shift), label)
    logdirs: tuple[AnyPath, ...] = (tmp_path / "logs", remote_folder / "logs")
    for logdir in logdirs:
        draw_logs(remote_folder / "a/net", logdir, panels=("glance",))
        with pytest.raises(InputError, match=f"holds the logs of {remote_folder}/a/net, which these would replace"):
            draw_logs(remote_folder / "b/net", logdir, panels=("glance",))
    remove_tree(remote_folder / "a")
    for logdir, name in zip(logdirs, (f"{remote_folder}/b/net", "../../b/net"), strict=True):  # in the same bucket
        draw_logs(remote_folder / "b/net", logdir, panels=("glance",))
        assert read_record(logdir / "net").predictions == (name,)
        with pytest.raises(InputError, match=f"holds the logs of {remote_folder}/b/net, which these would replace"):
            draw_logs(remote_folder / "c/net", logdir, panels=("glance",))
    with pytest.raises(InputError, match=f"mix logs into the predictions {remote_folder}/b/net"):
        draw_logs(remote_folder / "b/net", remote_folder / "b")


def test_states_are_cached_everywhere(anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write_run(anywhere / "run", *toy.table(toy.RUN, 60), shard_size=20)

    def draw(logs: str, **options: Any) -> VisualizeResult:
        return draw_logs(anywhere / "run", anywhere / logs, panels=("metrics",), **options)[0]

    draw("logs", cache="always")
    expected = draw("fresh", cache="never", log_every=30)
    read: list[int] = []

    def counted(file: PartFile, columns: Any = None) -> Any:
        read.append(file.part.start)
        return read_batches(file, columns)

    monkeypatch.setattr("predboard.evaluation.measure.read_batches", counted)
    assert draw("logs", cache="always").unchanged
    assert draw("logs", cache="always", log_every=30).event_file.read_bytes() == expected.event_file.read_bytes()
    assert set(read) == {0, 20, 40}  # for the derived rows
    read.clear()
    assert not draw("logs", cache="always", log_every=20).unchanged
    assert read == []
    entries = [name for name in contents(anywhere / "logs/run") if "/" in name]
    assert entries
    for name in entries:
        content = (anywhere / "logs/run" / name).read_bytes()
        (anywhere / "logs/run" / name).write_bytes(content[:-9] + b"123456789")
    assert draw("logs", cache="always", log_every=30).event_file.read_bytes() == expected.event_file.read_bytes()


def test_runs_are_ranked_everywhere(anywhere: AnyPath) -> None:
    runs = [anywhere / "runs" / name for name in ("one", "two")]
    for seed, run in enumerate(runs):
        toy.write_run(run, *toy.table(toy.RUN, 40, seed=seed))
    written = draw_logs(runs, anywhere / "logs", panels=("metrics",))
    assert [w.folder for w in written] == [anywhere / "logs/one", anywhere / "logs/two"]
    assert any("tfevents" in name for name in contents(anywhere / "logs/_all_runs"))
    remove_tree(anywhere / "logs/one")
    draw_logs(runs[1], anywhere / "logs", panels=("metrics",))
    assert contents(anywhere / "logs/_all_runs") == {}


def test_runs_are_compared_and_gated_everywhere(remote_folder: RemotePath, tmp_path: Path) -> None:
    for folder in (tmp_path, remote_folder):
        for seed, name in enumerate(("old", "new")):
            run = dataclasses.replace(toy.RUN, thumbnails=8)
            toy.write_run(folder / name, *toy.table(toy.RUN, 60, seed=seed), run)
    both = [compare(folder / "old", folder / "new", logdir=folder / "logs") for folder in (tmp_path, remote_folder)]
    assert both[1].folder == remote_folder / "logs/new vs old"
    assert both[0].summary == both[1].summary
    assert both[0].event_file.read_bytes() == both[1].event_file.read_bytes()
    assert compare(remote_folder / "old", remote_folder / "new", logdir=remote_folder / "logs").unchanged
    rules = [{"metric": "accuracy", "min": 0.9}, {"metric": "accuracy", "max_drop": 0.0}]
    for new, old in (("new", "old"), ("old", "old")):
        local, far = (gate(folder / new, rules, folder / old) for folder in (tmp_path, remote_folder))
        assert (far.outcome, far.verdicts) == (local.outcome, local.verdicts)


def test_the_mirror_for_tensorboard_follows_the_logs(anywhere: AnyPath) -> None:
    toy.write_run(anywhere / "run", *toy.table(toy.RUN, 40))
    draw_logs(anywhere / "run", anywhere / "logs", panels=("metrics", "embeddings"))
    write_file(anywhere / "logs/other/events.out.tfevents.foreign", b"of another program")

    def shown(folder: AnyPath) -> dict[str, bytes]:
        files = contents(folder)
        return {name: content for name, content in files.items() if "tfevents" in name or "projector" in name}

    said: list[str] = []
    more = {"summary.json": None, ".predboard.json": place_independent_record}
    with mirror_log_folder(anywhere / "logs", said.append, every=0.01, more=more) as copy:
        assert (copy / "run/summary.json").read_bytes() == (anywhere / "logs/run/summary.json").read_bytes()
        (place,) = read_record(copy / "run").predictions
        assert resolve_name(place, copy / "run") == (anywhere / "run").resolve()
        assert (copy / MIRROR_FILE).exists() == (copy != anywhere / "logs")
        assert shown(copy) == shown(anywhere / "logs")
        assert len(shown(copy)) == 5
        draw_logs(anywhere / "run", anywhere / "logs", panels=("metrics",))
        until = time.monotonic() + 60
        while shown(copy) != shown(anywhere / "logs") and time.monotonic() < until:
            time.sleep(0.01)
        assert shown(copy) == shown(anywhere / "logs")
        assert len(shown(copy)) == 2
    assert copy.exists() == (copy == anywhere / "logs")
    assert said == []


# --- images ---

TREES = {
    "classes": ["a/1.png", "a/2.jpg", "b/1.png", "b/x.txt", "b/deeper/z.png", "b/deeper/a.png"],
    "hidden": ["a/1.png", "a/.2.png", ".cache/3.png", "b/4.png"],
    "lone top": ["top/a/1.png", "top/b/2.png", "top/b/c/3.png"],
    "two lone tops": ["one/two/a/1.png", "one/two/b/2.png"],
    "lone class": ["a/1.png", "a/2.png"],
    "flat": ["1.png", "10.PNG", "2.png", "x.txt"],
    "flat beside classes": ["1.png", "a/2.png", "b/3.png"],
    "a class without images": ["a/1.png", "b/x.txt"],
}


def same_manifest(local: Manifest, far: Manifest) -> None:
    """Both have the same rows, and the same bytes for each."""
    assert far.image.equals(local.image)
    assert far.classes == local.classes
    assert far.columns.equals(local.columns)
    np.testing.assert_array_equal(far.label, local.label)
    np.testing.assert_array_equal(far.key, local.key)
    for ref in far.image.to_pylist():
        assert sources.read(far.root, ref) == sources.read(local.root, ref)


@pytest.mark.parametrize("tree", TREES)
def test_a_folder_of_images_is_the_same_everywhere(tree: str, remote_folder: RemotePath, tmp_path: Path) -> None:
    for name in TREES[tree]:
        write_file(tmp_path / "photos" / name, name.encode())
    far = copied(tmp_path / "photos", remote_folder / "photos")
    same_manifest(sources.open_source(str(tmp_path / "photos")), sources.open_source(str(far)))


@pytest.mark.parametrize("kind", ["list.csv", "list.jsonl", "list.parquet", "images.parquet", "shard.tar", "all.zip"])
def test_lists_and_archives_are_the_same_everywhere(kind: str, remote_folder: RemotePath, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    photos = toy.pictures(folder / "photos", 2, 3)
    files = sorted(photos.rglob("*.png"))
    refs, labels = [file.relative_to(folder).as_posix() for file in files], [file.parent.name for file in files]
    table = pa.table({"image": refs, "label": labels, "place": ["north"] * len(refs)})
    if kind == "list.csv":
        table.to_pandas().to_csv(folder / kind, index=False)
    elif kind == "list.jsonl":
        table.to_pandas().to_json(folder / kind, orient="records", lines=True)
    elif kind == "list.parquet":
        pq.write_table(table, folder / kind)
    elif kind == "images.parquet":
        inside = table.set_column(0, "image", pa.array([file.read_bytes() for file in files]))
        pq.write_table(inside, folder / kind, row_group_size=2)
    elif kind == "shard.tar":
        with tarfile.open(folder / kind, "w") as archive:
            for i, file in enumerate(files):
                (tmp_path / "x.json").write_text(f'{{"cls": "{file.parent.name}", "place": "n{i}"}}')
                archive.add(file, f"{i:03d}.png")
                archive.add(tmp_path / "x.json", f"{i:03d}.json")
    else:
        with zipfile.ZipFile(folder / kind, "w") as archive:
            for file, ref in zip(files, refs, strict=True):
                archive.write(file, ref)
    far = sources.open_source(str(copied(folder, remote_folder / "data") / kind))
    assert far.root == str(remote_folder / "data")
    same_manifest(sources.open_source(str(folder / kind)), far)
    assert [sources.read(far.root, ref) for ref in far.image.to_pylist()] == [file.read_bytes() for file in files]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_folder_of_shards_is_the_same_everywhere(kind: str, remote_folder: RemotePath, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for i, file in enumerate(sorted(toy.pictures(tmp_path / "photos", 2, 2).rglob("*.png"))):
        part_range = folder / f"shard-{i}.{kind}"
        if kind == "tar":
            with tarfile.open(part_range, "w") as archive:
                archive.add(file, f"{i}.png")
        else:
            pq.write_table(pa.table({"image": [file.read_bytes()]}), part_range)
    (folder / "README.md").write_text("not an image")
    far = sources.open_source(str(copied(folder, remote_folder / "data")))
    assert len(far) == 4
    same_manifest(sources.open_source(str(folder)), far)


def test_refs_may_lead_anywhere(remote_folder: RemotePath, tmp_path: Path) -> None:
    write_file(remote_folder / "x.png", b"far")
    write_file(remote_folder / "in/y.png", b"inside")
    (tmp_path / "z.png").write_bytes(b"here")
    root = str(remote_folder)
    assert sources.read(str(tmp_path), f"{root}/x.png") == b"far"
    assert sources.read(root, "in/y.png") == b"inside"
    assert sources.read(f"{root}/in", "../in/./y.png") == b"inside"
    assert sources.read(root, str(tmp_path / "z.png")) == b"here"
    assert sources.read(root, f"file://{tmp_path}/z.png") == b"here"
    with pytest.raises(FileNotFoundError):
        sources.read(root, "none.png")


def test_the_bytes_of_a_row_group_are_read_once_for_all_threads(
    remote_folder: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [bytes([i]) * 1000 for i in range(64)]
    pq.write_table(pa.table({"image": images}), tmp_path / "i.parquet", row_group_size=32)
    publish_file(tmp_path / "i.parquet", remote_folder / "i.parquet")
    groups: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *more: Any, **options: Any) -> Any:
        groups.append(group)
        return read_row_group(self, group, *more, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    refs = [f"i.parquet#{i}" for i in range(64)]
    assert list(map_files(lambda ref: sources.read(str(remote_folder), ref), refs, remote_folder)) == images
    assert sorted(groups) == [0, 1]

"""The cache of states: the same is drawn with it and without, only what is new is read, nothing damaged is used."""

import dataclasses
import errno
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from predboard import InputError, VisualizeConfig, panels
from predboard.evaluation import cache_entry, measure
from predboard.evaluation.cache import CACHE_FOLDER, MAX_SMALL_ENTRIES, SMALL_ENTRY_ROWS, StateCache
from predboard.evaluation.cache_entry import CacheEntry, EntryWriter
from predboard.evaluation.measure import MeasureSettings
from predboard.evaluation.state_versions import DERIVED_ROWS, state_versions
from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.sampling import rounded_size
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.runs import part_path
from predboard.visualization import visualize as stage_two
from predboard.visualization.visualize import VisualizeResult
from tests import toy
from tests.test_laws import RUNS, same, some

pytestmark = pytest.mark.slow

EACH = 12
"""Rows of a part."""

SETTINGS = MeasureSettings(task_min_rows=1, entry_min_rows=2 * EACH)
"""Each part is a task, and two make an entry."""

FEW = ("confusion", "glance")
"""Panels that are quick to draw; the first has a second pass, and so needs the derived rows."""

ALL = frozenset({"glance", DERIVED_ROWS})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the logits of each part were read."""
    counted: Counter[str] = Counter()

    def counting(file: PartFile, columns: Any = None) -> Iterator[Predictions]:
        if columns is None or "logits" in set(columns):
            counted[file.name] += 1
        return read_batches(file, columns)

    monkeypatch.setattr(measure, "read_batches", counting)
    return counted


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The panels of each part that was measured."""
    names: list[set[str]] = []
    measure_part = measure.measure_part

    def measuring(file: PartFile, panels: Any, *more: Any, **named: Any) -> Any:
        names.append(set(panels))
        return measure_part(file, panels, *more, **named)

    monkeypatch.setattr(measure, "measure_part", measuring)
    return names


def write(folder: Path, parts: int, *steps: int, seed: int = 0, run: Run = toy.RUN) -> Path:
    for step in steps or (0,):
        logits, label = toy.table(run, parts * EACH, seed + step)
        label[::7] = -1
        toy.write_run(folder, logits, label, dataclasses.replace(run, step=step), EACH, failed=frozenset({5}))
    return folder


def part(run: Path, index: int, step: int = 0) -> Path:
    return part_path(run, step, index)


def draw(
    run: Path,
    logs: Path,
    cache: Any = "always",
    panels: tuple[str, ...] = FEW,
    settings: MeasureSettings = SETTINGS,
    **more: Any,
) -> VisualizeResult:
    """Draw without the map, whose axes come from rows of all parts: a new part moves the images of the others."""
    more = {"map": "never", **more}
    config = VisualizeConfig(predictions=(run,), logdir=logs, cache=cache, panels=panels, **more)
    (result,) = stage_two.visualize(config, settings=settings)
    return result


def draw_again(run: Path, logs: Path, **more: Any) -> VisualizeResult:
    """Draw although nothing changed."""
    (logs / run.name / ".predboard.json").unlink()
    return draw(run, logs, **more)


def content(result: VisualizeResult) -> dict[str, Any]:
    """All that was written, by name; `rows.parquet` as a table."""
    folder = toy.local(result.folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "/." not in path.as_posix())
    return {
        path.relative_to(folder).as_posix(): pq.read_table(path) if path.suffix == ".parquet" else path.read_bytes()
        for path in files
    }


def entries(result: VisualizeResult) -> list[Path]:
    return sorted((toy.local(result.folder) / CACHE_FOLDER).glob("*"))


# --- what a run of stage two reads ---


@pytest.mark.slow
def test_the_same_is_drawn_without_a_cache_with_an_empty_and_with_a_full_one(
    tmp_path: Path, read: Counter[str]
) -> None:
    run = write(tmp_path / "run", 5, 1, 4)
    every: dict[str, Any] = {"panels": (), "log_every": 3}
    without = content(draw(run, tmp_path / "without", cache="never", **every))
    assert "rows.parquet" in without
    first = draw(run, tmp_path / "logs", **every)
    assert content(first) == without
    assert len(entries(first)) == 6  # of 2, 2 and 1 parts of each step
    read.clear()
    assert content(draw_again(run, tmp_path / "logs", **every)) == without
    assert not read
    assert content(draw_again(run, tmp_path / "logs", cache="never", **every)) == without
    assert len(read) == 10


def test_processes_cache_what_they_measure(tmp_path: Path, read: Counter[str]) -> None:
    settings = dataclasses.replace(SETTINGS, parallel_min_logits=0)
    run = write(tmp_path / "run", 7, 1, 4)
    without = content(draw(run, tmp_path / "without", cache="never", workers=1))
    first = draw(run, tmp_path / "logs", workers=3, settings=settings)
    assert content(first) == without
    read.clear()
    assert content(draw_again(run, tmp_path / "logs", workers=3, settings=settings)) == without
    assert not read


def test_only_a_new_part_is_read(tmp_path: Path, read: Counter[str]) -> None:
    whole = write(tmp_path / "whole" / "run", 6)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    part(run, 3).unlink()
    draw(run, tmp_path / "logs")
    shutil.copy(part(whole, 3), part(run, 3))
    read.clear()
    result = draw(run, tmp_path / "logs")
    assert read == {"step=00000000/part-00003.parquet": 1}
    assert content(result) == content(draw(whole, tmp_path / "without", cache="never"))


def test_beside_a_new_part_the_others_are_measured_for_the_map_alone(tmp_path: Path, measured: list[set[str]]) -> None:
    whole = write(tmp_path / "whole" / "run", 6)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    part(run, 3).unlink()
    draw(run, tmp_path / "logs", map="always")
    shutil.copy(part(whole, 3), part(run, 3))
    measured.clear()
    result = draw(run, tmp_path / "logs", map="always")
    assert sorted(measured, key=len) == [*[{stage_two.MAP_STATE}] * 5, {*FEW, stage_two.MAP_STATE}]
    assert content(result) == content(draw(whole, tmp_path / "without", cache="never", map="always"))


def test_a_new_step_is_read_and_nothing_of_the_one_before(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 3, 1)
    draw(run, tmp_path / "logs")
    write(run, 3, 2)
    read.clear()
    result = draw(run, tmp_path / "logs")
    assert {name.partition("/")[0] for name in read} == {"step=00000002"}
    assert content(result) == content(draw(run, tmp_path / "without", cache="never"))


def test_the_entry_of_a_replaced_part_is_measured_again(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 6)
    before = entries(draw(run, tmp_path / "logs"))
    other = write(tmp_path / "other", 6, seed=9)
    shutil.copy(part(other, 2), part(run, 2))
    read.clear()
    result = draw(run, tmp_path / "logs")
    assert set(read) == {"step=00000000/part-00002.parquet", "step=00000000/part-00003.parquet"}
    assert content(result) == content(draw(run, tmp_path / "without", cache="never"))
    assert len(entries(result)) == 3
    assert len(set(entries(result)) & set(before)) == 2  # the old entry is deleted


def test_a_manifest_that_grows_a_little_makes_nothing_stale(tmp_path: Path, read: Counter[str]) -> None:
    logits, label = toy.table(toy.RUN, 5 * EACH)
    for name, rows in (("run", 100), ("grown", 104), ("doubled", 200)):
        toy.write_run(tmp_path / name, logits, label, toy.RUN, EACH, manifest_rows=rows)
    assert rounded_size(100) == rounded_size(104) < rounded_size(200)
    run = tmp_path / "run"
    draw(run, tmp_path / "logs")
    read.clear()
    shutil.copy(part(tmp_path / "grown", 4), part(run, 4))
    draw(run, tmp_path / "logs")
    assert set(read) == {"step=00000000/part-00004.parquet"}
    shutil.copy(part(tmp_path / "doubled", 4), part(run, 4))
    read.clear()
    draw(run, tmp_path / "logs")
    assert len(read) == 5  # because other rows are sampled now


def test_other_panels_are_measured_alone(tmp_path: Path, read: Counter[str], measured: list[set[str]]) -> None:
    run = write(tmp_path / "run", 4)
    draw(run, tmp_path / "logs", panels=("glance", "hparams"))
    read.clear()
    few = draw(run, tmp_path / "logs", panels=("hparams",))
    assert not read
    assert content(few) == content(draw(run, tmp_path / "without", cache="never", panels=("hparams",)))
    measured.clear()
    more: dict[str, Any] = {"panels": ("confusion", "glance", "probabilities")}
    result = draw(run, tmp_path / "logs", **more)
    assert measured == [{"confusion", "probabilities"}] * 4
    assert content(result) == content(draw(run, tmp_path / "without2", cache="never", **more))
    read.clear()
    assert content(draw_again(run, tmp_path / "logs", **more)) == content(result)
    assert not read


def test_only_panels_of_another_version_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[set[str]]
) -> None:
    run = write(tmp_path / "run", 4)
    first = content(draw(run, tmp_path / "logs"))
    monkeypatch.setattr(stage_two, "state_versions", lambda chosen: {**state_versions(chosen), "glance": "another"})
    measured.clear()
    assert content(draw_again(run, tmp_path / "logs")) == first
    assert measured == [{"glance"}] * 4
    assert content(draw_again(run, tmp_path / "logs")) == first
    assert len(measured) == 4


def test_small_runs_are_not_cached_by_default(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 2)
    assert not entries(draw(run, tmp_path / "small", cache="auto"))
    at_once = dataclasses.replace(SETTINGS, cache_min_logits=1)
    assert entries(draw(run, tmp_path / "large", cache="auto", settings=at_once))
    assert not entries(draw(run, tmp_path / "never", cache="never", settings=at_once))


def test_a_cache_takes_no_more_room_than_it_may(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 6)
    first = draw(run, tmp_path / "logs")
    sizes = [entry.stat().st_size for entry in entries(first)]
    settings = dataclasses.replace(SETTINGS, cache_max_bytes=sum(sizes[:2]) + 10)
    limited = draw(run, tmp_path / "less", settings=settings)
    assert 1 <= len(entries(limited)) <= 2
    assert content(limited) == content(first)
    read.clear()
    assert content(draw_again(run, tmp_path / "less", settings=settings)) == content(first)
    assert 1 <= len(read) <= 4


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 2)
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / CACHE_FOLDER).write_text("a file")
    with pytest.raises(InputError, match=r"cannot write to .*predboard-states"):
        draw(run, tmp_path / "logs")


# --- damage, and what disappears meanwhile ---


@pytest.mark.parametrize(
    ("how", "where"),
    [
        *(("a bit", where) for where in (0.0, 0.01, 0.1, 0.3, 0.6, 0.9)),
        *(("cut", where) for where in (0.0, 0.001, 0.3, 0.999)),
    ],
)
def test_a_damaged_entry_is_measured_again(how: str, where: float, tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 4)
    first = draw(run, tmp_path / "logs")
    whole, (damaged, other) = content(first), entries(first)
    good = damaged.read_bytes()
    at = int(where * len(good))
    damaged.write_bytes(good[:at] if how == "cut" else bytes([*good[:at], good[at] ^ 4, *good[at + 1 :]]))
    read.clear()
    assert content(draw_again(run, tmp_path / "logs")) == whole
    assert len(read) == 2
    assert entries(first) == [damaged, other]
    assert damaged.read_bytes() == good  # written again, the same


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def damage_rows(file: Path) -> None:
    damage_member(file, "rows/")


def damage_member(file: Path, folder: str) -> None:
    """Flip a bit of the first member in a folder; everything else stays readable."""
    with zipfile.ZipFile(file) as archive:
        member = next(info for info in archive.infolist() if info.filename.startswith(folder))
    content = bytearray(file.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, damage_rows, Path.unlink])
def test_rows_that_are_damaged_after_the_lookup_are_derived_again(
    damage: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", 2)
    first = draw(run, tmp_path / "logs")
    whole, (entry,) = content(first), entries(first)
    find = StateCache.find

    def find_then_damage(*arguments: Any) -> Any:
        lookups = find(*arguments)
        damage(entry)
        return lookups

    monkeypatch.setattr(StateCache, "find", find_then_damage)
    assert content(draw_again(run, tmp_path / "logs")) == whole


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_entry_that_is_gone_or_damaged_at_the_end_is_measured_again(
    how: str, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, with_logits = write(tmp_path / "run", 5), ("confusion", "curves")
    without = content(draw(run, tmp_path / "without", cache="never", panels=with_logits))
    finish = EntryWriter.finish

    def finish_then_lose(*arguments: Any) -> CacheEntry | None:
        entry = finish(*arguments)
        if entry is not None and how == "gone":
            toy.local(entry.path).unlink()
        elif entry is not None:
            damage_member(toy.local(entry.path), "arrays/")
        return entry

    monkeypatch.setattr(EntryWriter, "finish", finish_then_lose)
    read.clear()
    assert content(draw(run, tmp_path / "logs", panels=with_logits)) == without
    assert sorted(read.values()) == [1, 2, 2, 2, 2]  # the states of the last entry were still in memory


def test_states_that_are_cached_are_not_held_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", 7, 1, 4)
    without = content(draw(run, tmp_path / "without", cache="never"))
    held: list[int] = []
    call = measure._Measurer.__call__

    def measuring(self: Any, task: Any) -> Any:
        result = call(self, task)
        held.append(len(self._states))
        return result

    monkeypatch.setattr(measure._Measurer, "__call__", measuring)
    assert content(draw(run, tmp_path / "logs")) == without
    assert held == [0] * 14
    full = dataclasses.replace(SETTINGS, cache_max_bytes=0)  # nothing is written, and so everything is held
    assert content(draw(run, tmp_path / "full", settings=full)) == without
    assert held[14:] == [0, *[1] * 6, 0, *[1] * 6]


# --- entries of a cache ---


def cache_of(folder: Path, *names: str, **versions: str) -> StateCache:
    return StateCache(folder, {DERIVED_ROWS: "1", "glance": "1", **dict.fromkeys(names, "1"), **versions})


def add(
    cache: StateCache, parts: dict[str, Predictions], names: tuple[str, ...] = ("glance",), rows: bool = True
) -> Any:
    """Write an entry of some parts, and return their merged state."""
    panel = panels.load("glance")
    state = panel.zero(RUNS[10])
    writer = cache.begin_entry(rows)
    assert writer is not None
    for key, batch in parts.items():
        writer.add_part(key, len(batch), [derive_rows(RUNS[10], 0, batch)] if rows else [])
        state = merge(state, panel.measure(RUNS[10], batch))
    assert writer.finish(dict.fromkeys(names, state), 2**30) is not None
    return state


def counts(parts: dict[str, Predictions]) -> dict[str, int]:
    return {key: len(batch) for key, batch in parts.items()}


def test_no_part_counts_twice_though_two_entries_have_it(tmp_path: Path) -> None:
    batches = {name: some(RUNS[10], 10, seed) for seed, name in enumerate("abcd")}
    cache = cache_of(tmp_path / "cache")
    state = add(cache, {name: batches[name] for name in "abc"})
    add(cache, {name: batches[name] for name in "cd"})
    lookup = cache.find({0: counts(batches)}, {0: ALL})[0]
    assert same(lookup.states["glance"], state)
    assert lookup.missing == {"a": set(), "b": set(), "c": set(), "d": {"glance"}}


@pytest.mark.slow
def test_after_many_reruns_with_one_new_part_each_few_small_entries_are_left(
    tmp_path: Path, read: Counter[str]
) -> None:
    assert MAX_SMALL_ENTRIES == 8
    whole = write(tmp_path / "whole" / "run", 20)
    run, left, times = tmp_path / "run", [], []
    large = dataclasses.replace(SETTINGS, entry_min_rows=10_000)
    for index in range(20):
        part(run, index).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part(whole, index), part(run, index))
        read.clear()
        result = draw(run, tmp_path / "logs", settings=large)
        times.append(len(read))
        left.append(len(entries(result)))
    assert left == [*range(1, 10), *range(1, 10), 1, 2]
    assert times == [*[1] * 9, 10, *[1] * 8, 19, 1]
    assert content(result) == content(draw(whole, tmp_path / "without", cache="never"))


def test_large_entries_are_never_too_many(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache")
    batch = some(RUNS[10], 3, 0)
    for index in range(2 * MAX_SMALL_ENTRIES):
        writer = cache.begin_entry(rows=False)
        assert writer is not None
        writer.add_part(f"{index}", SMALL_ENTRY_ROWS, [])
        writer.finish({"glance": panels.load("glance").measure(RUNS[10], batch)}, 2**30)
    parts = {f"{index}": SMALL_ENTRY_ROWS for index in range(2 * MAX_SMALL_ENTRIES)}
    assert not any(cache.find({0: parts}, {0: frozenset({"glance"})})[0].missing.values())


def test_an_entry_with_panels_that_are_not_drawn_now_stays(tmp_path: Path) -> None:
    batches = {"a": some(RUNS[10], 10, 0)}
    add(cache_of(tmp_path / "cache", "twin"), batches, names=("glance", "twin"))
    newer = cache_of(tmp_path / "cache", glance="2")
    assert newer.find({0: counts(batches)}, {0: ALL})[0].missing == {"a": {"glance"}}
    assert len(list((tmp_path / "cache").glob("*"))) == 1
    both = cache_of(tmp_path / "cache", "twin", glance="2", twin="2")
    assert both.find({0: counts(batches)}, {0: ALL | {"twin"}})[0].missing == {"a": {"glance", "twin"}}


def test_entries_without_rows_serve_where_none_are_wanted(tmp_path: Path) -> None:
    batches = {"a": some(RUNS[10], 10, 0)}
    cache = cache_of(tmp_path / "cache")
    state = add(cache, batches, rows=False)
    assert cache.find({0: counts(batches)}, {0: ALL})[0].missing == {"a": {DERIVED_ROWS}}
    lookup = cache.find({0: counts(batches)}, {0: frozenset({"glance"})})[0]
    assert same(lookup.states["glance"], state)
    assert not any(lookup.missing.values())


@pytest.mark.parametrize("method", ["add_part", "finish"])
def test_nothing_unfinished_is_left_by_a_write_that_fails(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, batches = cache_of(tmp_path / "cache"), {"a": some(RUNS[10], 10, 0)}
    add(cache, batches)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("cache/*")}
    writer = cache.begin_entry(rows=True)
    assert writer is not None
    if method == "finish":
        writer.add_part("a", 10, [derive_rows(RUNS[10], 0, batches["a"])])
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"cannot write to .*cache: No space left"):
        patch.setattr(cache_entry, "_add_member", full)
        if method == "add_part":
            writer.add_part("a", 10, [derive_rows(RUNS[10], 0, batches["a"])])
        writer.finish({"glance": panels.load("glance").zero(RUNS[10])}, 2**30)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("cache/*")} == before
    assert not any(cache.find({0: counts(batches)}, {0: ALL})[0].missing.values())


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache")
    writer = cache.begin_entry(rows=True)
    assert writer is not None
    assert len(list(tmp_path.glob("cache/*"))) == 1
    cache.find({0: {}}, {0: ALL})
    assert not list(tmp_path.glob("cache/*"))
    writer.discard()


def test_an_entry_that_grows_too_large_is_given_up(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache")
    writer = cache.begin_entry(rows=False)
    assert writer is not None
    writer.add_part("a", 10, [])
    assert writer.finish({"glance": panels.load("glance").zero(RUNS[10])}, 10) is None
    assert not list(tmp_path.glob("cache/*"))
    assert dataclasses.replace(cache, max_bytes=0).begin_entry(rows=False) is None

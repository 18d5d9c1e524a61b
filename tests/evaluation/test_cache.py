"""What is kept of parts: the same bytes with it and without, only what is new is read, nothing damaged is believed."""

import dataclasses
import errno
import functools
import importlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from predboard import InputError, VisualizeConfig, panels, visualize
from predboard.errors import DamagedError
from predboard.evaluation import cache as kept
from predboard.evaluation.cache import CACHE_FOLDER, DERIVED_ROWS, StateCache, state_versions
from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.sampling import rounded_size
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.runs import part_path
from predboard.visualization.visualize import VisualizeResult

from tests import toy
from tests.test_imports import SOURCES, ours
from tests.test_laws import RUNS, same, situations, some

MODULE = importlib.import_module("predboard.evaluation.fold")
VISUALIZE = importlib.import_module("predboard.visualization.visualize")
"""The modules; `predboard.visualize` is the function."""

EACH = 12
"""Rows of a part."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of two parts, each measured for itself."""
    monkeypatch.setattr("predboard.evaluation.fold.CACHE_BLOCK_ROWS", 2 * EACH)
    monkeypatch.setattr("predboard.evaluation.fold.TASK_MIN_ROWS", 1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the logits of each part were asked for."""
    counted: Counter[str] = Counter()
    batches = read_batches

    def counting(file: PartFile, columns: Any = None) -> Iterator[Predictions]:
        if columns is None or "logits" in set(columns):
            counted[file.name] += 1
        return batches(file, columns)

    monkeypatch.setattr("predboard.evaluation.fold.read_batches", counting)
    return counted


def write(folder: Path, parts: int, *steps: int, seed: int = 0, run: Run = toy.RUN) -> Path:
    for step in steps or (0,):
        logits, label = toy.table(run, parts * EACH, seed + step)
        label[::7] = -1
        toy.write_run(folder, logits, label, dataclasses.replace(run, step=step), EACH, failed=frozenset({5}))
    return folder


def part(run: Path, index: int, step: int = 0) -> Path:
    return part_path(run, step, index)


FEW = ("confusion", "glance")
"""Panels that are quick to draw; the first looks again, and so asks for the derived rows."""


def draw(run: Path, logs: Path, cache: Any = "always", panels: tuple[str, ...] = FEW, **more: Any) -> VisualizeResult:
    (written,) = visualize(VisualizeConfig(predictions=(run,), logdir=logs, cache=cache, panels=panels, **more))
    return written


def content(written: VisualizeResult) -> dict[str, Any]:
    """All that was written, by name; `rows.parquet` as a table."""
    folder = Path(str(written.folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "/." not in path.as_posix())
    return {
        path.relative_to(folder).as_posix(): pq.read_table(path) if path.suffix == ".parquet" else path.read_bytes()
        for path in files
    }


def entries(written: VisualizeResult) -> list[Path]:
    return sorted((Path(str(written.folder)) / CACHE_FOLDER).glob("*"))


def again(run: Path, logs: Path, **more: Any) -> VisualizeResult:
    """Draw though nothing changed."""
    (logs / run.name / ".predboard.json").unlink()
    return draw(run, logs, **more)


def test_the_same_is_written_without_it_with_it_and_from_it(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 5, 1, 4)
    every: dict[str, Any] = {"panels": (), "log_every": 3}
    without = content(draw(run, tmp_path / "without", cache="never", **every))
    assert "rows.parquet" in without
    first = draw(run, tmp_path / "logs", **every)
    assert content(first) == without
    assert len(entries(first)) == 6  # 2, 2 and 1 parts of each step
    read.clear()
    assert content(again(run, tmp_path / "logs", **every)) == without
    assert not read
    assert content(again(run, tmp_path / "logs", cache="never", **every)) == without
    assert len(read) == 10


def test_processes_keep_what_they_measure(tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predboard.evaluation.fold.POOL_MIN_LOGITS", 0)
    run = write(tmp_path / "run", 7, 1, 4)
    without = content(draw(run, tmp_path / "without", cache="never", workers=1))
    first = draw(run, tmp_path / "logs", workers=3)
    assert content(first) == without
    read.clear()
    assert content(again(run, tmp_path / "logs", workers=3)) == without
    assert not read


def test_only_a_new_part_is_read(tmp_path: Path, read: Counter[str]) -> None:
    whole = write(tmp_path / "whole" / "run", 6)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    part(run, 3).unlink()
    draw(run, tmp_path / "logs")
    shutil.copy(part(whole, 3), part(run, 3))
    read.clear()
    found = draw(run, tmp_path / "logs")
    assert read == {"step=00000000/part-00003.parquet": 1}
    assert content(found) == content(draw(whole, tmp_path / "without", cache="never"))


def test_a_new_step_is_read_and_of_the_one_before_nothing(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 3, 1)
    draw(run, tmp_path / "logs")
    write(run, 3, 2)
    read.clear()
    found = draw(run, tmp_path / "logs")
    assert {name.partition("/")[0] for name in read} == {"step=00000002"}
    assert content(found) == content(draw(run, tmp_path / "without", cache="never"))


def test_of_a_part_that_was_replaced_what_was_kept_with_it_is_read_again(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 6)
    before = entries(draw(run, tmp_path / "logs"))
    other = write(tmp_path / "other", 6, seed=9)
    shutil.copy(part(other, 2), part(run, 2))
    read.clear()
    found = draw(run, tmp_path / "logs")
    assert set(read) == {"step=00000000/part-00002.parquet", "step=00000000/part-00003.parquet"}
    assert content(found) == content(draw(run, tmp_path / "without", cache="never"))
    assert len(entries(found)) == 3
    assert len(set(entries(found)) & set(before)) == 2  # what is of no use any more is removed


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
    assert len(read) == 5  # samples are of other rows now


def test_other_panels_read_only_for_what_is_not_kept_of_them(tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 4)
    draw(run, tmp_path / "logs", panels=("glance", "hparams"))
    read.clear()
    few = draw(run, tmp_path / "logs", panels=("hparams",))
    assert not read
    assert content(few) == content(draw(run, tmp_path / "without", cache="never", panels=("hparams",)))
    asked: list[frozenset[str]] = []
    summarize_part = MODULE.measure_part

    def asking(file: PartFile, panels: Any, **more: Any) -> Any:
        asked.append(frozenset(panels))
        return summarize_part(file, panels, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "measure_part", asking)
        more = draw(run, tmp_path / "logs", panels=("confusion", "glance", "probabilities"))
    assert asked == [{"confusion", "probabilities"}] * 4
    assert content(more) == content(
        draw(run, tmp_path / "without2", cache="never", panels=("confusion", "glance", "probabilities"))
    )
    read.clear()
    assert content(again(run, tmp_path / "logs", panels=("confusion", "glance", "probabilities"))) == content(more)
    assert not read


def test_a_panel_of_another_version_is_measured_again_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", 4)
    first = content(draw(run, tmp_path / "logs"))
    asked: list[frozenset[str]] = []
    summarize_part = MODULE.measure_part

    def asking(file: PartFile, panels: Any, **more: Any) -> Any:
        asked.append(frozenset(panels))
        return summarize_part(file, panels, **more)

    monkeypatch.setattr(MODULE, "measure_part", asking)
    monkeypatch.setattr(VISUALIZE, "state_versions", lambda of: {**state_versions(of), "glance": "another"})
    assert content(again(run, tmp_path / "logs")) == first
    assert asked == [{"glance"}] * 4
    assert content(again(run, tmp_path / "logs")) == first
    assert len(asked) == 4


@pytest.mark.parametrize("where", [0.0, 0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("how", ["a bit", "cut"])
def test_a_damaged_entry_is_not_believed(where: float, how: str, tmp_path: Path, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 4)
    first = draw(run, tmp_path / "logs")
    whole, (damaged, other) = content(first), entries(first)
    good = damaged.read_bytes()
    at = int(where * len(good))
    damaged.write_bytes(good[:at] if how == "cut" else bytes([*good[:at], good[at] ^ 4, *good[at + 1 :]]))
    read.clear()
    assert content(again(run, tmp_path / "logs")) == whole
    assert len(read) == 2
    assert entries(first) == [damaged, other]
    assert damaged.read_bytes() == good  # made again, the same


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def damage_rows(file: Path) -> None:
    """Of the last part; all else still fits its digest."""
    *_, (start, length, _, _) = of_file(file).blobs
    content = bytearray(file.read_bytes())
    content[start + length - 1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, damage_rows, Path.unlink])
def test_rows_that_are_damaged_after_they_were_found_are_made_again(
    damage: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", 2)
    first = draw(run, tmp_path / "logs")
    whole, (entry,) = content(first), entries(first)
    find = StateCache.find

    def then_damage(*arguments: Any) -> Any:
        found = find(*arguments)
        damage(entry)
        return found

    monkeypatch.setattr(StateCache, "find", then_damage)
    assert content(again(run, tmp_path / "logs")) == whole


def test_what_is_no_state_of_ours_is_refused() -> None:
    for module, name in (
        ("os", "system"),
        ("subprocess", "Popen"),
        ("predboard.cli.main", "main"),
        ("predboard.state", "X"),
    ):
        with pytest.raises(DamagedError, match="is no state"):
            kept._value(["state", module, name, {}], lambda _: None, lambda _: None)


@pytest.mark.parametrize("name", panels.names())
def test_states_come_back_to_the_last_bit_and_share_what_they_shared(name: str, tmp_path: Path) -> None:
    panel = panels.load(name)
    for classes, run in RUNS.items():
        batches = [some(run, 40, 1, failed=True, unlabelled=True), *(batch for _, batch in situations(run))]
        for batch in batches if classes == 10 else batches[:2]:
            folder = StateCache(tmp_path / f"{classes}", {name: "1", "twin": "1", DERIVED_ROWS: "1"})
            state = panel.measure(run, batch)
            folder.write({"a": 1}, {name: state, "twin": state})
            states = folder.find({0: {"a": 1}}, {0: frozenset({name, "twin"})})[0].states
            assert same(states[name], state)
            assert states["twin"] is states[name]
            shutil.rmtree(tmp_path / f"{classes}")


def test_it_is_not_kept_where_it_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", 2)
    assert not entries(draw(run, tmp_path / "small", cache="auto"))
    monkeypatch.setattr(VISUALIZE, "CACHE_MIN_LOGITS", 1)
    assert entries(draw(run, tmp_path / "large", cache="auto"))
    assert not entries(draw(run, tmp_path / "never", cache="never"))


def test_it_takes_no_more_room_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Counter[str]) -> None:
    run = write(tmp_path / "run", 6)
    first = draw(run, tmp_path / "logs")
    sizes = [entry.stat().st_size for entry in entries(first)]
    monkeypatch.setattr(kept, "CACHE_MAX_BYTES", sum(sizes[:2]) + 10)
    some_of_it = draw(run, tmp_path / "less")
    assert 1 <= len(entries(some_of_it)) <= 2
    assert content(some_of_it) == content(first)
    read.clear()
    assert content(again(run, tmp_path / "less")) == content(first)
    assert 1 <= len(read) <= 4


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 2)
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / CACHE_FOLDER).write_text("a file")
    with pytest.raises(InputError, match=r"cannot write to .*predboard-states"):
        draw(run, tmp_path / "logs")


def test_the_version_goes_by_settings_and_by_the_code_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = panels.choose(("confusion", "mistakes"))
    before = state_versions(chosen)
    assert state_versions(chosen) == before
    other = {**chosen, "confusion": dataclasses.replace(chosen["confusion"], count=3)}  # type: ignore[type-var]
    assert {name for name, version in state_versions(other).items() if version != before[name]} == {"confusion"}
    code = tmp_path / "code"
    shutil.copytree(Path(kept.__file__).parents[1], code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kept, "__file__", str(code / "evaluation" / "cache.py"))
    assert state_versions(chosen) == before
    changed = {}
    for file in ("metrics/seriation", "visualization/events", "state", "panels/mistakes"):
        path = code / f"{file}.py"
        source = path.read_text()
        path.write_text(source + "# a change\n")
        changed[file] = {name for name, version in state_versions(chosen).items() if version != before[name]}
        path.write_text(source)
    assert changed == {
        "metrics/seriation": {"confusion"},
        "visualization/events": set(),
        "state": {"confusion", "mistakes", DERIVED_ROWS},
        "panels/mistakes": {"mistakes"},
    }


def test_all_imports_of_ours_are_found() -> None:
    program = kept._Program()
    for module, source in SOURCES.items():
        name = f"predboard.{module.removesuffix('.__init__')}"
        known = program._read(name)
        if known is not None:
            wanted = {f"predboard.{other.removesuffix('.__init__')}" for other in ours(source, set(SOURCES))}
            assert wanted - {"predboard.__init__"} <= {found for found in known[1] if program._read(found)}, module


def test_a_header_says_what_is_in_it_and_nothing_else_of_the_machine(tmp_path: Path) -> None:
    first = draw(write(tmp_path / "run", 2), tmp_path / "logs")
    (place,) = entries(first)
    entry = kept._entry(place)
    assert entry is not None
    assert sorted(entry.parts.values()) == [EACH, EACH]
    assert set(entry.panels) == set(FEW)
    assert str(tmp_path) not in json.dumps(entry.nodes)


def test_no_part_counts_twice_though_two_entries_have_it(tmp_path: Path) -> None:
    panel, batch = panels.load("glance"), some(RUNS[10], 40, 1)
    state = panel.measure(RUNS[10], batch)
    folder = StateCache(tmp_path / "kept", {"glance": "1", DERIVED_ROWS: "1"})
    folder.write({"a": 40, "b": 0}, {"glance": state})
    folder.write({"b": 0, "c": 40}, {"glance": state})
    found = folder.find({0: {"a": 40, "b": 0, "c": 40}}, {0: frozenset({"glance"})})[0]
    assert same(found.states["glance"], state)
    assert sorted(len(of) for of in found.missing.values()) == [0, 0, 1]
    assert not found.missing["b"]
    assert len(list((tmp_path / "kept").glob("*"))) == 1  # the other is of no use


def test_of_many_reruns_with_a_new_part_each_few_entries_are_left(
    tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SMALL_ENTRY_ROWS", 4 * EACH)
    whole = write(tmp_path / "whole" / "run", 14)
    run, found = tmp_path / "run", []
    for index in range(14):
        part(run, index).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part(whole, index), part(run, index))
        read.clear()
        written = draw(run, tmp_path / "logs")
        assert set(read) == {f"step=00000000/part-{index:05d}.parquet"}
        found.append(sorted(len(of_file(entry).parts) for entry in entries(written)))
    assert found[:8] == [[1] * n for n in range(1, 6)] + [[1, 1, 4], [1, 1, 1, 4], [1, 1, 1, 1, 4]]
    assert found[-1] == [1, 1, 4, 4, 4]  # what is as large as that is joined no more
    assert content(written) == content(draw(whole, tmp_path / "without", cache="never"))


def of_file(place: Path) -> kept.CacheEntry:
    entry = kept._entry(place)
    assert entry is not None
    return entry


def aside(place: StateCache, rows: dict[str, Predictions]) -> kept.RowSpool:
    """The derived ones of each part."""
    made = place.aside()
    for key, of in rows.items():
        made.add(key, [derive_rows(RUNS[10], 0, of)])
    return made


def small_ones(folder: Path, count: int, empty: int | None = None) -> tuple[StateCache, dict[str, int], Any]:
    """Entries of one part each. -> where they are, rows of the parts, and the state of all."""
    panel, place = panels.load("glance"), StateCache(folder, {"glance": "1", DERIVED_ROWS: "1"})
    parts, state = {}, panel.zero(RUNS[10])
    for index in range(count):
        rows = some(RUNS[10], 0 if index == empty else 10 + index, index)
        measured = panel.measure(RUNS[10], rows)
        parts[f"part{index}"] = len(rows)
        key = f"part{index}"
        place.write({key: len(rows)}, {"glance": measured}, aside(place, {key: rows}))
        state = merge(state, measured)
    return place, parts, state


ALL = frozenset({"glance", DERIVED_ROWS})


def test_a_joined_entry_has_what_the_small_ones_had(tmp_path: Path) -> None:
    place, parts, state = small_ones(tmp_path / "kept", 7, empty=3)
    before = {key: of_file(file).rows_of(key) for file in tmp_path.glob("kept/*") for key in of_file(file).parts}
    for _ in range(2):  # as it is joined, and as it is read
        found = place.find({0: parts}, {0: ALL})[0]
        assert same(found.states["glance"], state)
        assert not any(found.missing.values())
        for key, batches in before.items():
            assert [rows.batch for rows in found.rows[key].rows_of(key)] == [rows.batch for rows in batches]
        (one,) = tmp_path.glob("kept/*")
        assert of_file(one).parts == parts


@pytest.mark.parametrize("where", ["another panel", "another version", "no rows", "another step"])
def test_only_entries_of_the_same_are_joined(where: str, tmp_path: Path) -> None:
    place, parts, state = small_ones(tmp_path / "kept", kept.MAX_SMALL_ENTRIES)
    more = some(RUNS[10], 9, 99)
    measured = panels.load("glance").measure(RUNS[10], more)
    states = {"glance": measured, "twin": measured} if where == "another panel" else {"glance": measured}
    version = {"glance": "2" if where == "another version" else "1", "twin": "1", DERIVED_ROWS: "1"}
    other = StateCache(place.folder, version)
    other.write({"other": 9}, states, () if where == "no rows" else aside(other, {"other": more}))
    steps = {0: parts, 1: {"other": 9}} if where == "another step" else {0: {**parts, "other": 9}}
    found = place.find(steps, dict.fromkeys(steps, ALL))
    assert len(list(tmp_path.glob("kept/*"))) == kept.MAX_SMALL_ENTRIES + 1
    assert same(found[0].states["glance"], merge(state, measured) if where in ("another panel", "no rows") else state)


def test_a_small_entry_that_is_damaged_is_not_joined(tmp_path: Path) -> None:
    place, parts, _ = small_ones(tmp_path / "kept", 7)
    damaged = next(tmp_path.glob("kept/*"))
    (lost,) = of_file(damaged).parts
    damage_rows(damaged)
    found = place.find({0: parts}, {0: ALL})[0]
    assert {key for key, names in found.missing.items() if names} == {lost}
    (one,) = tmp_path.glob("kept/*")
    assert of_file(one).parts.keys() == parts.keys() - {lost}


@pytest.mark.parametrize("how", [Path.unlink, damage_rows])
def test_entries_that_are_gone_or_damaged_while_they_are_joined(
    how: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, parts, state = small_ones(tmp_path / "kept", 5)
    with monkeypatch.context() as patch:
        patch.setattr(
            StateCache, "_join", lambda kept, join: (how(toy.local(join.entries[0].place)), _JOIN(kept, join))[1]
        )
        found = place.find({0: parts}, {0: ALL})[0]
    assert same(found.states["glance"], state)  # read before
    assert len(list(tmp_path.glob("kept/*"))) == (4 if how is Path.unlink else 5)
    found = place.find({0: parts}, {0: ALL})[0]
    assert sum(bool(names) for names in found.missing.values()) == 1


_JOIN = StateCache._join


def test_what_two_small_entries_have_is_joined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_SMALL_ENTRIES", 1)
    panel, folder = panels.load("glance"), StateCache(tmp_path / "kept", {"glance": "1", DERIVED_ROWS: "1"})
    of = {name: some(RUNS[10], 10, seed) for seed, name in enumerate("abcd")}
    for parts in ("abc", "cd"):
        states = [panel.measure(RUNS[10], of[part]) for part in parts]
        rows = aside(folder, {part: of[part] for part in parts})
        folder.write(dict.fromkeys(parts, 10), {"glance": functools.reduce(merge, states)}, rows)
    for _ in range(2):
        found = folder.find({0: dict.fromkeys(of, 10)}, {0: ALL})[0]
        lost = [part for part, names in found.missing.items() if names]
        have = [panel.measure(RUNS[10], rows) for part, rows in of.items() if "glance" not in found.missing[part]]
        assert lost == ["d"]  # it is not counted with c, which is
        assert same(found.states["glance"], functools.reduce(merge, have))


def test_joining_needs_no_more_room_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, parts, _ = small_ones(tmp_path / "kept", 5)
    taken = sum(file.stat().st_size for file in tmp_path.glob("kept/*"))
    for limit, left in ((1000, 5), (taken, 1)):
        monkeypatch.setattr(kept, "CACHE_MAX_BYTES", limit)
        assert not any(place.find({0: parts}, {0: ALL})[0].missing.values())
        assert len(list(tmp_path.glob("kept/*"))) == left


def test_a_bit_of_any_state_counts(tmp_path: Path) -> None:
    place, parts, state = small_ones(tmp_path / "kept", 1)
    (file,) = tmp_path.glob("kept/*")
    good, entry = file.read_bytes(), of_file(file)
    for at, length, _, _ in entry.blobs:
        for bit in (at + length * quarter // 4 for quarter in range(4)):
            file.write_bytes(good[:bit] + bytes([good[bit] ^ 1]) + good[bit + 1 :])
            found = place.find({0: parts}, {0: ALL})[0]
            assert found.states == {}
            assert all(found.missing.values())
            assert not file.exists()
    file.write_bytes(good)
    assert same(place.find({0: parts}, {0: ALL})[0].states["glance"], state)


def test_joining_may_end_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, parts, state = small_ones(tmp_path / "kept", 7)
    moments = [(kept._Content, "packed"), (kept._Content, "end"), (Path, "replace"), (Path, "unlink")]
    for owner, name in moments:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupted)
            place.find({0: parts}, {0: ALL})
        found = StateCache(place.folder, place.versions)
        with monkeypatch.context() as patch:
            patch.setattr(kept, "MAX_SMALL_ENTRIES", 99)
            states = found.find({0: parts}, {0: ALL})[0]
        assert same(states.states["glance"], state)
        assert not any(states.missing.values())
    assert len(list(tmp_path.glob("kept/*"))) == 1


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["before it reads the states", "before it reads the rows"])
def test_who_reads_while_another_joins_reads_what_is_gone_again(
    when: str, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", 10)
    first = draw(run, tmp_path / "logs")
    whole, before = content(first), entries(first)
    assert len(before) == 5
    find, states = StateCache.find, kept.CacheEntry.states

    def joined(self: StateCache, *asked: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, "MAX_SMALL_ENTRIES", 1)
            return find(self, *asked)

    def find_then_join(self: StateCache, *asked: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, "MAX_SMALL_ENTRIES", 99)
            if when == "before it reads the states":
                patch.setattr(kept.CacheEntry, "states", lambda entry, names: other(entry, names, self, asked))
                return find(self, *asked)
            found = find(self, *asked)
        joined(self, *asked)
        return found

    def other(entry: kept.CacheEntry, names: Any, self: StateCache, asked: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept.CacheEntry, "states", states)
            joined(self, *asked)
        return states(entry, names)

    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(StateCache, "find", find_then_join)
        assert content(again(run, tmp_path / "logs")) == whole
    assert len(read) == 10
    read.clear()
    assert content(again(run, tmp_path / "logs")) == whole
    assert not read


def test_a_long_header_is_read_as_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, parts, state = small_ones(tmp_path / "kept", 2)
    for guess in (kept._END, kept._END + 1, 2**20):
        monkeypatch.setattr(kept, "_GUESS", guess)
        assert same(place.find({0: parts}, {0: ALL})[0].states["glance"], state)


@pytest.mark.parametrize("method", ["packed", "end"])
def test_nothing_unfinished_is_left_by_a_write_that_fails(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, parts, _ = small_ones(tmp_path / "kept", 2)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("kept/*")}
    rows = some(RUNS[10], 9, 9)
    state = panels.load("glance").measure(RUNS[10], rows)
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"cannot write to .*kept: No space left"):
        patch.setattr(kept._Content, method, full)
        place.write({"other": 9}, {"glance": state}, aside(place, {"other": rows}))
    assert {file.name: file.read_bytes() for file in tmp_path.glob("kept/*")} == before
    assert not any(place.find({0: parts}, {0: ALL})[0].missing.values())


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_kept_is_not_held_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", 7, 1, 4)
    without = content(draw(run, tmp_path / "without", cache="never"))
    held: list[int] = []
    call = MODULE._Measuring.__call__

    def measuring(self: Any, portion: Any) -> Any:
        answer = call(self, portion)
        held.append(len(self._states))
        return answer

    monkeypatch.setattr(MODULE._Measuring, "__call__", measuring)
    assert content(draw(run, tmp_path / "logs")) == without
    assert held == [0] * 14
    monkeypatch.setattr(kept, "CACHE_MAX_BYTES", 0)  # nothing is written, and so it is held
    assert content(draw(run, tmp_path / "full")) == without
    assert held[14:] == [0, *[1] * 6, 0, *[1] * 6]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_what_was_kept_and_is_gone_or_damaged_at_the_end_is_measured_again(
    how: str, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, some_panels = write(tmp_path / "run", 5), ("confusion", "curves")  # the second reads logits
    without = content(draw(run, tmp_path / "without", cache="never", panels=some_panels))
    put = StateCache.write

    def then_lost(*of: Any) -> kept.CacheEntry | None:
        entry = put(*of)
        if entry is not None and how == "gone":
            toy.local(entry.place).unlink()
        elif entry is not None:
            content = bytearray(toy.local(entry.place).read_bytes())
            content[entry.blobs[0][0]] ^= 1
            toy.local(entry.place).write_bytes(content)
        return entry

    monkeypatch.setattr(StateCache, "write", then_lost)
    read.clear()
    assert content(draw(run, tmp_path / "logs", panels=some_panels)) == without
    assert sorted(read.values()) == [1, 2, 2, 2, 2]  # of the last block the states were still there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_rows_for_which_there_is_no_room_are_one_line_and_nothing_after_it(tmp_path: Path) -> None:
    aside = kept.RowSpool(tmp_path, Path("/dev/full").open("r+b", buffering=2**20))  # noqa: SIM115  it closes by itself
    rows = some(RUNS[10], 9, 9)
    aside.add("a", [derive_rows(RUNS[10], 0, rows)])  # it waits
    with pytest.raises(InputError, match="No space left"):
        for _ in range(2000):
            aside.add("b", [derive_rows(RUNS[10], 0, rows)])
    del aside  # what Python cannot raise here would be an error of this test


def test_where_there_is_no_room_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _, state = small_ones(tmp_path / "kept", 2)
    monkeypatch.setattr(kept, "CACHE_MAX_BYTES", 10)
    monkeypatch.setattr(StateCache, "_written", lambda *_: 1 / 0)
    assert place.write({"other": 9}, {"glance": state}) is None

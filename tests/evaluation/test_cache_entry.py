"""The file of a cache entry: states come back to the last bit, no damage goes unnoticed, and nothing in it is run."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard import panels
from predboard.errors import DamagedError, InputError
from predboard.evaluation.cache_entry import CachedRows, CacheEntry, EntryWriter, _StateDecoder
from predboard.predictions.derived_rows import derive_rows
from tests import toy
from tests.test_laws import RUNS, same, situations, some

VERSIONS = dict.fromkeys((*panels.names(), "twin"), "1")


def write(folder: Path, states: dict[str, Any], **parts: Any) -> CacheEntry:
    """Write an entry of some parts with their derived rows."""
    writer = EntryWriter(folder, VERSIONS, "1")
    for key, batch in parts.items():
        writer.add_part(key, len(batch), [derive_rows(RUNS[10], 0, batch)])
    entry = writer.finish(states, 2**30)
    assert entry is not None
    return entry


@pytest.mark.parametrize("name", panels.names())
def test_states_come_back_to_the_last_bit_and_share_what_they_shared(name: str, tmp_path: Path) -> None:
    panel = panels.load(name)
    for classes, run in RUNS.items():
        batches = [some(run, 40, 1, failed=True, unlabelled=True), *(batch for _, batch in situations(run))]
        for batch in batches if classes == 10 else batches[:2]:
            state = panel.measure(run, batch)
            entry = write(tmp_path, {name: state, "twin": state})
            states = CacheEntry.read(entry.path).load([name, "twin"])
            assert same(states[name], state)
            assert states["twin"] is states[name]


def test_rows_come_back_and_the_same_content_gives_the_same_file(tmp_path: Path) -> None:
    parts = {"a": some(RUNS[10], 30, 1), "none": some(RUNS[10], 0, 2), "b": some(RUNS[10], 10, 3)}
    entry, again = (write(tmp_path / name, {}, **parts) for name in ("one", "two"))
    assert entry.path.name == again.path.name
    assert entry.path.read_bytes() == again.path.read_bytes()
    assert CacheEntry.read(entry.path) == entry
    assert (entry.parts, entry.row_count) == ({"a": 30, "none": 0, "b": 10}, 40)
    rows = CachedRows(dict.fromkeys(parts, entry))
    for key in ("b", "a"):
        assert [one.batch for one in rows.read(key) or ()] == [derive_rows(RUNS[10], 0, parts[key]).batch]
    assert rows.read("none") == []
    assert rows.read("unknown") is None
    rows.close()


def test_an_entry_is_an_archive_that_says_what_is_in_it_and_nothing_of_the_machine(tmp_path: Path) -> None:
    batch = some(RUNS[10], 40, 1)
    entry = write(tmp_path, {"glance": panels.load("glance").measure(RUNS[10], batch)}, a=batch)
    with zipfile.ZipFile(toy.local(entry.path)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist() if info.filename != "header.json"} == {
            zipfile.ZIP_STORED
        }
        header = json.loads(archive.read("header.json"))
    assert header["parts"] == {"a": 40}
    assert header["panels"]["glance"][0] == "1"
    assert str(tmp_path) not in json.dumps(header)


def test_whatever_bit_is_flipped_the_entry_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    batch = some(RUNS[10], 40, 1)
    state = panels.load("glance").measure(RUNS[10], batch)
    entry = write(tmp_path, {"glance": state}, a=batch)
    rows = derive_rows(RUNS[10], 0, batch).batch
    file = toy.local(entry.path)
    good = file.read_bytes()
    refused = 0
    random = np.random.default_rng(0)
    places = random.permutation(len(good))[:600]
    for place, bit in zip(places.tolist(), random.integers(0, 8, len(places)).tolist(), strict=True):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        try:
            damaged = CacheEntry.read(file)
            assert same(damaged.load(["glance"], verify_rows=True)["glance"], state)
        except DamagedError:
            refused += 1
            continue
        cached = CachedRows({"a": damaged})
        read = cached.read("a")
        cached.close()
        assert [one.batch for one in read or ()] == [rows]
        assert damaged == entry
    assert 0.8 * len(places) < refused < len(places)  # but for fields of ZIP that say nothing, such as a member's time


@pytest.mark.parametrize("length", [0, 1, 21, 22, 100, -1])
def test_a_file_that_was_cut_or_is_something_else_is_refused(length: int, tmp_path: Path) -> None:
    file = toy.local(write(tmp_path, {}, a=some(RUNS[10], 9, 1)).path)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DamagedError, match="cannot be read"):
        CacheEntry.read(file)
    file.unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        CacheEntry.read(file)


def test_only_dataclasses_of_known_packages_are_created(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        for module, name in (
            ("os", "system"),
            ("subprocess", "Popen"),
            ("predboard.cli.main", "main"),
            ("predboard.state", "X"),
            ("tests.toy", "Model"),
        ):
            with pytest.raises(DamagedError, match="not the dataclass of a state"):
                _StateDecoder(archive, [["state", module, name, {}]], {"predboard"}).value(0)


def test_a_state_that_cannot_be_cached_is_a_defect_and_leaves_nothing(tmp_path: Path) -> None:
    writer = EntryWriter(tmp_path, VERSIONS, None)
    with pytest.raises(TypeError, match="a state holds set, which cannot be cached"):
        writer.finish({"glance": {1, 2}}, 2**30)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_rows_for_which_there_is_no_room_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: "full")
    (tmp_path / "full.partial").symlink_to("/dev/full")
    writer = EntryWriter(tmp_path, VERSIONS, "1")
    rows = [derive_rows(RUNS[10], 0, some(RUNS[10], 9, 9))]
    with pytest.raises(InputError, match="No space left"):
        for index in range(2000):
            writer.add_part(f"{index}", 9, rows)
    assert not list(tmp_path.iterdir())

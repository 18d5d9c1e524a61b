"""`predboard rows`: the same selection as in the tab, as a list or as copies of the images."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from predboard import InputError
from predboard.cli.main import run
from predboard.config import RowsConfig
from predboard.predictions.schema import Run
from predboard.tab import export
from predboard.tab.export import FORMATS
from predboard.tab.rows_command import list_rows
from predboard.tab.tags import Tags
from tests import toy
from tests.tab import logs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logs.write_logs(tmp_path_factory.mktemp("logs") / "net")


def ids(folder: Path, **flags: Any) -> list[int]:
    """Return the rows, in the order of the data where no other is asked for; `sort=None` is that of the command."""
    flags = flags if "sort" in flags else flags | {"sort": "id", "ascending": True}
    lines = csv.DictReader(io.StringIO(list_rows(RowsConfig(folder, **flags)).content.decode()))
    return [int(line["row"]) for line in lines]


def test_flags_select_what_pandas_does(folder: Path) -> None:
    data = logs.frame(folder, 3)
    known = (data.label >= 0) & (data.predicted >= 0)
    wrong = data[known & (data.label != data.predicted)]
    assert (
        ids(folder, wrong=True, sort="loss", limit=4) == wrong.sort_values("loss", ascending=False).index[:4].tolist()
    )
    assert ids(folder, wrong=True, sort="loss", ascending=True) == wrong.sort_values("loss").index.tolist()
    expected = data[(data.label == 0) & (data.predicted == 1) & (data.confidence >= np.float32(0.5))]
    assert ids(folder, true="cat", predicted=logs.NAMES[1], confidence=".5..") == expected.index.tolist()
    assert ids(folder, true=["cat", "2"]) == data.index[data.label.isin([0, 2])].tolist()
    chosen = data.site.isin(["A", "<i>"]) & data.year.between(2001, 2002)
    assert ids(folder, where=["site=A", "site=<i>", "year=2001..2002"]) == data.index[chosen].tolist()
    assert ids(folder, where=["site=", "year=2001"]) == data.index[data.site.isna() & (data.year == 2001)].tolist()
    old = logs.frame(folder, 1)
    broken = known & (old.predicted == old.label) & (data.predicted != data.label)
    assert ids(folder, other="net@1", kind="broken") == data.index[broken].tolist()
    assert ids(folder, step=1, state="failed") == [2, 59]


def test_tags_of_the_tab_select_and_are_listed(folder: Path) -> None:
    tags = Tags(folder.parent / "predboard_tags.jsonl")
    tags.change("relabel", True, logs.frame(folder, 3).key.tolist()[5:7], "cat")
    rows = json.loads(list_rows(RowsConfig(folder, tag=("relabel",), sort="id", ascending=True, format="json")).content)
    assert [(row["row"], row["tags"], row["relabel_to"]) for row in rows] == [
        (5, ["relabel"], "cat"),
        (6, ["relabel"], "cat"),
    ]
    tags.path.unlink()


def test_the_order_is_that_of_the_tab(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = logs.frame(folder, 3)
    known = data[(data.label >= 0) & (data.predicted >= 0)]
    assert (
        ids(folder, state="labelled", sort=None)
        == known.sort_values("loss", ascending=False, kind="stable").index.tolist()
    )
    tags = Tags(folder.parent / "predboard_tags.jsonl")
    tags.change("relabel", True, [1])
    assert run(["rows", str(folder), "--tag", "relable"]) == 2
    assert "which no image has; expected 'relabel'; did you mean relabel?" in capsys.readouterr().err
    tags.path.unlink()
    assert run(["rows", str(folder.parent / "nett")]) == 2
    assert f"; did you mean {folder}?" in capsys.readouterr().err


def test_the_command_prints_the_list_alone(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["rows", str(folder), "--wrong", "--format", "parquet", "--limit", "3"]) == 0
    table = pq.read_table(io.BytesIO(capfdbinary.readouterr().out))
    assert table["row"].to_pylist() == ids(folder, wrong=True, sort="loss", limit=3)
    assert run(["rows", str(folder), "--format", "paths", "--limit", "2", "--sort", "id", "--ascending"]) == 0
    assert capfdbinary.readouterr().out == b"Photo 000.png\nPhoto 001.png\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--true", "catt"], "--true is 'catt', which is none of the 3 classes; did you mean cat?"),
        (["--where", "site"], "--where has 'site'; expected COLUMN=VALUE"),
        (["--where", "town=A"], "there is no column 'town'"),
        (["--where", "label=cat"], "; --true asks for true classes"),
        (["--where", "yaer=2001"], "; did you mean year?"),
        (["--where", "site=a|c"], "no image has that site; expected '<i>', 'A', '\\\\', 'b|c'; did you mean b|c?"),
        (["--sort", "confidnce"], "; did you mean confidence?"),
        (["--tag", "relable"], "--tag is 'relable', which no image has; expected none: nobody has tagged"),
        (["--confidence", "0.9"], "the range of confidence is '0.9'; expected LOW..HIGH"),
        (["--step", "2"], "net has no step 2: expected 1, 3"),
        (["--right", "--wrong"], "--right and --wrong exclude each other"),
        (["--kind", "fixed"], "--kind needs --other RUN@STEP"),
        (["--kind", "fixed", "--other", "old@1"], "there is no run 'old' in the log folder"),
        (["--copy-to", "copies"], "the predictions of net are not in their place"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    folder: Path,
    words: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["rows", str(folder), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err
    assert err.count("\n") == 1


def test_copies_are_the_files_themselves_under_safe_names(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(4):
        (root / f"{i:06d}.png").write_bytes(b"pixels %d" % i)
    (root / "000002.png").unlink()
    (tmp_path / "secret").write_text("secret")
    (root / "000001.png").unlink()
    (root / "000001.png").symlink_to(tmp_path / "secret")
    logits, label = toy.table(Run(classes=logs.NAMES, model="net.py:build"), 4)
    toy.write_run(
        tmp_path / "predictions", logits, label, Run(classes=logs.NAMES, model="net.py:build", root=str(root))
    )
    folder = logs.write_logs(tmp_path / "logs" / "net", 4, steps=(0,))
    table = pq.read_table(folder / "rows.parquet")
    names = [[f"{i:06d}.png" for i in range(4)]]
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", names), folder / "rows.parquet")
    (folder / ".predboard.json").write_text('{"made_from": "", "files": [], "of": ["../../predictions"]}', "utf-8")
    lines: list[str] = []
    config = RowsConfig(folder, copy_to=tmp_path / "copies", sort="id", ascending=True, format="paths")
    result = list_rows(config, lines.append)
    assert (result.total, result.copied, len(lines)) == (4, 2, 2)
    assert lines[0].startswith("warning: no copy of image 2: 000001.png is not inside ")
    assert lines[1].startswith("warning: no copy of image 3: cannot read 000002.png: ")
    copies = sorted(file.name for file in (tmp_path / "copies").iterdir())
    assert copies[-1] == "rows.txt"
    assert [name[:6] for name in copies[:-1]] == ["00001_", "00004_"]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-") for name in copies)
    assert (tmp_path / "copies" / copies[1]).read_bytes() == b"pixels 3"
    with pytest.raises(InputError, match="is there and not empty: name a new folder"):
        list_rows(config)


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_are_written_some_at_a_time_and_are_the_same(
    folder: Path, format_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RowsConfig(folder, format=format_)
    whole = list(list_rows(config).blocks())
    monkeypatch.setattr(export, "BLOCK_ROWS", 7)
    some = list(list_rows(config).blocks())
    assert b"".join(some) == b"".join(whole)
    assert len(some) > len(whole) or format_ == "parquet"

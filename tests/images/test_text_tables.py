"""Text files as spreadsheets and programs write them: the same rows however they are written, or one line."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from predboard import InputError
from predboard.images.text_tables import open_separated, read_json_lines

ROWS = [{"path": "a/1.png", "id": "007", "p": 0.25}, {"path": "b c/2.png", "id": "1e3", "p": 0.75}]
PLAIN = "path,id,p\na/1.png,007,.25\nb c/2.png,1e3,.75\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN, "utf-16"),
        (PLAIN, "utf-16-le"),
        (PLAIN, "utf-16-be"),
        (PLAIN.replace("\n", "\r\n"), "utf-16"),
        (PLAIN.replace("\n", "\r"), "utf-8"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        (PLAIN.replace(",", "|"), "utf-8"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace(",", ";").replace(".25", "0,25").replace(".75", "0,75"), "utf-8"),
        (PLAIN.replace(",", "\t").replace(".25", "0,25").replace(".75", "0,75"), "utf-16"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "utf-8"),
        ('"sep=,"\n' + PLAIN, "utf-8-sig"),
        ("\n\n,,\n" + PLAIN + "\n,,\n , ,\n", "utf-8"),
        (PLAIN.replace("\n", ",\n"), "utf-8"),
        (PLAIN.replace("png,", "png ,").replace(",", ", "), "utf-8"),
        ("path,id,p\na/1.png,007,.25,\nb c/2.png,1e3,.75,\n", "utf-8"),
        ("path,id,p,\na/1.png,007,.25\nb c/2.png,1e3,.75\n", "utf-8"),
        ("'path','id','p'\n'a/1.png','007',.25\n'b c/2.png','1e3',.75\n", "utf-8"),
        ("path,id,p\n'a/1.png','007',.25\n'b c/2.png','1e3',.75\n", "utf-8"),
        ('"path","id","p"\n"a/1.png","007",".25"\n"b c/2.png","1e3",".75"\n', "utf-8"),
        (",path,id,p\n0,a/1.png,007,.25\n1,b c/2.png,1e3,.75\n", "utf-8"),
    ],
)
def test_a_table_is_the_same_however_it_is_written(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    opened = open_separated(tmp_path / "a.csv")
    table = opened.read(opened.names, {"path": pa.string(), "id": pa.string()})
    assert table.select(["path", "id", "p"]).to_pylist() == ROWS
    assert pa.Table.from_batches(list(opened.batches(["p"]))).to_pylist() == [{"p": row["p"]} for row in ROWS]


def test_a_column_without_a_name_gets_that_of_pandas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",label,,x\na.png,cat,,1\n")
    assert open_separated(tmp_path / "a.csv").names == ["Unnamed: 0", "label", "x"]


def test_a_column_that_changes_its_kind_far_below_is_read(tmp_path: Path) -> None:
    rows = f"7,1,{'.' * 1000}\n" * 17_000  # the types are those of the first 16 MB
    (tmp_path / "a.csv").write_text(f"a,b,c\n{rows}x,0.5,\n")
    table = open_separated(tmp_path / "a.csv").read(["a", "b"])
    assert table.slice(len(table) - 2).to_pylist() == [{"a": "7", "b": 1.0}, {"a": "x", "b": 0.5}]


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["007", "12"], ["007", "12"]),
        ([" 007 ", ""], ["007", ""]),
        (['"00"', "1.5"], ["00", "1.5"]),
        (["12345678901234567890", "3"], ["12345678901234567890", "3"]),  # which a float64 would round
        (["1234567890123456789", "3"], [1234567890123456789, 3]),
        (["0", "10"], [0, 10]),
        (["0.50", "-01"], [0.5, -1]),
    ],
)
def test_digits_that_a_number_would_not_give_back_are_text(cells: list[str], read: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{cell},1\n" for cell in cells))
    assert open_separated(tmp_path / "a.csv").read([]).to_pydict() == {"a": read, "b": [1, 1]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n1,2\n3\n", r"a\.csv has 1 cell in line 4, and 2 in others: 3"),
        (b"a,b\n1,caf\xe9\n", r"a\.csv is not UTF-8 in column 'b' in line 2: save it as UTF-8"),
        (b"a,caf\xe9\n1,2\n", r"a\.csv is not UTF-8 in line 1: save it as UTF-8"),
        (b"a,a\n1,2\n", r"a\.csv has two columns named 'a': rename one"),
        (b"a,b\n1,2\n\0\0,2\n", r"a\.csv has a NUL byte in line 3: it is damaged, or no table in text"),
        (b"# made by us\na,b\n1,2\n", r"a\.csv begins with a comment, in line 1"),
        (b"PK\3\4\0\0", r"a\.csv is a ZIP file, as Excel's are: save the table as CSV"),
        ("a,b\n1,2\n".encode("utf-32"), r"a\.csv is UTF-32: save it as UTF-8"),
        (b"", r"cannot read .*a\.csv: Empty CSV file"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], r"cannot read .*a\.csv: .*truncated data"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        open_separated(tmp_path / "a.csv").read([])
    assert "\n" not in str(raised.value)


def test_lines_of_json_have_the_union_of_their_keys_and_keep_large_numbers(tmp_path: Path) -> None:
    hash_ = 2**64 - 5
    (tmp_path / "a.jsonl").write_text(f'\ufeff{{"a": 1}}\n\n{{"b": "x", "h": {hash_}}}\n{{"a": "y"}}\n', "utf-8")
    assert read_json_lines(tmp_path / "a.jsonl").to_pylist() == [
        {"a": "1", "b": None, "h": None},
        {"a": None, "b": "x", "h": hash_},
        {"a": "y", "b": None, "h": None},
    ]
    (tmp_path / "a.jsonl").write_text(f'{{"h": {hash_}}}\n{{"h": 3}}\n')
    assert read_json_lines(tmp_path / "a.jsonl").column("h").to_pylist() == [hash_, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', r"a\.jsonl is not UTF-8: save it as UTF-8 \(line 2\)"),
        (b'\n{"a": 1}\n null \n', r"a\.jsonl has null in line 3; expected an object"),
        (b"nullnull\n", r"cannot read .*a\.jsonl, line 1: Extra data"),
        (b'{"a": 1}\n{"a": \n', r"cannot read .*a\.jsonl, line 2: Expecting value"),
        (b'{"a": 1}\n{"b": 1, "b": 2}\n', r"cannot read .*a\.jsonl, line 2: an object has the key 'b' twice"),
        (b'{"a": 1}\n[2]\n', r"a\.jsonl has \[2\] in line 2; expected an object"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}\n", "more than 64 levels deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70 + b"\n", "more than 64 levels deep"),
    ],
)
def test_lines_of_json_that_cannot_be_read_are_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        read_json_lines(tmp_path / "a.jsonl")
    assert "\n" not in str(raised.value)

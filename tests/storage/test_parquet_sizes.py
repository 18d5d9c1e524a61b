"""Memory that columns of Parquet take, by hand; files of kilobytes that would take gigabytes are refused at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import ImportConfig, InferConfig, InputError, VisualizeConfig, import_predictions, infer, visualize
from predboard.errors import UnreadableError
from predboard.images import sources
from predboard.ingest import table_files
from predboard.storage.parquet_sizes import decoded_size
from tests import toy

TEXT = "x" * 1000


@pytest.mark.parametrize(
    ("column", "options", "size"),
    [
        (pa.array([TEXT] * 500), {}, 500_000),
        (pa.array([TEXT, None] * 250), {}, 250_000),
        (pa.array([TEXT] * 500).dictionary_encode(), {}, 500_000),
        (pa.array([{"bytes": TEXT.encode(), "path": ""}] * 500), {}, 500_000),
        (pa.array([[TEXT, TEXT], []] * 250), {}, 500_000),
        (pa.array([TEXT] * 500), {"column_encoding": {"a": "DELTA_BYTE_ARRAY"}, "use_dictionary": False}, 500_000),
        (pa.array([TEXT] * 500), {"use_dictionary": False}, 500_000),
        (pa.array([7] * 500), {}, 4000),
        (pa.array([[1.0] * 100] * 500, pa.list_(pa.float32(), 100)), {}, 200_000),
    ],
)
def test_values_that_repeat_are_counted_as_often(
    column: pa.Array, options: dict[str, Any], size: int, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"a": column, "b": [0] * 500}), tmp_path / "x.parquet", row_group_size=200, **options)
    with pq.ParquetFile(tmp_path / "x.parquet") as parquet:
        exact = decoded_size(tmp_path / "x.parquet", parquet, ["a"], size * 1.2)
        assert size <= exact <= size * 1.1
        assert decoded_size(tmp_path / "x.parquet", parquet, ["a"], size * 0.9) > size * 0.9
        assert size / 5 <= decoded_size(tmp_path / "x.parquet", parquet, ["a"], size * 1.2, [0]) <= size / 2


def bomb(column: str, rows: int = 1200, length: int = 10**6) -> pa.Table:
    """1.2 GB of text, or less, in a few kilobytes."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * length]))
    return pa.table({"image": [f"{i}.png" for i in range(rows)]} | {column: text})


@pytest.mark.parametrize("column", ["image", "note"])
def test_a_text_that_stands_for_many_rows_is_not_decoded(column: str, tmp_path: Path) -> None:
    table = bomb(column, length=10**4).append_column("logits", pa.array([[0.0, 1.0]] * 1200))
    pq.write_table(table.append_column("label", pa.array([1] * 1200)), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"x.parquet: it takes 0.0 GB of memory, more than --max-read-gb 0.01 allows"):
        import_predictions(ImportConfig("logits", (tmp_path / "x.parquet",), out=tmp_path / "run", max_read_gb=0.01))
    with pytest.raises(InputError, match=r"x.parquet: it takes 0.0 GB of memory, more than --max-read-gb 0.01 allows"):
        infer(
            InferConfig(
                model=toy.model_file(tmp_path), data=str(tmp_path / "x.parquet"), out=tmp_path / "run", max_read_gb=0.01
            )
        )
    assert pa.total_allocated_bytes() - before < 10**6


def test_a_picture_that_stands_for_many_rows_is_an_error_row(tmp_path: Path) -> None:
    picture = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1200, np.int32)), pa.array([b"\xff" * 10**4]))
    pq.write_table(pa.table({"image": picture}), tmp_path / "x.parquet", store_schema=False)
    before = pa.total_allocated_bytes()
    with pytest.raises(UnreadableError, match=r"0.0 GB of memory, more than --max-read-gb 0.01 allows"):
        sources.read(str(tmp_path), "x.parquet#7", 0.01)
    assert pa.total_allocated_bytes() - before < 10**6
    pq.write_table(pa.table({"image": picture.cast(pa.binary()).slice(0, 5)}), tmp_path / "y.parquet")
    assert sources.read(str(tmp_path), "y.parquet#3") == b"\xff" * 10**4


def test_rows_of_many_scores_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "_BATCH_BYTES", 2**20)
    scores = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(10**6, np.float32)), 1000)
    pq.write_table(pa.table({"logits": scores}), tmp_path / "x.parquet")
    batches = table_files.open_table(tmp_path / "x.parquet", 1).batches(["logits"], None)
    assert [len(batch) for batch in batches] == [262, 262, 262, 214]  # of 4,000 bytes a row


def test_predictions_of_others_with_a_text_that_stands_for_many_rows(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": [f"{i}.png" for i in range(1200)], "label": [1] * 1200, "logits": [[0.0, 1.0]] * 1200}),
        tmp_path / "x.parquet",
    )
    import_predictions(ImportConfig("logits", (tmp_path / "x.parquet",), out=tmp_path / "run", pictures=False))
    (part,) = tmp_path.glob("run/*/*.parquet")
    table = pq.ParquetFile(part).read()
    metadata = {k: v for k, v in pq.ParquetFile(part).metadata.metadata.items() if k != b"ARROW:schema"}
    pq.write_table(table.append_column("note", bomb("note")["note"]).replace_schema_metadata(metadata), part)
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match="8,192 rows of its column note take more than 1 GB of memory"):
        visualize(VisualizeConfig((tmp_path / "run",), logdir=tmp_path / "logs"))
    assert pa.total_allocated_bytes() - before < 10**7

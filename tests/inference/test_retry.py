"""Rows that failed are retried, and the others stay what they are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predboard import InferConfig, infer
from predboard.storage.inspection import inspect
from predboard.storage.runs import part_path
from tests import toy
from tests.inference.nets import read_frame
from tests.inference.worker_runs import ROWS, worker_config

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_retry_errors_retries_only_failed_rows_and_keeps_the_others_to_the_last_bit(place: Path) -> None:
    extra = ["a/002", "a/003", "b/000", "c/014"]  # in parts 0, 1, 5; b/007 (row 22) is broken in part 2
    good = {name: (place / "data" / f"{name}.png").read_bytes() for name in extra}
    for name in extra:
        (place / "data" / f"{name}.png").write_bytes(b"broken")
    options: dict[str, Any] = {"embeddings": True, "thumbnails": 8}
    infer(worker_config(place, **options))
    before = read_frame(place / "out")
    times = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}
    assert before.index[before["error"].notna()].tolist() == [2, 3, 15, 22, 44]
    assert infer(worker_config(place, **options)).written == 0
    for name in ("a/003", "b/000", "c/014"):
        (place / "data" / f"{name}.png").write_bytes(good[name])

    said: list[str] = []
    outcome = infer(worker_config(place, batch_size=2, retry_errors=True, **options), said.append)
    assert (outcome.complete, outcome.written, outcome.failed) == (True, 5, 2)
    assert "retrying 5 rows with an error" in said
    after = read_frame(place / "out")
    assert after.index[after["error"].notna()].tolist() == [2, 22]
    same = [i for i in range(ROWS) if i not in (3, 15, 44)]
    pd.testing.assert_frame_equal(after.loc[same], before.loc[same], check_exact=True, check_dtype=False)
    infer(worker_config(place, out=place / "fresh", **options))
    pd.testing.assert_frame_equal(after, read_frame(place / "fresh"), rtol=1e-3, atol=1e-3)
    now = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}
    assert [i for i in range(6) if now[f"part-0000{i}.parquet"] != times[f"part-0000{i}.parquet"]] == [0, 1, 5]
    assert inspect(place / "out").complete

    assert infer(worker_config(place, retry_errors=True, **options)).written == 2  # nothing new
    assert {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")} == now


def test_retry_errors_with_several_steps_and_row_groups(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for step in (1, 2):
        torch.manual_seed(step)
        files.append(place / f"toy_epoch{step}.pt")
        torch.save({"head.weight": torch.randn(3, 3), "head.bias": torch.randn(3)}, files[-1])
    monkeypatch.setattr("predboard.storage.parts.ROW_GROUP_MAX_ROWS", 3)
    options: dict[str, Any] = {"checkpoint": tuple(files)}
    infer(worker_config(place, checkpoint=tuple(files[:1])))
    (place / "data" / "b" / "008.png").write_bytes(b"broken")
    infer(worker_config(place, **options))
    toy.pictures(place / "other", each=ROWS // 3)
    for name in ("007", "008"):
        (place / "data" / "b" / f"{name}.png").write_bytes((place / "other" / "b" / f"{name}.png").read_bytes())
    kept = read_frame(place / "out", 1)
    outcome = infer(worker_config(place, retry_errors=True, **options))
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 0, 1 + 2)
    infer(worker_config(place, out=place / "fresh", **options))
    for step in (1, 2):
        pd.testing.assert_frame_equal(
            read_frame(place / "out", step), read_frame(place / "fresh", step), rtol=1e-5, atol=1e-6
        )
    others = [i for i in range(ROWS) if i != 22]
    pd.testing.assert_frame_equal(
        read_frame(place / "out", 1).loc[others], kept.loc[others], check_exact=True, check_dtype=False
    )


def test_retry_errors_makes_missing_parts_as_well(place: Path) -> None:
    infer(worker_config(place))
    part_path(place / "out", 0, 4).unlink()
    outcome = infer(worker_config(place, retry_errors=True))
    assert (outcome.complete, outcome.written) == (True, 8 + 1)


def test_columns_of_the_manifest_stay_when_rows_are_retried(tmp_path: Path) -> None:
    data = toy.sources(tmp_path / "pictures", 6)
    lines = [json.dumps({"path": f"pictures/{i:06d}.png", "sensor": f"s{i}", "cloud": i / 8}) for i in range(6)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    picture = (data / "000002.png").read_bytes()
    (data / "000002.png").unlink()
    options: dict[str, Any] = {"data": str(tmp_path / "list.jsonl"), "model": toy.model_file(tmp_path)}
    assert infer(InferConfig(**options, out=tmp_path / "out")).failed == 1
    (data / "000002.png").write_bytes(picture)
    assert infer(InferConfig(**options, out=tmp_path / "out", retry_errors=True)).failed == 0
    infer(InferConfig(**options, out=tmp_path / "fresh"))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)

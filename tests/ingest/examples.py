"""Saved predictions as other programs write them: one small set of rows, in every kind of file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import ImportConfig, InputError, import_predictions, open_predictions

NAMES = ("cat", "dog", "owl")
ROWS = 40


def make(rows: int = ROWS, classes: int = 3, seed: int = 0) -> tuple[Any, Any, list[str]]:
    """Return logits float32 [rows, classes], labels [rows] and image paths."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), label] += 1
    return logits, label, [f"{NAMES[c % 3]}/{i:03d}.png" for i, c in enumerate(label)]


def softmax(logits: Any) -> Any:
    p = np.exp(logits.astype(np.float64))
    return p / p.sum(axis=1, keepdims=True)


def run(folder: Path, *files: Path, **options: Any) -> pd.DataFrame:
    """Import the files and read the predictions back."""
    return run_logged(folder, *files, **options)[0]


def run_logged(folder: Path, *files: Path, **options: Any) -> tuple[pd.DataFrame, list[str]]:
    """Import the files. -> the predictions, and what was logged."""
    lines: list[str] = []
    out = folder / "out"
    import_predictions(ImportConfig(**{"files": files, "scores": "logits", "out": out, **options}), lines.append)
    return open_predictions(out).to_pandas(), lines


def logits_of(frame: pd.DataFrame) -> Any:
    return np.stack(frame["logits"].to_list())


def refused(words: str, folder: Path, *files: Path, **options: Any) -> None:
    """The import is refused in one line with these words, and writes nothing."""
    with pytest.raises(InputError, match=words) as raised:
        run(folder, *files, **options)
    assert "\n" not in str(raised.value)
    assert not list((folder / "out").rglob("*.parquet"))


# --- one writer for each kind of file ---


def save_torch(file: Path, value: Any) -> Path:
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    torch.save(value, file)
    return file


def tensors(*arrays: Any) -> list[Any]:
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    return [torch.from_numpy(array) for array in arrays]


def save_npz(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    np.savez(file, logits=logits, labels=label, files=np.array(image), embeddings=np.zeros((len(label), 7)))
    return file


def save_pt(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    z, y = tensors(logits, label)
    return save_torch(file, {"logits": z, "targets": y, "paths": image, "epoch": 3})


def save_pt_batches(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    z, y = tensors(logits, label)
    cuts = [(a, min(a + 16, len(image))) for a in range(0, len(image), 16)]
    return save_torch(file, [{"logits": z[a:b], "label": y[a:b], "path": image[a:b]} for a, b in cuts])


def frame_of(logits: Any, label: Any, image: list[str], kind: str) -> pd.DataFrame:
    """A table with one column per class (`wide`), or one column of lists or of arrays."""
    frame = pd.DataFrame({"path": image, "label": label, "country": ["NO", "SE"] * (len(image) // 2)})
    if kind == "wide":
        for c in reversed(range(logits.shape[1])):  # numbered columns are sorted by number
            frame[f"logit_{c}"] = logits[:, c]
    else:
        frame["logits"] = [row.tolist() for row in logits] if kind == "lists" else list(logits)
    return frame


def save_csv(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_csv(file, index=False)
    return file


def save_printed_arrays(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    with np.printoptions(threshold=sys.maxsize, linewidth=20, floatmode="unique"):
        frame_of(logits, label, image, "arrays").to_csv(file, index=False)
    assert len(file.read_text().splitlines()) > 2 * len(image)  # lines break inside the cells
    return file


def save_tsv(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "lists").to_csv(file, index=False, sep="\t")
    return file


def save_jsonl(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "lists").to_json(file, orient="records", lines=True, double_precision=15)
    return file


def save_json(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_json(file, orient="records", double_precision=15)
    return file


def save_parquet(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "lists").to_parquet(file)
    return file


def save_parquet_wide(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_parquet(file, row_group_size=7)
    return file


def save_parquet_fixed(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1])
    names = pa.array([NAMES[c] for c in label]).dictionary_encode()
    pq.write_table(pa.table({"scores": lists, "label": names, "image": image}), file, row_group_size=9)
    return file


Save = Callable[[Path, Any, Any, list[str]], Path]

KINDS: dict[str, tuple[str, Save, bool]] = {
    # kind                    file         writer               has the further column `country`
    "npz": ("a.npz", save_npz, False),
    "pt": ("a.pt", save_pt, False),
    "pt batches": ("a.pt", save_pt_batches, False),
    "csv": ("a.csv", save_csv, True),
    "csv of printed arrays": ("a.csv", save_printed_arrays, True),
    "tsv of lists": ("a.tsv", save_tsv, True),
    "jsonl": ("a.jsonl", save_jsonl, True),
    "json": ("a.json", save_json, True),
    "parquet": ("a.parquet", save_parquet, True),
    "parquet wide": ("a.parquet", save_parquet_wide, True),
    "parquet fixed": ("a.parquet", save_parquet_fixed, False),
}


def save_timm(folder: Path, kind: str, topk: int, index: bool, labels: bool, apart: bool, full: bool = True) -> Path:
    """What save_results of timm's inference.py writes, after its source."""
    logits, _, image = make()
    p = softmax(logits).astype(np.float32)
    order = np.argsort(-p, axis=1)[:, :topk] if topk else None
    shown = p if order is None else np.take_along_axis(p, order, axis=1)
    named = {
        "index": order if index else None,
        "label": np.array(NAMES, object)[order] if labels else None,
        "prob": shown,
    }
    data: dict[str, Any] = {"filename": image if full else [i.rpartition("/")[2] for i in image]}
    for name, values in named.items():
        if values is None:
            continue
        if apart and values.shape[1] > 1:
            data |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
        else:
            data[name] = list(values[:, 0] if values.shape[1] == 1 else values)
    frame = pd.DataFrame(data)
    if kind == "parquet":
        frame.set_index("filename").to_parquet(folder / "t.parquet")
        return folder / "t.parquet"
    if kind == "csv":
        with np.printoptions(threshold=sys.maxsize):
            frame.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    file = folder / "t.json"
    if kind == "json":
        frame.set_index("filename").to_json(file, indent=4, orient="index")
    elif kind == "json-split":
        frame.to_json(file, indent=4, orient="split", index=False)
    else:
        frame.to_json(file, lines=True, orient="records")
    return file

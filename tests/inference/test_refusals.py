"""What stage one refuses, and damage."""

import dataclasses
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from predboard import InferConfig, infer, open_predictions
from predboard.errors import InputError
from predboard.predictions.footer import encode_footer
from predboard.predictions.schema import digest_records
from predboard.storage.locks import lock_folder
from predboard.storage.parts import open_part
from predboard.storage.runs import part_path
from tests import toy
from tests.inference.nets import (
    NETS,
    make_config,
    modification_times,
    read_frame,
    save_checkpoints,
)

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"checkpoint": "other"}, r"another weights \([0-9a-f]{16}, now [0-9a-f]{16}\)"),
        ({"mean": (0.5,)}, r"another transform\.mean \(\[0\.0\], now \[0\.5\]\)"),
        ({"std": (2.0, 2.0, 1.0)}, r"another transform\.std \(\[1\.0\], now \[2\.0, 2\.0, 1\.0\]\)"),
        ({"resize": 8}, r"another transform\.resize \(None, now 8\)"),
        ({"crop": 8}, r"another transform\.crop \(None, now 8\)"),
        ({"interpolation": "nearest"}, r"another transform\.interpolation \(bilinear, now nearest\)"),
        ({"exif": "apply"}, r"another transform\.exif \(ignore, now apply\)"),
        ({"precision": "bf16"}, r"another precision \(fp32, now bf16\)"),
        ({"shard_size": 7}, r"another shard_size \(5, now 7\)"),
        ({"thumbnails": 4}, r"another thumbnails \(0, now 4\)"),
        ({"embeddings": True}, r"another embedding \(0, now 384\)"),
        ({"model_args": {"side": 8}}, r"another model_args\.side \(not given, now 8\)"),
    ],
)
def test_what_differs_from_an_existing_step_is_named(
    tmp_path: Path, net: str, change: dict[str, Any], named: str
) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net, (1, 2))
    infer(make_config(tmp_path, net, checkpoint=files[:1], step=(5,), shard_size=5))
    before = modification_times(tmp_path / "out")
    if "checkpoint" in change:
        change = {"checkpoint": files[1:]}
    options = {"checkpoint": files[:1], "step": (5,), "shard_size": 5, **change}
    with pytest.raises(
        InputError, match=rf"step 5 was made with {named}: name another --out, or .* --overwrite"
    ) as raised:
        infer(make_config(tmp_path, net, **options))
    assert "\n" not in str(raised.value)
    assert modification_times(tmp_path / "out") == before
    assert infer(make_config(tmp_path, net, **options, overwrite=True)).complete


def test_other_class_names_and_other_code_are_named(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data")
    infer(make_config(tmp_path, net))
    (data / "c").rename(data / "d")
    with pytest.raises(InputError, match=r"another classes \(c, now d\)"):
        infer(make_config(tmp_path, net))
    (data / "d").rename(data / "c")
    (tmp_path / "net.py").write_text(NETS.replace("0.5)", "0.25)"))
    with pytest.raises(InputError, match=r"another code \([0-9a-f]{16}, now [0-9a-f]{16}\)"):
        infer(make_config(tmp_path, net))


@pytest.mark.parametrize("classes", [2, 4])
def test_class_folders_that_do_not_fit_the_outputs_are_named(tmp_path: Path, net: str, classes: int) -> None:
    toy.pictures(tmp_path / "data", classes=classes)
    with pytest.raises(InputError, match=rf"has {classes} classes \(a, b.*\), the model gives 3 outputs"):
        infer(make_config(tmp_path, net))
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_made_again(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=6)
    config = make_config(tmp_path, net, shard_size=4)
    infer(config)
    expected = read_frame(tmp_path / "out")
    whole = {i: part_path(tmp_path / "out", 0, i) for i in range(5)}
    raw = bytearray(whole[1].read_bytes())
    raw[-9] ^= 1  # the end of the footer
    whole[1].write_bytes(raw)
    with pq.ParquetFile(whole[3]) as file:
        chunk = file.metadata.row_group(0).column(4)
    raw = bytearray(whole[3].read_bytes())
    raw[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1  # the logits
    whole[3].write_bytes(raw)
    whole[4].write_bytes(b"")
    before = modification_times(tmp_path / "out")
    said: list[str] = []
    outcome = infer(config, said.append)
    assert outcome.written == 4 + 4 + 2
    assert sum(line.endswith("making it again") for line in said) == 3
    assert all(any(f"part-0000{i}.parquet is damaged" in line for line in said) for i in (1, 3, 4))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), expected, rtol=1e-5, atol=1e-6)
    after = modification_times(tmp_path / "out")
    assert [name for name in sorted(after) if after[name] == before[name]] == [sorted(after)[0], sorted(after)[2]]


def test_parts_of_a_newer_format_and_of_other_programs_are_refused_and_kept(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    infer(make_config(tmp_path, net))
    path = part_path(tmp_path / "out", 0, 0)
    with pq.ParquetFile(path) as file:
        table = file.read()
    opened = open_part(path)
    run, part = {**opened.run.record(), "format": 3, "new": [1]}, dataclasses.asdict(opened.part)
    records = {**encode_footer(opened.run, opened.part), "predboard.digest": digest_records(run, part)}
    records["predboard.run"] = records["predboard.run"].replace('"format":1', '"format":3,"new":[1]')
    pq.write_table(table.replace_schema_metadata(records), path)
    newer = path.read_bytes()
    for read in (lambda: infer(make_config(tmp_path, net)), lambda: open_predictions(tmp_path / "out")):
        with pytest.raises(
            InputError, match=r"part-00000\.parquet has format 3, but this predboard reads formats up to 2: upgrade"
        ):
            read()
    assert path.read_bytes() == newer
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(InputError, match=r"part-00000\.parquet contains no predictions"):
        infer(make_config(tmp_path, net))
    assert infer(make_config(tmp_path, net, overwrite=True)).complete


def test_a_run_that_another_process_writes_is_refused(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with lock_folder(tmp_path / "out"), pytest.raises(InputError, match="another process is writing to"):
        infer(make_config(tmp_path, net))
    assert infer(make_config(tmp_path, net)).complete


def test_an_unwritable_output_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "file").write_text("in the way")
    before = set(threading.enumerate())
    with pytest.raises(InputError, match=r"cannot write to .*file/out: Not a directory"):
        infer(make_config(tmp_path, net, out=tmp_path / "file" / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "step=00000000").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write to .*step=00000000: File exists"):
        infer(make_config(tmp_path, net))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "predboard"]


def test_an_interrupted_pass_leaves_whole_parts_and_can_go_on(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    fails = net.replace(":Net", ":Fails")
    with pytest.raises(MemoryError, match="enough"):
        infer(make_config(tmp_path, fails, out=tmp_path / "one part", model_args={"at": 18}, batch_size=3, preflight=0))
    assert [p.name for p in (tmp_path / "one part").rglob("*") if p.is_file() and p.name != ".lock"] == []
    options: dict[str, Any] = {"batch_size": 3, "shard_size": 6, "preflight": 0}
    infer(make_config(tmp_path, fails, out=tmp_path / "whole", model_args={"at": -1}, **options))
    with pytest.raises(MemoryError, match="enough"):
        infer(make_config(tmp_path, fails, model_args={"at": 18}, **options))  # at rows 48 to 50, after the trial
    parts = modification_times(tmp_path / "out")
    assert 5 <= len(parts) <= 8  # of 10; writing may be four batches behind
    assert list((tmp_path / "out").rglob("*.tmp")) == []
    assert open_predictions(tmp_path / "out").step.missing == ((6 * len(parts), 60),)
    with pytest.raises(InputError, match=r"another model_args\.at \(18, now -1\)"):
        infer(make_config(tmp_path, fails, model_args={"at": -1}, **options))
    outcome = infer(make_config(tmp_path, fails, model_args={"at": 1000}, overwrite=True, **options))
    assert outcome.complete
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0; expected a whole number of at least 1"),
        ({"workers": -1}, "--workers is -1"),
        ({"workers": 2**31}, "--workers is 2,147,483,648; expected at most 1,024"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"thumbnails": -1}, "--thumbnails is -1"),
        ({"resize": 0}, "--resize is 0"),
        ({"resize": (8, 0)}, "--resize is 0"),
        ({"crop": 0}, "--crop is 0"),
        ({"mean": (0.1, 0.2)}, "--mean has 2 numbers; expected 1 or 3 for rgb"),
        ({"mean": ()}, "--mean has 0 numbers"),
        ({"std": (1.0, 1.0, 1.0), "channels": "gray"}, "--std has 3 numbers; expected 1 or 1 for gray"),
        ({"std": (0.0,)}, "--std is 0.0; expected numbers above 0"),
        ({"std": (1.0, -1.0, 1.0)}, "--std is 1.0,-1.0,1.0; expected numbers above 0"),
        ({"mean": (float("nan"),)}, "--mean is nan; expected finite numbers"),
        ({"std": (float("inf"),)}, "--std is inf; expected finite numbers"),
        ({"step": (1, 2)}, "--step has 2 numbers for 0 checkpoints"),
        ({"step": (1,), "checkpoint": (Path("a"), Path("b"))}, "--step has 1 numbers for 2 checkpoints"),
        ({"step": (-1,)}, "--step is -1"),
        ({"update": True, "overwrite": True}, "--update and --overwrite exclude each other"),
        ({"model_args": {"a": {1, 2}}}, "--model-args a is {1, 2}; expected text, a number"),
        ({"model_args": {"a": [b"x"]}}, "--model-args a is"),
        ({"model_args": {"a": {"b": {1: 2}}}}, "--model-args a is"),
    ],
)
def test_impossible_values_of_flags_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        InferConfig(**{"data": "d", "model": "m.py:f", **options})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_arguments_of_any_plain_kind_are_recorded(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\ndef build(**options):\n    return Net()\n")
    arguments = {"a": (1, 2), "b": {"c": None, "d": [True, 1.5]}, "e": "text", "f": {}}
    config = make_config(tmp_path, net.replace(":Net", ":build"), model_args=arguments)
    infer(config)
    recorded = dict(open_predictions(tmp_path / "out").run.model_args)
    assert recorded == {**arguments, "a": [1, 2]}
    assert infer(config).written == 0


@pytest.mark.parametrize("out", ["data", "data/predictions", "data/a/../new"])
def test_predictions_inside_the_data_would_become_a_class(tmp_path: Path, net: str, out: str) -> None:
    toy.pictures(tmp_path / "data")
    with pytest.raises(InputError, match=r"predictions in .* would be inside .*data, and become a class of its images"):
        infer(make_config(tmp_path, net, out=tmp_path / out))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a", "b", "c"]


def test_a_quoted_pattern_names_checkpoints(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    save_checkpoints(tmp_path, net, (1, 2))
    pattern = tmp_path / "toy_epoch*.pt"
    assert sorted(infer(make_config(tmp_path, net, checkpoint=(pattern,))).steps) == [1, 2]
    done = infer(make_config(tmp_path, net, checkpoint=(pattern,), step=(5, 6), out=tmp_path / "other"))
    assert sorted(done.steps) == [5, 6]
    with pytest.raises(InputError, match=r"--step has 1 numbers for 2 checkpoints; expected one for each"):
        infer(make_config(tmp_path, net, checkpoint=(pattern,), step=(5,)))


def test_a_colon_in_the_name_of_predictions_is_no_uri(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert infer(make_config(tmp_path, net, out=Path("run:1"))).complete
    assert len(read_frame(Path("run:1"))) == 12


def _forward(code: str) -> str:
    start = "class Own(Exception): pass\nclass Odd(nn.Module):\n    n = 0\n    def forward(self, x):\n"
    return f"{start}        Odd.n += 1; {code}"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (_forward("raise Own('mine')"), "Own: mine; see --resize"),
        (_forward("raise SystemExit(0)"), "SystemExit: 0; see --resize"),  # which would look like success
        (_forward("import no_such"), "ModuleNotFoundError: No module named 'no_such'"),
        (_forward("return x.flatten(1)[:, :2].to_sparse()"), "layout torch.sparse_coo"),
        (_forward("return x.flatten(1)[:, : 2 if Odd.n < 5 else 1]"), "returned 1 scores for an image; expected 2 as"),
        (_forward("return x.flatten(1)[:, : 2 if Odd.n < 3 else 3]"), "returned 3 scores for an image; expected 2 as"),
        ("class Odd(nn.Module):\n    def to(self, *a, **k): raise OSError('no')", "on cpu in eval mode: OSError: no"),
        ("def Odd(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))", "whose 1.weight has no values yet"),
        ("def Odd(): return nn.Linear(2, 2, device='meta')", "whose weight has no values yet"),
    ],
)
def test_a_model_of_odd_code_is_one_line_and_leaves_nothing(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "odd.py").write_text(f"from torch import nn\n{code}\n")
    photos, model = str(toy.pictures(tmp_path / "photos", 2, 16)), f"{tmp_path / 'odd.py'}:Odd"
    with pytest.raises(InputError) as refused:
        infer(InferConfig(photos, model, out=tmp_path / "out", batch_size=4, preflight=0))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("out/step=*/*"))

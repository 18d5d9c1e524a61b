"""A smaller run of what a query asks for: the rows that pandas selects, with every value as it was."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import predboard
from predboard import InputError
from predboard.cli import main
from predboard.composition.take import take
from predboard.config import TakeConfig
from predboard.storage.inspection import inspect
from tests import toy
from tests.comparison.test_join import names, step
from tests.composition.test_merge import read, same


@pytest.fixture
def run(tmp_path: Path) -> Path:
    countries = pa.record_batch({"country": ["NO", "SE", "DK", None] * 50, "cloud": np.arange(200) / 200})
    step(tmp_path / "run", names(200), further=countries, shard_size=60)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({"where": "country=NO"}, "country == 'NO'"),
        ({"where": "country=NO,country=SE,cloud=0.5..0.8"}, "country in ('NO', 'SE') and 0.5 <= cloud <= 0.8"),
        ({"wrong": True}, "predicted != label"),
        ({"right": True, "confidence": ".3.."}, "predicted == label and confidence >= 0.3"),
        ({"true": ("class1", "3")}, "label in (1, 3)"),
        ({"text": "0001"}, "image.str.contains('0001')"),
        ({}, "id >= 0"),
    ],
    ids=str,
)
def test_the_rows_are_those_of_pandas(tmp_path: Path, run: Path, query: dict[str, object], asked: str) -> None:
    result = take(TakeConfig(predictions=run, out=tmp_path / "t", **query))  # type: ignore[arg-type]  # by name
    taken, expected = read(tmp_path / "t"), read(run).query(asked)
    assert 0 < result.rows == len(expected)
    same(taken, expected)
    assert taken["id"].tolist() == list(range(len(expected)))
    assert inspect(tmp_path / "t").complete


def test_all_steps_get_the_images_that_the_last_one_is_asked_for(tmp_path: Path) -> None:
    for number in (1, 2):
        own = dataclasses.replace(toy.RUN, step=number)
        toy.write_run(tmp_path / "run", toy.table(own, 100, seed=number)[0], toy.table(own, 100)[1], own)
    take(TakeConfig(predictions=tmp_path / "run", out=tmp_path / "t", wrong=True))
    steps = {s: predboard.open_predictions(tmp_path / "t", step=s).to_pandas() for s in (1, 2)}
    before = {s: predboard.open_predictions(tmp_path / "run", step=s).to_pandas() for s in (1, 2)}
    wrong = before[2]["predicted"] != before[2]["label"]
    for number in (1, 2):
        same(steps[number], before[number][wrong])
    take(TakeConfig(predictions=Path(f"{tmp_path / 'run'}@1"), out=tmp_path / "one", wrong=True))
    assert read(tmp_path / "one")["image"].tolist() == before[1].query("predicted != label")["image"].tolist()


def test_a_limit_takes_the_same_images_whatever_was_inserted(tmp_path: Path, run: Path) -> None:
    take(TakeConfig(predictions=run, out=tmp_path / "t", limit=20))
    few = read(tmp_path / "t")
    assert len(few) == 20
    assert few["image"].is_monotonic_increasing
    take(TakeConfig(predictions=run, out=tmp_path / "more", limit=40))
    assert set(few["image"]) < set(read(tmp_path / "more")["image"])


def test_labels_and_columns_from_files_are_in_the_new_run(tmp_path: Path, run: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n00000.png,class9\n")
    pd.DataFrame({"path": names(200), "season": ["winter", "summer"] * 100}).to_csv(tmp_path / "more.csv", index=False)
    flags = [
        "--labels",
        str(tmp_path / "labels.csv"),
        "--columns",
        str(tmp_path / "more.csv"),
        "--where",
        "season=winter",
    ]
    assert main.run(["take", str(run), *flags, "--out", str(tmp_path / "t")]) == 0
    taken = read(tmp_path / "t")
    assert (len(taken), set(taken["season"]), taken["label"][0]) == (100, {"winter"}, 9)
    z = np.stack(taken["logits"].tolist()).astype(np.float64)
    assert taken["loss"][0] == pytest.approx(np.log(np.exp(z[0]).sum()) - z[0, 9], rel=1e-6)
    assert inspect(tmp_path / "t").complete
    (tmp_path / "labels.csv").write_text("path,label\n00000.png,class8\n")
    with pytest.raises(InputError, match="was made of other rows, or these have changed since"):
        take(
            TakeConfig(
                predictions=run,
                out=tmp_path / "t",
                labels=tmp_path / "labels.csv",
                columns=tmp_path / "more.csv",
                where=("season=winter",),
            )
        )


def test_what_cannot_be_taken_is_one_line(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "t")]
    for arguments, message in (
        ([str(run), "--where", "country=NN", *out], "no image has that country; expected"),
        ([str(run), "--where", "land=NO", *out], "there is no column 'land'"),
        ([str(run), "--true", "clas1", *out], "none of the 10 classes; did you mean class1?"),
        ([str(run), "--text", "nowhere", *out], "nothing to take"),
        ([str(run)], "where to? For example: --out predictions/new"),
        ([str(run), "--out", str(run)], "is one of the runs"),
        ([str(run), "--right", "--wrong", *out], "exclude each other"),
        (out, "which predictions?"),
    ):
        assert main.run(["take", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_parts_of_a_run_are_the_run_again(tmp_path: Path, run: Path) -> None:
    for name in ("NO", "SE"):
        take(TakeConfig(predictions=run, out=tmp_path / name, where=(f"country={name}",)))
    assert main.run(["merge", str(tmp_path / "NO"), str(tmp_path / "SE"), "--out", str(tmp_path / "m")]) == 0
    expected = read(run)
    same(read(tmp_path / "m"), pd.concat([expected.query("country == 'NO'"), expected.query("country == 'SE'")]))


def test_steps_of_other_images_or_orders_are_refused(tmp_path: Path) -> None:
    def name(last: int, i: int) -> str:
        return f"{abs(last - i)}.png"

    for number, last in ((1, 0), (2, 49)):
        own = dataclasses.replace(toy.RUN, step=number)
        toy.write_run(tmp_path / "parts", *toy.table(own, 50), own, 20 * number)
        toy.write_run(tmp_path / "run", *toy.table(own, 50), own, name=functools.partial(name, last))
    with pytest.raises(InputError, match=r"^steps 1 and 2 of .* in different orders: name one step, as .*run@2$"):
        take(TakeConfig(predictions=tmp_path / "run", out=tmp_path / "t", wrong=True))
    assert not (tmp_path / "t").exists()
    assert set(take(TakeConfig(predictions=tmp_path / "parts", out=tmp_path / "t", wrong=True)).steps) == {1, 2}


def test_a_program_takes_by_options_or_by_a_configuration(tmp_path: Path, run: Path) -> None:
    expected = read(run).query("country == 'NO' and label in (1, 3)")
    result = predboard.take(str(run), out=str(tmp_path / "t"), where="country=NO", true=["class1", "3"])
    assert 0 < result.written == len(expected)
    same(read(tmp_path / "t"), expected)
    config = predboard.TakeConfig(run, tmp_path / "t", where=("country=NO",), true=("class1", "3"))
    lines: list[str] = []
    assert predboard.take(config, lines.append).written == 0
    assert lines[0] == f"{len(expected)} of 200 images"
    with pytest.raises(InputError, match="take has no option 'wher'; did you mean 'where'"):
        predboard.take(run, out=tmp_path / "u", wher="country=NO")
    with pytest.raises(InputError, match="right=True and wrong=True exclude each other"):
        predboard.take(run, out=tmp_path / "u", right=True, wrong=True)

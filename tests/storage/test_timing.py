"""Where the time went, in words."""

from pathlib import Path

import pytest

from predboard.predictions.digests import digest_manifest
from predboard.predictions.schema import Part
from predboard.storage import timing
from predboard.storage.inspection import inspect
from predboard.storage.parts import PartWriter
from predboard.storage.runs import part_path
from tests import toy


def test_seconds_are_added_by_name() -> None:
    assert timing.add_seconds({"wait": 1.0, "write": 2.0}, {"wait": 0.5, "decode": 4.0}) == {
        "wait": 1.5,
        "write": 2.0,
        "decode": 4.0,
    }


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (
            {"wait": 1.0, "transfer": 1.0, "forward": 8.0, "behind": 0.0, "decode": 9.0, "write": 9.0},
            "waiting for images 10%, transfer 10%, model 80%, waiting for the writer 0%; limited by the model",
        ),
        (  # of part files, which do not know what waited for the writer: it took 6 s more than the rest
            {"wait": 1.0, "transfer": 1.0, "forward": 2.0, "decode": 1.0, "write": 10.0},
            "waiting for images 10%, transfer 10%, model 20%, waiting for the writer 60%; limited by writing",
        ),
        (  # of part files that know no transfer either
            {"wait": 6.0, "forward": 4.0, "decode": 12.0, "write": 1.0},
            "waiting for images 60%, transfer 0%, model 40%, waiting for the writer 0%; limited by decoding on 2",
        ),
    ],
)
def test_the_largest_share_is_what_the_run_is_bound_by(seconds: dict[str, float], said: str) -> None:
    assert timing.describe_seconds(seconds, 2).startswith(said)


def test_too_little_time_says_nothing() -> None:
    assert timing.describe_seconds({"wait": 0.5, "forward": 1.0}, 2) == ""
    assert timing.describe_seconds({}, 2) == ""


def test_inspect_says_what_a_run_was_bound_by(tmp_path: Path) -> None:
    writer = PartWriter(part_path(tmp_path, 0, 0), toy.RUN)
    rows = toy.predictions(toy.RUN, *toy.table(toy.RUN, 20))
    writer.write(rows)
    spent = {"decode": 15.0, "wait": 7.0, "transfer": 1.0, "forward": 2.0, "write": 0.5}
    writer.publish(
        Part(0, 20, digest_manifest(rows.column("image"), rows.label), 20, "", seconds=spent, provenance={"threads": 3})
    )
    lines = inspect(tmp_path).lines()
    assert "seconds: decode 15.0, transfer 1.0, forward 2.0, write 0.5, wait 7.0" in lines
    (line,) = [line for line in lines if "limited by" in line]
    assert line.startswith("waiting for images 70%, transfer 10%, model 20%")
    assert "limited by decoding on 3 threads: try --workers" in line

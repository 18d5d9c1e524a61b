"""Where images lie on the map depends on no split of their rows into parts and batches, and on no order."""

import functools
import itertools
from pathlib import Path

import numpy as np

from predboard.predictions.schema import Run
from predboard.state import merge
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run
from predboard.visualization.image_map import ImageMap
from tests import toy

ROWS = 64


def test_places_are_the_same_in_any_parts_batches_and_order(tmp_path: Path) -> None:
    run = Run(classes=tuple(f"c{i}" for i in range(7)), model="net.py:build")
    logits, label = toy.table(run, ROWS)
    written = []
    for shard in (64, 16):
        toy.write_run(tmp_path / f"{shard}", logits, label, run, shard, failed=frozenset({3}))
        (step,) = open_run(tmp_path / f"{shard}")
        placing = ImageMap.by_components(open_run(tmp_path / "64")[0], 1)
        for most_rows in (None, 5):
            batches = [
                batch for part in step.parts for batch in read_batches(part, placing.columns, most_rows=most_rows)
            ]
            assert sum(map(len, batches)) == ROWS
            states = [placing.zero(run), *(placing.measure(run, batch) for batch in batches)]
            for order in (states, states[::-1]):
                placing.write(tmp_path / "map", functools.reduce(merge, order))
                written.append((tmp_path / "map").read_bytes())
            places = functools.reduce(merge, states).batches.states.values()
            place = np.concatenate([batch.place for batch in places])
            assert np.isnan(place[3]).all()
            centred = logits.astype(float) - logits.mean(axis=1, keepdims=True, dtype=float)
            np.testing.assert_allclose(
                np.delete(place, 3, 0), np.delete(centred @ placing.axes.T - placing.origin, 3, 0)
            )
    assert all(a == b for a, b in itertools.pairwise(written))

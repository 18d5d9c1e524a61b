"""Chooses images to follow over the steps. It knows no panel and no labels, only what was right."""

from collections.abc import Mapping

import numpy as np

from predboard.predictions.table import TileRows
from predboard.state import Lowest


def follow(samples: Mapping[int, Lowest], count: int) -> dict[int, TileRows]:
    """Choose images to follow over the steps.

    A third were right once and are wrong at the last step (forgotten), a third were never right, and a third became
    right late; if there are too few of one kind, the others fill its room. Within a kind, those with the highest loss
    at the last step come first.

    Args:
        samples: rows by step, the same images at each.
        count: how many images.

    Returns:
        The same images by step, in one order; nothing if fewer than two steps have rows.
    """
    steps = {step: sample.rows for step, sample in samples.items() if len(sample.rows["id"])}
    if len(steps) < 2:
        return {}
    place = {
        step: {at: i for i, at in enumerate(zip(rows["key"].tolist(), rows["id"].tolist(), strict=True))}
        for step, rows in steps.items()
    }
    everywhere = sorted(set.intersection(*(set(of_step) for of_step in place.values())))
    kinds: dict[str, list[tuple[float, tuple[int, int]]]] = {"forgotten": [], "never": [], "late": []}
    for at in everywhere:
        right = [bool(rows["right"][place[s][at]] == 1) for s, rows in steps.items()]
        last = max(steps)
        loss = float(np.nan_to_num(steps[last]["loss"][place[last][at]]))
        if right[-1]:
            wrong_for = len(right) - right[::-1].index(False) if False in right else 0
            kinds["late"].append((-float(wrong_for), at))
        else:
            kinds["forgotten" if True in right else "never"].append((-loss, at))
    ranked = [[at for _, at in sorted(kind)] for kind in kinds.values()]
    chosen = [at for kind in ranked for at in kind[: count // 3]]
    rest = [at for kind in ranked for at in kind[count // 3 :]]
    chosen = (chosen + rest)[:count]
    if not chosen:
        return {}
    return {
        step: {name: column[[place[step][at] for at in chosen]] for name, column in rows.items()}
        for step, rows in steps.items()
    }

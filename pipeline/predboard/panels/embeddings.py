"""Shows images as points, close together where the model sees them as similar. It knows no counts and no pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from predboard.panels import EVERY_TASK, RunInfo
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TILE_COLUMNS, Predictions
from predboard.predictions.tasks import no_tile_rows
from predboard.predictions.tile_labels import name_labels
from predboard.state import Lowest
from predboard.summaries import Projector, Summary


@dataclass(frozen=True)
class State:
    """The sampled rows, each with its vector, `vector` [rows, dims]."""

    points: Lowest


@dataclass(frozen=True)
class Panel:
    """Projector: up to 5,000 images as points by their embeddings (else logits), with thumbnails, coloured by class."""

    most: int = 5000
    """Most points: as many as TensorBoard's UMAP accepts."""
    values: int = 4_000_000
    """Most numbers in all vectors together, so that the browser receives 16 MB at most."""
    columns: frozenset[str] = TILE_COLUMNS | {"embedding"}
    last_step_only: bool = True
    tasks: frozenset[str] = EVERY_TASK

    def _count(self, run: Run) -> int:
        return min(self.most, self.values // (run.embedding or len(run.classes)))

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        vector = np.zeros((0, run.embedding or len(run.classes)), np.float32)
        rows = {**no_tile_rows(run), "vector": vector}
        return State(Lowest(self._count(run), np.zeros(0, np.int64), np.zeros(0), rows))

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        scored = batch.scored
        count = self._count(run)
        score = mix(scored.key, Salt.EMBEDDINGS).view(np.uint64).astype(np.float64)  # in the order of `sample_mask`
        # A few more than needed are drawn, so that the lowest are certainly among them.
        among = np.flatnonzero(scored.sample_mask(count + count // 8 + 100, Salt.EMBEDDINGS))
        group = np.zeros(len(among), np.int64)
        stay = among[Lowest.choose(count, group, score[among], scored.key[among], scored.id[among])]
        vector = (scored.embedding if run.embedding else scored.logits)[stay]
        return State(Lowest(count, group[: len(stay)], score[stay], {**scored.tile_rows(stay), "vector": vector}))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield the points of the last step."""
        last = max(states)
        rows = states[last].points.rows
        if len(rows["id"]) < 2:
            return
        true, predicted = name_labels(rows, info.run.classes)
        metadata = {
            "true": [text or "unknown" for text in true],
            "predicted": predicted,
            "verdict": [("wrong", "right", "no label")[verdict] for verdict in rows["right"].tolist()],
            "confidence": [f"{c:.4f}" for c in rows["confidence"].tolist()],
            "row": [str(i) for i in rows["id"].tolist()],
            "image": [str(ref or "") for ref in rows["image"]],
        }
        what = "embeddings" if info.run.embedding else "logits"
        yield last, Projector(f"{what} at step {last}", rows["vector"], metadata, rows)

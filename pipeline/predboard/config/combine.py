"""Define the flags of `predboard combine`. It knows nothing of how they work."""

import math
from dataclasses import dataclass, field
from typing import Literal

from predboard.config.checks import POSITIONAL, check_steps
from predboard.config.fields import Config
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class CombineConfig(Config):
    """Average the scores of several runs, or steps of one, into a new run: an ensemble, without inference."""

    predictions: tuple[AnyPath, ...] = field(default=(), metadata=POSITIONAL)
    """Folders that `predboard infer` wrote, each as FOLDER for its last step or as FOLDER@STEP. Images are joined by
    key; one that is not in all of them becomes a failed row."""

    out: AnyPath | None = None
    """Folder for the new predictions."""

    weights: tuple[float, ...] = ()
    """How much each run counts. Default: all the same."""

    by: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged. The mean of probabilities is stored as its logarithm; the mean of logits is the normalised
    geometric mean of the probabilities."""

    step: int | None = None
    """Number of the new step. Default: the highest of the steps that are combined."""

    map_classes: bool = False
    """Match classes by name when runs list different classes, or in a different order. A class that a run does not have
    has probability 0 there."""

    overwrite: bool = False
    """Replace the step in --out if it was made of other predictions."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        if self.step is not None:
            check_steps((self.step,))
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise InputError(f"--weights is {','.join(f'{w:g}' for w in self.weights)}; expected numbers above 0")

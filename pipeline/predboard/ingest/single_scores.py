"""Turn rows with one score, of the positive one of two classes, into rows with a score for each. It knows no files.

A model with a single output, or a table with one column of probabilities, has no other. Which class the score speaks
for is what --positive says, else the class that the column is named after, else the second.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import numpy as np

from predboard.config import ImportedKind
from predboard.images.label_values import RawLabels
from predboard.ingest.columns import only_highest
from predboard.ingest.saved_scores import SavedScores
from predboard.ingest.validation import ScoreArray
from predboard.predictions.positive_class import choose_positive

_WORD = re.compile(r"[^\W_]+")
_NEGATIONS = ["no"], ["non"], ["not"], ["without"]
"""Words before the name of a class that make its opposite of it."""


@dataclass(frozen=True)
class Positive:
    """The positive class, and where that is known from."""

    classes: tuple[str, ...]
    recorded: str = ""
    """`Run.positive`: empty for the second of two classes, and with any other number of them."""
    source: str = "the second class"
    assumed: bool = True
    """Whether nothing says so."""

    @property
    def name(self) -> str:
        """The positive one of two classes."""
        return self.recorded or self.classes[1]

    @property
    def sentence(self) -> str:
        """Say which class a single score speaks for, and how to change that."""
        other = next(c for c in self.classes if c != self.name)
        change = f"; if it speaks for {other}: --positive {quote(other)}" if self.assumed else ""
        return f"the score speaks for {self.name} ({self.source}){change}"


def count_classes(saved: SavedScores, named: Sequence[str], labels: RawLabels, file: Path) -> int:
    """Return how many classes rows with one score have: two where two are named or labelled, else one.

    Args:
        saved: the rows.
        named: the classes, as far as anything names them.
        labels: [rows] names, indices or -1.
        file: for a message.

    Raises InputError if it is not two, and the scores are a column and no array of [rows, 1].
    """
    names = set(named) or {value for value in labels if isinstance(value, str)}
    indices = {value for value in labels if not isinstance(value, str) and value >= 0}
    if len(names) == 2 or (not names and indices == {0, 1}):
        return 2
    if saved.is_flat:
        raise only_highest(file, f"one number per row, in {saved.used[0] or 'the array'!r}")
    return 1


def with_both(
    saved: SavedScores, kind: ImportedKind, asked: str | None, classes: tuple[str, ...]
) -> tuple[SavedScores, Positive]:
    """Return the rows with a score for each class, in their order, and the positive class.

    Args:
        saved: the rows.
        kind: of the scores.
        asked: the class that --positive names.
        classes: of the rows.

    Raises InputError if --positive names another than two classes.
    """
    if not saved.is_single or len(classes) != 2:
        positive = Positive(classes, choose_positive(classes, asked))
        return replace(saved, classes=len(classes), is_single=False).ordered(classes), positive
    positive = find_positive(asked, classes, saved.used[0])
    return spread(saved, kind, classes.index(positive.name)), positive


def find_positive(asked: str | None, classes: tuple[str, ...], column: str) -> Positive:
    """Return the class that the only column of scores speaks for.

    Raises InputError if --positive names another than the two classes.

    >>> find_positive(None, ("cat", "dog"), "prob_cat").sentence
    "the score speaks for cat (the name of the column 'prob_cat')"
    """
    if asked is not None:
        return Positive(classes, choose_positive(classes, asked), "--positive", assumed=False)
    if (named := _named_after(column, classes)) is not None:
        recorded = choose_positive(classes, named)
        return Positive(classes, recorded, f"the name of the column {column!r}", assumed=False)
    return Positive(classes)


def _named_after(column: str, classes: Sequence[str]) -> str | None:
    """Return the class in whose name, of one word or several, that of a column ends; None if that is not clear.

    >>> _named_after("prob_not_dog", ("dog", "not_dog")), _named_after("p(Red Ant)", ("ant", "red_ant"))
    ('not_dog', 'red_ant')
    >>> _named_after("prob_not_spam", ("ham", "spam")), _named_after("score", ("ham", "spam"))
    (None, None)
    """
    words = _WORD.findall(column.casefold())
    of_class = {name: _WORD.findall(name.casefold()) for name in classes}
    ending = [name for name, end in of_class.items() if end and words[-len(end) :] == end]
    longest = max((len(of_class[name]) for name in ending), default=0)
    meant = [name for name in ending if len(of_class[name]) == longest]
    is_clear = len(meant) == 1 and words[-longest - 1 : -longest] not in _NEGATIONS
    return meant[0] if is_clear else None


def spread(saved: SavedScores, kind: ImportedKind, positive: int) -> SavedScores:
    """Return the rows with a score for each of two classes, float64: 0 and the logit, or 1 - p and p, or logarithms."""

    def blocks() -> Iterator[ScoreArray]:
        for block in saved.blocks():
            score = block[:, 0].astype(np.float64)
            if kind == "logits":
                other = np.zeros(len(score))
            elif kind == "probabilities":
                other = 1 - score
            else:
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    other = np.log(-np.expm1(score))  # NaN above 0, which is no logarithm of a probability
                    other = np.where(score > 0, score, other)
            columns = [other, score]
            yield np.stack(columns if positive else columns[::-1], axis=1)

    return replace(saved, blocks=blocks)

"""Pictures, a model and predictions for the tests of the command line."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

CommandResult = tuple[int, list[str], list[str]]
"""Exit code, lines of stdout, lines of stderr."""

RunCommand = Callable[..., CommandResult]
"""Runs a command in this process, with its words as arguments."""

PROGRESS = re.compile(
    r"pictures: from |warning: random weights|[\d,]+ images, |preprocessing: |model toy_model|\S+: [\d,]+ rows in |"
    r"\d+ of \d+ parts in "
)


def refused(outcome: CommandResult, words: str) -> None:
    """Check for exit code 2 and one line with these words, after lines of progress at most."""
    code, out, err = outcome
    assert code == 2, (out, err)
    assert out == []
    *progress, line = err
    assert line.startswith("predboard: ")
    assert re.search(words, line), line
    assert all(PROGRESS.match(text) for text in progress), progress


@dataclasses.dataclass(frozen=True)
class Example:
    """Pictures of three classes, a model for them, and predictions that were made with it."""

    folder: Path
    data: Path
    model: str
    out: Path

    def flags(self, **more: Any) -> list[str]:
        """Return flags of `infer`."""
        given: dict[str, Any] = {"data": self.data, "model": self.model, "out": self.out, **more}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]

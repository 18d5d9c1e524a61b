"""Runs of another task are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from predboard import CompareConfig, InputError, compare
from predboard.predictions.schema import Run
from tests import toy


def test_runs_of_two_tasks_are_refused(tmp_path: Path) -> None:
    logits, known = toy.multi_label_table(toy.MULTI_LABEL_RUN, 20)
    toy.write_run(tmp_path / "several", logits, known, toy.MULTI_LABEL_RUN)
    toy.write_run(tmp_path / "one", logits, np.zeros(20, np.int64), Run(toy.MULTI_LABEL_RUN.classes, "m"))
    with pytest.raises(InputError, match="one is a single-label run, several a multi-label one; expected runs of one"):
        compare(CompareConfig((tmp_path / "one", tmp_path / "several"), tmp_path / "logs"))

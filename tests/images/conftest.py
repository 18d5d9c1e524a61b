"""Fixtures of the tests of images."""

from pathlib import Path

import pytest

from tests import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three classes of four pictures."""
    return toy.pictures(tmp_path / "data", classes=3, each=4)

"""The model file of the tests of stage one."""

from pathlib import Path

import pytest

from tests import toy
from tests.inference.nets import NETS
from tests.inference.worker_runs import ROWS, WORKER_NET


@pytest.fixture
def net(tmp_path: Path) -> str:
    """FILE.py:FACTORY of a small convolutional network."""
    (tmp_path / "net.py").write_text(NETS)
    return f"{tmp_path / 'net.py'}:Net"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with 45 pictures, one of them broken, and a model file."""
    data = toy.pictures(tmp_path / "data", each=ROWS // 3)
    (data / "b" / "007.png").write_bytes(b"broken")
    (tmp_path / "net.py").write_text(WORKER_NET)
    return tmp_path

"""A user's own files may be called like ours, and may import their neighbours, wherever their code runs."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard import InferConfig, infer, open_predictions
from predboard.cli import main
from predboard.errors import InputError
from predboard.user_code import load_object, names_an_object
from tests import toy

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

NAMES = ("pipeline", "metrics", "models", "config", "predictions", "errors", "state", "storage", "user_code", "api")
"""Modules beside the user's file, called like folders and modules of ours, now or before."""

MODEL = f"""
{chr(10).join(f"import {name}" for name in NAMES)}
import torch
from images import SIDE
from panels.colours import BRIGHTER
from torch.utils.data import Dataset

total = sum(module.WIDTH for module in ({", ".join(NAMES)}))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(total + SIDE)
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.head(x.mean((2, 3)))

def brighter(image):
    return image.resize((SIDE, SIDE)).point(lambda value: min(255, value + BRIGHTER))

class Tiles(Dataset):
    classes = ("a", "b", "c")

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.full((3, SIDE, SIDE), (index + total) / 255), index % 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a folder with a model file and its neighbours, and pictures in another."""
    own = tmp_path / "own"
    for package in ("images", "panels"):
        (own / package).mkdir(parents=True)
    (own / "images" / "__init__.py").write_text("SIDE = 6\n")
    (own / "panels" / "__init__.py").write_text("")
    (own / "panels" / "colours.py").write_text("BRIGHTER = 9\n")
    for number, name in enumerate(NAMES):
        (own / f"{name}.py").write_text(f"WIDTH = {number + 1}\n")
    (own / "net.py").write_text(MODEL)
    toy.pictures(tmp_path / "data", each=8)
    yield own
    for name in list(sys.modules):
        if name.partition(".")[0] in (*NAMES, "images", "panels", "parts") or re.match(r"predboard_[a-z]+_", name):
            del sys.modules[name]


def run(folder: Path, data: str, out: str, **options: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Run the folder's model; return logits [rows, classes]."""
    given = {"model": f"{folder / 'net.py'}:Net", "out": folder.parent / out, "preflight": 0, "shard_size": 4}
    infer(InferConfig(data, **{**given, **options}))
    return np.stack(open_predictions(folder.parent / out).to_pandas()["logits"].to_numpy())


def test_a_model_a_dataset_and_a_transform_may_have_neighbours_called_like_our_modules(folder: Path) -> None:
    net = str(folder / "net.py")
    flags = ["--model", f"{net}:Net", "--out", str(folder.parent / "command")]
    assert main.run(["infer", "--data", f"{net}:Tiles", *flags, "--preflight", "8"]) == 0
    pictures = run(folder, str(folder.parent / "data"), "plain", transform=f"{net}:brighter")
    assert pictures.shape == (24, 3)
    assert np.isfinite(pictures).all()
    assert run(folder, f"{net}:Tiles", "tiles").shape == (20, 3)


def test_a_neighbour_of_another_folder_is_never_taken_for_ones_own(folder: Path) -> None:
    """Here `config`, which the second file would get with the values of the first folder."""
    load_object(f"{folder / 'net.py'}:Net", "model", "FILE.py:NAME")
    loaded, other = sys.modules["config"], folder.parent / "other"
    other.mkdir()
    (other / "config.py").write_text("WIDTH = 1000\n")
    (other / "prep.py").write_text("from config import WIDTH\n\ndef f(image):\n    return image\n")
    (other / "alone.py").write_text("def f(image):\n    return image\n")
    with pytest.raises(
        InputError, match=rf"prep\.py imports its neighbour config, but .* in use, from {folder}: rename"
    ):
        load_object(f"{other / 'prep.py'}:f", "transform", "FILE.py:NAME")
    assert sys.modules["config"] is loaded
    assert load_object(f"{other / 'alone.py'}:f", "transform", "FILE.py:NAME").name == "alone.py:f"
    assert sys.modules["config"] is loaded


def test_a_neighbour_that_a_function_imports_is_its_own_or_refused(folder: Path) -> None:
    model = load_object(f"{folder / 'net.py'}:Net", "model", "FILE.py:NAME").value
    other = folder.parent / "other"
    other.mkdir()
    (other / "config.py").write_text("WIDTH = 1000\n")
    (other / "prep.py").write_text(
        "def f(image):\n    from config import WIDTH\n    return WIDTH\n\ndef g(image):\n    import errors, json\n"
        "    return errors.WIDTH\n"
    )
    f, g = (load_object(f"{other / 'prep.py'}:{name}", "transform", "FILE.py:NAME").value for name in "fg")
    with pytest.raises(InputError, match=rf"prep\.py imports its neighbour config, but .* from {folder}: rename"):
        f(None)
    assert g(None) == NAMES.index("errors") + 1  # there is no other errors.py
    assert model().head.weight.shape == (3, 3)


@pytest.mark.parametrize("other_kind", ["parts/own.py", "parts.py"])
def test_a_folder_without_an_init_file_is_a_neighbour_too(folder: Path, other_kind: str) -> None:
    """Its modules are loaded by name as well, and so are those of another folder that is called the same."""
    lines = "from parts import own\n\ndef f(image):\n    return own.WIDTH\n"
    late = "def late(image):\n    from parts import own\n    return own.WIDTH\n"
    other = folder.parent / "other"
    for place, file, width in ((folder, "parts/own.py", 1), (other, other_kind, 1000)):
        (place / file).parent.mkdir(parents=True)
        (place / file).write_text(f"WIDTH = {width}\n")
        (place / "prep.py").write_text(lines + late)
        (place / "late.py").write_text(late)
    first = load_object(f"{folder / 'prep.py'}:f", "transform", "FILE.py:NAME").value
    assert load_object(f"{folder / 'prep.py'}:late", "transform", "FILE.py:NAME").value(None) == first(None) == 1
    refused = rf"imports its neighbour parts, but another parts is in use, from {folder}: rename"
    with pytest.raises(InputError, match=refused):
        load_object(f"{other / 'late.py'}:late", "transform", "FILE.py:NAME").value(None)
    if other_kind == "parts/own.py":
        with pytest.raises(InputError, match=refused):
            load_object(f"{other / 'prep.py'}:f", "transform", "FILE.py:NAME")


def test_a_link_to_a_shared_file_is_a_neighbour(folder: Path) -> None:
    (folder / "config.py").rename(folder.parent / "shared.py")
    (folder / "config.py").symlink_to(folder.parent / "shared.py")
    (folder / "prep.py").write_text("import config\n\ndef f(image):\n    import config\n    return config.WIDTH\n")
    load_object(f"{folder / 'net.py'}:Net", "model", "FILE.py:NAME")
    assert load_object(f"{folder / 'prep.py'}:f", "transform", "FILE.py:NAME").value(None) == NAMES.index("config") + 1


def test_the_folder_is_not_left_on_the_path(folder: Path) -> None:
    load_object(f"{folder / 'net.py'}:Net", "model", "FILE.py:NAME")
    assert str(folder) not in sys.path


@pytest.mark.slow
def test_processes_and_devices_import_the_same_neighbours(folder: Path) -> None:
    net = str(folder / "net.py")
    tiles = run(folder, f"{net}:Tiles", "tiles")
    np.testing.assert_allclose(run(folder, f"{net}:Tiles", "processes", processes=2), tiles, rtol=1e-5)
    np.testing.assert_allclose(run(folder, f"{net}:Tiles", "devices", device="cpu,cpu"), tiles, rtol=1e-5)
    brighter = {"transform": f"{net}:brighter"}
    pictures = run(folder, str(folder.parent / "data"), "one", **brighter)
    found = run(folder, str(folder.parent / "data"), "two", device="cpu,cpu", **brighter)
    np.testing.assert_allclose(found, pictures, rtol=1e-5)


@pytest.mark.ray
def test_actors_on_ray_import_the_same_neighbours(folder: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("pip install 'predboard[ray]'")
    net = str(folder / "net.py")
    on_ray = {"engine": "ray", "actors": 2, "cpus_per_actor": 1}
    tiles = run(folder, f"{net}:Tiles", "tiles")
    pictures = run(folder, str(folder.parent / "data"), "plain", transform=f"{net}:brighter")
    with toy.small_ray():
        np.testing.assert_allclose(run(folder, f"{net}:Tiles", "ray", **on_ray), tiles, rtol=1e-5)
        found = run(folder, str(folder.parent / "data"), "pictures", transform=f"{net}:brighter", **on_ray)
    np.testing.assert_allclose(found, pictures, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("def build():\n    pass\n", "other", r"own\.py has no 'other'; it has: build"),
        ("def _build():\n    pass\n", "other", r"own\.py has no 'other'; it has: no functions"),
        (
            "import nowhere_at_all.inside\n",
            "build",
            r"own\.py does not import: ModuleNotFoundError: No module named 'nowhere_at_all'; if that is a package, "
            r"install it here: .*pip install nowhere_at_all$",
        ),
        ("raise SystemExit(3)\n", "build", r"own\.py does not import: SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(content: str, name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(content)
    with pytest.raises(InputError, match=words):
        load_object(f"{tmp_path / 'own.py'}:{name}", "model", "FILE.py:FACTORY")


def test_which_text_names_an_object() -> None:
    assert [names_an_object(text) for text in ("a.py:f", "a.py", "C:/b/a.py:f", "a.py:1f", "a.txt:f")] == [
        *(True, False, True, False, False),
    ]

"""Panels of other packages: found by their entry point, drawn in our order, and refused in one line."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from predboard import panels
from predboard.config import VisualizeConfig
from predboard.errors import InputError
from predboard.evaluation.measure import MeasureSettings
from predboard.evaluation.state_versions import outside_code
from predboard.parallel.pool import ProcessPool
from predboard.visualization.visualize import visualize
from tests import toy
from tests.visualization.test_visualize import write

PANEL = '''
"""How bright the scores are. It knows no image."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from predboard.state import Counted, summed
from predboard.summaries import Scalar


@dataclass(frozen=True)
class State:
    rows: np.int64 = summed()
    processes: Counted = None


@dataclass(frozen=True)
class Panel:
    """Scalars: rows with scores, and the processes that measured them.

    More about it.
    """

    columns: frozenset[str] = frozenset({"predicted"})

    def zero(self, run):
        return State(np.int64(0), Counted.from_values(np.zeros(0, np.int64)))

    def measure(self, run, batch):
        wait_for_another_process()
        return State(np.int64(len(batch.scored)), Counted.from_values(np.array([os.getpid()])))

    def render(self, info, states):
        for step, state in states.items():
            yield step, Scalar("TAG/rows", float(state.rows), "Rows with scores.")
            for process in state.processes.value.tolist():
                yield step, Scalar(f"TAG/process/{process}", 1.0, "A process.")
'''


MEETING = '''

def wait_for_another_process():
    """Measure no rows here before another process has some too."""
    met = Path(__file__).parent / "met"
    met.mkdir(exist_ok=True)
    (met / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(met.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
'''
ALONE = "\n\ndef wait_for_another_process():\n    pass\n"


def install(folder: Path, package: str, entry: str, source: str = PANEL, value: str = "") -> None:
    """Install a package with one panel, as pip would."""
    module = package.replace("-", "_")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[predboard.panels]\n{entry} = {value or f'{module}:Panel'}\n")
    (folder / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, in this process and those that it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    yield folder
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def test_a_panel_of_another_package_is_drawn_by_the_processes_of_stage_two(site: Path, tmp_path: Path) -> None:
    install(site, "bright-panel", "brightness", PANEL.replace("TAG", "brightness") + MEETING)
    own = panels.names()[:-1]
    assert panels.names() == (*own, "brightness")
    assert panels.title(panels.load("brightness")) == "Scalars: rows with scores, and the processes that measured them."
    run = write(tmp_path / "run", 1, 5, rows=40)
    config = VisualizeConfig(predictions=(run,), logdir=tmp_path / "logs", panels=("brightness", "glance"))
    with ProcessPool(2) as pool:
        pool.start(2)
        (written,) = visualize(config, pool=pool, settings=MeasureSettings(parallel_min_logits=0))
    values = toy.read_values(written.event_file)
    assert np.frombuffer(values["brightness/rows", 5].tensor.tensor_content, "<f4").tolist() == [40]
    processes = {int(tag.rpartition("/")[2]) for tag, _ in values if tag.startswith("brightness/process/")}
    assert len(processes) == 2


def test_our_panels_keep_their_order_whatever_is_installed(site: Path) -> None:
    before = list(panels.choose(()))
    install(site, "second", "zebra", PANEL.replace("TAG", "zebra"))
    install(site, "first", "aardvark", PANEL.replace("TAG", "aardvark"))
    assert list(panels.choose(())) == [*before, "aardvark", "zebra"]
    assert list(panels.choose(("zebra", "glance", "aardvark"))) == ["glance", "aardvark", "zebra"]
    *_, report = panels.render_rounds(panels.choose(()))
    assert list(report) == ["report"]  # the last one still, so that it describes them too


@pytest.mark.parametrize(
    ("entry", "source", "value", "message"),
    [
        (
            "glance",
            PANEL,
            "",
            "two panels are called 'glance': one of predboard, one of the package odd; uninstall one",
        ),
        ("Odd name", PANEL, "", "the package odd calls a panel 'Odd name', but a panel's name has lower-case"),
        (
            "odd",
            "import nowhere_at_all",
            "",
            r"'odd' of the package odd \(odd:Panel\) cannot be loaded: No module",
        ),
        ("odd", "1 /", "", "cannot be loaded: invalid syntax"),
        ("odd", PANEL, "odd:State", "cannot be loaded: .*; update or uninstall the package"),
        ("odd", "class Panel: pass", "", "is no panel: it lacks 'columns'; update or uninstall the package"),
    ],
)
def test_a_panel_that_cannot_be_used_is_refused_in_one_line(
    site: Path, entry: str, source: str, value: str, message: str
) -> None:
    install(site, "odd", entry, source, value)
    with pytest.raises(InputError, match=message) as raised:
        panels.choose(())
    assert "\n" not in str(raised.value)


def test_two_packages_with_one_panel_are_refused(site: Path) -> None:
    install(site, "one", "blur")
    install(site, "two", "blur")
    with pytest.raises(InputError, match=r"two panels are called 'blur': one of the package (one|two), one of"):
        panels.names()


def test_two_panels_that_write_one_tag_are_refused_and_the_logs_stay(site: Path, tmp_path: Path) -> None:
    install(site, "twin", "twin", PANEL.replace("TAG/rows", "1_glance/accuracy") + ALONE)
    run = write(tmp_path / "run", 1, rows=40)
    config = VisualizeConfig(predictions=(run,), logdir=tmp_path / "logs", panels=("twin", "glance"))
    with pytest.raises(InputError, match=re.escape("the panels 'glance' and 'twin' both write '1_glance/accuracy'")):
        visualize(config)
    assert not list((tmp_path / "logs" / "run").glob("events*"))


def test_another_version_of_a_package_is_another_panel_to_what_was_kept(site: Path) -> None:
    install(site, "bright-panel", "brightness")
    panel = panels.load("brightness")
    before = outside_code(panel)
    assert before
    (site / "bright_panel.py").write_text(PANEL.replace("1.0", "2.0"))
    assert outside_code(panel) != before
    assert outside_code(panels.load("glance")) == ""

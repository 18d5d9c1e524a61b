"""What a person sees: TensorBoard in headless Chromium on a toy run. Run by `make test-browser`."""

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard import CompareConfig, VisualizeConfig, visualize
from predboard.comparison.compare import CompareResult, compare
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from tests import toy

pytestmark = pytest.mark.browser

TABS = {
    **{"timeseries": 6, "scalars": 3, "images": 6, "distributions": 3, "histograms": 3, "text": 3},
    **{"custom_scalars": 4, "pr_curves": 4, "hparams": 4},
}
"""Tab -> seconds after which it has drawn."""


COMPARISON = (
    *("1_glance/report_card", "2_mistakes/broken", "examples/fixed", "examples/changed_wrong"),
    *("examples/both_wrong_same", "changes/0_overview", "changes/matrix", "classes/difference", "slices/difference"),
)
"""Pictures of a comparison."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("browser")
    data = toy.pictures(folder / "data", classes=3, each=12, size=(28, 28))
    model = toy.model_file(folder)
    done = toy.predboard("infer", "--data", data, "--model", model, "--out", folder / "predictions/toy")
    assert done.returncode == 0, done.stderr
    visualize(VisualizeConfig((folder / "predictions/toy",), logdir=folder / "logs"))
    with _board(folder / "logs", 6127) as url:
        yield url


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, CompareResult]]:
    """Where a comparison is shown, and what it found."""
    folder = tmp_path_factory.mktemp("compared")
    logits, label = toy.table(toy.RUN, 400)
    for name, seed in (("old", 1), ("new", 2)):
        noise = np.random.default_rng(seed).normal(0, 1, logits.shape).astype(np.float32)
        toy.write_run(folder / name, logits + noise, label, dataclasses.replace(toy.RUN, thumbnails=8))
    done = compare(CompareConfig((folder / "old", folder / "new"), folder / "logs"))
    with _board(folder / "logs", 6128) as url:
        yield url, done


@contextlib.contextmanager
def _board(folder: Path, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "predboard", "board", "--logdir", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=toy.ROOT) as board:
        assert board.stdout is not None
        line = next(line for line in board.stdout if line.startswith("open "))
        yield line.removeprefix("open ").strip().removesuffix("#predboard")
        board.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-background-networking",
        "no-first-run",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.add_argument("--window-size=1500,1100")
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def _open(browser: Any, url: str, seconds: float) -> None:
    browser.get("about:blank")
    browser.get(url)
    time.sleep(seconds)


def test_the_landing_page_begins_with_the_report_card_and_two_mistakes_in_their_own_pixels(
    browser: Any, url: str
) -> None:
    _open(browser, url, 8)
    cards = browser.execute_script(
        "return [...document.querySelectorAll('metrics-pinned-view image-card')].map(card => {"
        " const image = card.querySelector('img');"
        " return [card.textContent, image.naturalWidth, image.naturalHeight, image.clientHeight]; })"
    )
    assert ["1_glance/report_card" in text for text, *_ in cards] == [True, False, False]
    assert ["2_mistakes/confident" in text for text, *_ in cards] == [False, True, True]
    assert all(size == [WIDTH_PX, HEIGHT_PX, HEIGHT_PX] for _, *size in cards)


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_shows_something_and_no_picture_is_broken(browser: Any, url: str, tab: str, tmp_path: Path) -> None:
    _opens(browser, url, tab)
    browser.save_screenshot(str(tmp_path / f"{tab}.png"))


def _opens(browser: Any, url: str, tab: str) -> None:
    """A tab is there, has no broken picture, and asked for nothing that there is not."""
    _open(browser, f"{re.sub('[?].*', '', url)}#{tab}", TABS[tab])
    text = browser.execute_script("return document.body.innerText")
    assert "No dashboards are active" not in text
    assert tab.replace("timeseries", "time series").replace("_", " ").upper() in text.upper()
    broken = browser.execute_script(
        "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    assert broken == []
    errors = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert [e for e in errors if "localhost" in e and "404" in e] == []


def test_the_report_is_readable_text(browser: Any, url: str) -> None:
    _open(browser, f"{re.sub('[?].*', '', url)}#text", 5)
    text = _all_text(browser)
    assert "How to read the tabs" in text
    assert "| step |" not in text  # the table is a table, not its source


def _all_text(browser: Any) -> str:
    """What is on the page, shadow roots included."""
    return str(
        browser.execute_script(
            "const all = []; const walk = node => { all.push(node.innerText || '');"
            " [...(node.shadowRoot ? node.shadowRoot.children : []), ...node.children].forEach(walk); };"
            " walk(document.body); return all.join(' ')"
        )
    )


def test_charts_of_classes_and_intervals_find_their_curves(browser: Any, url: str) -> None:
    _open(browser, f"{re.sub('[?].*', '', url)}#custom_scalars", 6)
    text = _all_text(browser)
    for title in ("precision", "average_precision", "accuracy", "auroc_macro"):
        assert title in text
    assert "Matches (3)" in text  # the three classes
    assert "Matches (0)" not in text


def test_the_table_of_runs_has_the_run_with_its_settings_and_metrics(browser: Any, url: str) -> None:
    _open(browser, f"{re.sub('[?].*', '', url)}#hparams", 6)
    text = _all_text(browser)
    for word in ("toy", "checkpoint", "accuracy", "macro F1"):
        assert word in text


def test_the_overview_of_confusions_is_on_the_first_page_of_its_group_in_its_own_pixels(browser: Any, url: str) -> None:
    _open(browser, f"{re.sub('[?].*', '', url)}?tagFilter=confusion#timeseries", 8)
    cards = browser.execute_script(
        "return [...document.querySelectorAll('image-card')].map(card => {"
        " const image = card.querySelector('img');"
        " return [card.textContent, image.naturalWidth, image.naturalHeight, image.clientHeight]; })"
    )
    shown = [size for text, *size in cards if "confusion/0_overview" in text]
    assert shown == [[WIDTH_PX, HEIGHT_PX, HEIGHT_PX]]
    assert "confusion/0_matrix" in cards[0][0]


def test_a_comparison_opens_with_its_card_and_what_it_saw_broken(
    browser: Any, compared: tuple[str, CompareResult]
) -> None:
    url, done = compared
    assert done.summary["rows"]["broken"] >= 2
    _open(browser, url, 8)
    pinned = browser.execute_script(
        "return [...document.querySelectorAll('metrics-pinned-view image-card')].map(card => card.textContent)"
    )
    tags = ["1_glance/report_card", "2_mistakes/broken", "2_mistakes/broken"]
    assert [tag in text for tag, text in zip(tags, pinned, strict=True)] == [True] * 3


def test_every_tab_of_a_comparison_shows_what_it_has(browser: Any, compared: tuple[str, CompareResult]) -> None:
    url, done = compared
    with urllib.request.urlopen(f"{url}data/plugins_listing", timeout=10) as answer:
        active = {name for name, about in json.load(answer).items() if about["enabled"]}
    assert active == {"timeseries", "scalars", "images", "text"}
    said = {
        "timeseries": ("1_glance", "2_mistakes", "changes", "difference"),
        "scalars": ("difference", "flips", "new", "old"),
        "images": ("1_glance", "2_mistakes", "changes"),
        "text": ("report/0_verdict", "report/by_class", "report/transitions", done.verdict),
    }
    for tab in sorted(active):
        _opens(browser, url, tab)
        text = _all_text(browser)
        assert [words for words in said[tab] if words not in text] == [], tab
        assert not re.search(r"Error:|Traceback|\bNaN\b|No data|[Ff]ailed to", text), tab


def test_the_pictures_of_a_comparison_are_there_in_their_own_pixels(
    browser: Any, compared: tuple[str, CompareResult]
) -> None:
    url, _ = compared
    shown: dict[str, list[int]] = {}
    for tag in COMPARISON:
        _open(browser, f"{re.sub('[?].*', '', url)}?tagFilter=^{tag}$#timeseries", 3)
        text, *shown[tag] = browser.execute_script(
            "const card = document.querySelector('image-card'); const image = card.querySelector('img');"
            " return [card.textContent, image.naturalWidth, image.naturalHeight];"
        )
        assert tag in text
    assert {tag for tag, size in shown.items() if size != [WIDTH_PX, HEIGHT_PX]} <= {"changes/matrix"}

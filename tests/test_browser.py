"""What a person sees: TensorBoard in headless Chromium on a toy run. Run by `make test-browser`."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import VisualizeConfig, draw, visualize
from tests import toy

pytestmark = pytest.mark.browser

TABS = {
    **{"timeseries": 6, "scalars": 3, "images": 6, "distributions": 3, "histograms": 3, "text": 3},
    **{"custom_scalars": 4, "pr_curves": 4, "hparams": 4},
}
"""Tab -> seconds after which it has drawn."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("browser")
    data = toy.pictures(folder / "data", classes=3, each=12, size=(28, 28))
    model = toy.model_file(folder)
    done = toy.predboard("infer", "--data", data, "--model", model, "--out", folder / "predictions/toy")
    assert done.returncode == 0, done.stderr
    visualize(VisualizeConfig((folder / "predictions/toy",), logdir=folder / "logs"))
    command = [sys.executable, "-m", "pipeline", "board", "--logdir", str(folder / "logs"), "--port", "6127"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=toy.ROOT) as board:
        assert board.stdout is not None
        line = next(line for line in board.stdout if line.startswith("open "))
        yield line.removeprefix("open ").strip()
        subprocess.run(["pkill", "-P", str(board.pid)], check=False)
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
    assert all(size == [draw.WIDTH, draw.HEIGHT, draw.HEIGHT] for _, *size in cards)


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_shows_something_and_no_picture_is_broken(browser: Any, url: str, tab: str, tmp_path: Path) -> None:
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
    browser.save_screenshot(str(tmp_path / f"{tab}.png"))


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
    assert shown == [[draw.WIDTH, draw.HEIGHT, draw.HEIGHT]]
    assert "confusion/0_matrix" in cards[0][0]

"""What a person does in the tab: headless Chromium on TensorBoard. Run by `make test-browser`.

Numbers on the page are compared with pandas on the same rows.parquet.
"""

import contextlib
import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests import toy
from tests.tab import logs, test_multi_label

pytestmark = pytest.mark.browser

PREFIX = "/some/prefix"

SERVER = """
import sys
from predboard.tab.loader import PredictionsLoader
from tensorboard import default, program
board = program.TensorBoard(plugins=[*default.get_static_plugins(), PredictionsLoader])
board.configure(["", *sys.argv[1:]])
print(board.launch(), flush=True)
sys.stdin.read()
"""

WATCH = """
window.violations = [];
addEventListener('securitypolicyviolation', event => {
  window.violations.push(event.violatedDirective + ' ' + event.blockedURI);
});
"""


@contextlib.contextmanager
def tensorboard(folder: Path, *flags: str) -> Iterator[str]:
    command = [sys.executable, "-c", SERVER, "--logdir", str(folder), "--port", "0", *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as board:
        assert board.stdout is not None
        yield board.stdout.readline().strip().rstrip("/")
        board.kill()


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with two steps and odd names, of the same images, of several labels, and one whose pictures are there."""
    folder = tmp_path_factory.mktemp("journeys")
    logs.write_logs(folder / "logs" / "net", rows=240)
    levels = {"levels": [{"name": "size", "groups": ["small", "big"], "group_of": [0, 1, 0]}]}
    (folder / "logs" / "net" / "class_groups.json").write_text(json.dumps(levels), "utf-8")
    logs.write_logs(folder / "logs" / "zip", rows=240, seed=1, steps=(0,))
    test_multi_label.write_logs(folder / "logs" / "scenes")
    data = toy.pictures(folder / "data", classes=3, each=12, size=(28, 28))
    model = toy.model_file(folder)
    for command in (
        ("infer", "--data", data, "--model", model, "--out", folder / "predictions/toy"),
        ("visualize", folder / "predictions/toy", "--logdir", folder / "logs"),
    ):
        done = toy.predboard(*command)
        assert done.returncode == 0, done.stderr
    return folder / "logs"


@pytest.fixture(scope="module")
def board(logdir: Path) -> Iterator[str]:
    with tensorboard(logdir) as url:
        yield url


@pytest.fixture(scope="module")
def rows(logdir: Path) -> pd.DataFrame:
    """Rows of the last step of `net`."""
    return logs.frame(logdir / "net", 3)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-background-networking",
        "no-first-run",
    )
    for flag in (*flags, f"user-data-dir={tmp_path_factory.mktemp('profile')}", "window-size=1400,1000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    yield browser
    browser.quit()


class Page:
    """The tab in the browser. Whatever is asked for is waited for."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, view: dict[str, str] | None = None, *, around: bool = False, **more: str) -> "Page":
        """Open the bare page of the tab, which is quick, or TensorBoard around it."""
        self.browser.get("about:blank")
        self.browser.get_log("browser")
        quote = urllib.parse.quote
        asked = {"show": "pictures", **(view or {}), **more}  # most runs have none, and would be tables
        keys = "".join(f"&{quote(f'p.predboard.{k}')}={quote(value, safe='')}" for k, value in asked.items() if value)
        page = "/" if around else "/data/plugin_entry.html?name=predboard"
        self.browser.get(f"{self.url}{page}#predboard{keys}")
        if around:
            self.until(lambda: self.browser.find_elements("css selector", "iframe"), 30)
            self.browser.switch_to.frame(self.browser.find_element("css selector", "iframe"))
        self.until(lambda: self.total() is not None, 30)
        return self

    def js(self, code: str, *values: Any) -> Any:
        return self.browser.execute_script(code, *values)

    def until(self, true: Callable[[], Any], seconds: float = 8) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (
                f"waited {seconds} s; the page has {self.js('return document.body.innerText')!r}"
            )
            time.sleep(0.03)

    def total(self) -> int | None:
        """How many images the page says are selected; None while it does not know."""
        text = self.js(
            "const b = document.getElementById('total'); return b && b.dataset.stale !== 'true' ? b.textContent : ''"
        )
        return int(text.split()[0].replace(",", "")) if text[:1].isdigit() else None

    def has(self, expected: int) -> None:
        self.until(lambda: self.total() == expected)

    def text(self, selector: str) -> str:
        return " ".join(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector).split())

    def click(self, selector: str) -> None:
        self.until(lambda: self.js("return Boolean(document.querySelector(arguments[0])?.offsetParent)", selector))
        self.browser.find_element("css selector", selector).click()

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def press(self, selector: str, *places: tuple[float, float]) -> None:
        """Press at the first place of an element, in pixels, move over the others, and let go."""
        from selenium.webdriver.common.action_chains import ActionChains

        corner = "const at = element => { const {x, y} = element.getBoundingClientRect(); return [x, y]; };"
        box = self.js(f"{corner} return at(document.querySelector(arguments[0]))", selector)
        frame = self.js(f"{corner} return window.frameElement ? at(window.frameElement) : [0, 0]")
        chain = ActionChains(self.browser, duration=20)
        pointer: Any = chain.w3c_actions.pointer_action
        for number, (x, y) in enumerate(places):
            pointer.move_to_location(int(box[0] + frame[0] + x), int(box[1] + frame[1] + y))
            if not number:
                pointer.pointer_down()
        pointer.pointer_up()
        chain.perform()

    def cell(self, true: int | None, predicted: int | None) -> None:
        """Press a cell of the matrix of three classes in the order of their numbers, or a name beside it."""
        self.until(lambda: self.js("return document.getElementById('matrix').dataset.drawn"))
        side = (self.js("return document.getElementById('matrix').clientWidth") - 96) / 3
        place = [30 if index is None else 96 + (index + 0.5) * side for index in (predicted, true)]
        self.press("#matrix", (place[0], place[1]))

    @property
    def view(self) -> dict[str, str]:
        """What the address says."""
        hash_ = self.js("return (window.parent ?? window).location.hash")
        pairs = urllib.parse.parse_qsl(hash_.lstrip("#"), keep_blank_values=True)
        return {key.removeprefix("p.predboard."): value for key, value in pairs if key.startswith("p.predboard.")}

    def clean(self) -> None:
        """Nothing went wrong that only the console tells of."""
        messages = [entry["message"] for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]
        assert messages == []
        assert self.js("return window.violations") == []


@pytest.fixture
def page(chromium: Any, board: str) -> Page:
    return Page(chromium, board)


def wrong(rows: pd.DataFrame) -> "pd.Series[bool]":
    return (rows.label >= 0) & (rows.predicted >= 0) & (rows.label != rows.predicted)


def test_the_tab_is_in_tensorboard_and_a_cell_shows_its_images(page: Page, rows: pd.DataFrame) -> None:
    page.open(around=True, run="net", order="index")
    page.has(len(rows))
    page.cell(0, 1)
    pair = rows[(rows.label == 0) & (rows.predicted == 1)].sort_values("loss", ascending=False, kind="stable")
    page.has(len(pair))
    page.until(lambda: page.text("#image-0 .file") == pair.image.iloc[0].rsplit("/")[-1])
    page.cell(0, None)
    page.has(int((rows.label == 0).sum()))
    page.cell(None, 1)
    page.has(int((rows.predicted == 1).sum()))
    page.js("window.parent.history.back()")
    page.has(int((rows.label == 0).sum()))
    page.js("window.parent.history.back()")
    page.has(int(((rows.label == 0) & (rows.predicted == 1)).sum()))
    page.js("window.parent.history.forward()")
    page.has(int((rows.label == 0).sum()))
    for dark in (True, False):
        page.js("window.parent.document.body.classList.toggle('dark-mode', arguments[0])", dark)
        theme = "dark" if dark else "light"
        page.until(lambda theme=theme: page.js("return document.documentElement.dataset.theme") == theme)  # type: ignore[misc]
    page.clean()
    page.browser.switch_to.default_content()
    assert "PREDICTIONS" in page.js("return document.body.innerText").upper()
    page.clean()


def test_it_works_below_a_prefix_of_the_path(chromium: Any, logdir: Path, rows: pd.DataFrame) -> None:
    with tensorboard(logdir, "--path_prefix", PREFIX) as url:
        page = Page(chromium, url if PREFIX in url else url + PREFIX).open(run="toy")
        page.has(36)
        page.until(lambda: page.js("return [...document.querySelectorAll('.cell img')].some(i => i.naturalWidth > 0)"))
        page.open(run="net", right="0")
        page.has(int(wrong(rows).sum()))
        page.clean()


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ({"right": "0"}, wrong),
        ({"right": "1"}, lambda r: (r.label >= 0) & (r.label == r.predicted)),
        ({"true": "0,2", "pred": "1"}, lambda r: r.label.isin([0, 2]) & (r.predicted == 1)),
        ({"confidence": ".5.."}, lambda r: r.confidence >= 0.5),
        ({"loss": "1..2"}, lambda r: r.loss.between(1, 2)),
        ({"margin": "..0.25"}, lambda r: r.margin <= 0.25),
        ({"entropy": "0.5..0.9", "right": "0"}, lambda r: r.entropy.between(0.5, 0.9) & wrong(r)),
        ({"n.year": "2002.."}, lambda r: r.year >= 2002),
        ({"s.site": "A|b\\|c"}, lambda r: r.site.isin(["A", "b|c"])),
        ({"s.site": "\\N|\\\\"}, lambda r: r.site.isna() | (r.site == "\\")),
        ({"q": "photo 01"}, lambda r: r.image.str.contains("Photo 01", regex=False)),
        ({"state": "failed"}, lambda r: r.predicted < 0),
        ({"state": "unlabelled"}, lambda r: (r.label < 0) & (r.predicted >= 0)),
    ],
)
def test_each_filter_of_the_address_counts_as_pandas_does(
    page: Page, rows: pd.DataFrame, view: dict[str, str], expected: Callable[[pd.DataFrame], "pd.Series[bool]"]
) -> None:
    number = int(expected(rows).sum())
    assert 0 < number < len(rows)
    page.open(view, run="net")
    page.has(number)
    chips = page.js("return document.querySelectorAll('.chip').length")
    assert chips == len(view)
    page.clean()


def test_filters_set_by_hand_meet_those_of_pandas(page: Page, rows: pd.DataFrame) -> None:
    page.open(run="net", order="index")
    page.keys("e")
    page.has(int(wrong(rows).sum()))
    field = page.browser.find_element("css selector", "[aria-label='confidence from']")
    field.send_keys("0.6", "\ue007")
    chosen = wrong(rows) & (rows.confidence >= 0.6)
    page.has(int(chosen.sum()))
    page.click("#chip-right")
    page.has(int((rows.confidence >= 0.6).sum()))
    page.js("document.activeElement.blur()")
    page.keys("/", "Photo 1")
    page.has(int(((rows.confidence >= 0.6) & rows.image.str.contains("Photo 1")).sum()))
    page.click("#clear")
    page.has(len(rows))
    width = page.js("return document.querySelector('.histograms .hist').clientWidth")
    page.press(".histograms .hist", (width * 0.5, 20), (width * 0.7, 20), (width * 0.8, 20))
    page.until(lambda: "confidence" in page.view)
    lo, hi = map(float, page.view["confidence"].split(".."))
    page.has(int(rows.confidence.between(lo, hi).sum()))
    page.click("#clear" if page.js("return Boolean(document.getElementById('clear'))") else ".chip")
    page.click("#pane-columns")
    page.click(r"#value-s\.site-A")
    page.has(int((rows.site == "A").sum()))
    page.clean()


def test_an_image_is_opened_walked_from_and_linked_to(page: Page, rows: pd.DataFrame) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(run="net", right="0")
    worst = rows[wrong(rows)].sort_values("loss", ascending=False, kind="stable")
    page.keys(Keys.ENTER)
    page.until(lambda: page.text(".path code") == worst.image.iloc[0])
    page.keys(Keys.ARROW_RIGHT)
    page.until(lambda: page.text(".path code") == worst.image.iloc[1])
    page.until(lambda: page.view.get("image") == str(worst.key.iloc[1]))
    address = page.js("return location.href")
    page.browser.get("about:blank")
    page.browser.get(address)
    page.until(lambda: page.text(".path code") == worst.image.iloc[1], 20)
    names = page.js("return [...document.querySelectorAll('.top th')].map(th => th.textContent)")
    assert sorted(names) == sorted(logs.NAMES)
    page.click("[id='seen-net-1']")
    page.until(lambda: page.view.get("step") == "1" and page.text(".path code") == worst.image.iloc[1])
    page.keys(Keys.ESCAPE)
    page.until(lambda: "image" not in page.view)
    page.clean()


def test_pictures_are_shown_small_and_large(page: Page) -> None:
    page.open(run="toy")
    page.has(36)
    shown = "return [...document.querySelectorAll('.cell img')].filter(i => i.naturalWidth).length"
    page.until(lambda: page.js(shown) >= 20)
    page.click("#image-0")
    page.until(lambda: page.js("return document.querySelector('.large').naturalWidth") == 28)
    assert page.js("return getComputedStyle(document.querySelector('.large')).imageRendering") == "pixelated"
    page.keys("z")
    page.until(lambda: page.js("return document.querySelector('dialog.zoom img')?.naturalWidth") == 28)
    page.clean()


def test_a_run_of_which_no_picture_is_in_its_place_opens_as_a_table(page: Page) -> None:
    page.open(run="net", show="")
    page.until(lambda: page.text("#line-0"))
    assert not page.text("#image-0")
    page.keys("g")
    page.until(lambda: page.text("#image-0"))
    assert page.view["show"] == "pictures"
    page.keys("g")
    page.until(lambda: page.text("#line-0"))
    page.open(run="toy", show="")
    page.until(lambda: page.js("return document.querySelector('#image-0 img')?.naturalWidth"))
    assert "show" not in page.view
    page.clean()


def test_two_steps_are_compared(page: Page, logdir: Path, rows: pd.DataFrame) -> None:
    old = logs.frame(logdir / "net", 1)
    page.open(run="net", other="net@1", pane="changes", order="index")
    both = (rows.label >= 0) & (rows.predicted >= 0) & (old.predicted >= 0)
    broken = both & (old.predicted == rows.label) & (rows.predicted != rows.label)
    fixed = both & (old.predicted != rows.label) & (rows.predicted == rows.label)
    page.until(lambda: page.text("#kind-broken") == f"broken {broken.sum()}")
    assert page.text("#kind-fixed") == f"fixed {fixed.sum()}"
    page.click("#kind-broken")
    page.has(int(broken.sum()))
    page.open(run="net", other="net@1", kind="broken", true="1")
    page.has(int((broken & (rows.label == 1)).sum()))
    page.until(lambda: f"{(rows.label == 1).sum()} images (true: " in page.text(".kinds"))
    assert f"All cells: {broken.sum()} images" in page.text(".readout")
    assert "was" in page.text("#image-0")
    page.open(run="net", other="net@1", right="0")
    worst = rows[wrong(rows)].sort_values("loss", ascending=False, kind="stable").iloc[0]
    page.until(lambda: page.text("#image-0").endswith(f"true {worst.label_name}"))
    assert f"{worst.predicted_name} " in page.text("#image-0")
    page.clean()


def test_shift_and_a_click_choose_a_range_and_mark_no_text(page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for show, one in (("pictures", "image"), ("table", "line")):
        page.open(run="net", show=show)
        page.until(lambda one=one: page.text(f"#{one}-3"))  # type: ignore[misc]
        first, last = (page.browser.find_element("css selector", f"#{one}-{at}") for at in (0, 3))
        for key, place in ((Keys.CONTROL, first), (Keys.SHIFT, last)):
            ActionChains(page.browser).key_down(key).click(place).key_up(key).perform()
        page.until(lambda: page.text(".chosen-bar").startswith("4 images"))
        assert page.js("return String(getSelection())") == ""
    page.js("document.querySelector('summary[title^=Save]').click()")
    words = page.text("details[open] .sheet")
    assert words.startswith("The 4 images chosen")
    assert f"In a terminal, all {page.total()} images of the selection" in words
    page.click("summary[title='Tags']")
    page.keys(Keys.ESCAPE)
    page.js("document.activeElement.blur()")
    page.keys("r")
    page.until(lambda: "4 images" in page.text(".message"))
    boxes = "return ['.message', '.chosen-bar'].map(s => document.querySelector(s).getBoundingClientRect())"
    note, bar = page.js(boxes)
    assert note["bottom"] <= bar["top"]
    page.keys("u")
    page.until(lambda: "Undo one more" in page.text(".message"))
    page.clean()


def test_tags_are_put_on_filtered_by_exported_and_taken_back(page: Page, rows: pd.DataFrame) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(run="net", right="0")
    worst = rows[wrong(rows)].sort_values("loss", ascending=False, kind="stable")
    page.keys("x", Keys.SHIFT + Keys.ARROW_RIGHT)
    page.keys("r")
    page.until(lambda: "relabel" in page.text(".message"))
    page.keys(Keys.ESCAPE, Keys.ESCAPE)
    page.click("summary[title='Tags']")
    page.click("#tag-relabel")
    page.until(lambda: page.view.get("tag") == "relabel")
    page.until(lambda: page.total() in (1, 2))
    address = page.js("return document.getElementById('export-csv').href")
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert [line["image"] for line in lines] == list(worst.image[: len(lines)])
    page.js("document.activeElement.blur()")
    page.keys("u")
    page.has(0)
    page.clean()


@pytest.mark.parametrize(
    "view",
    [
        {"right": "0", "confidence": ".4.."},
        {"true": "0,2", "pred": "1", "sort": "margin"},
        {"s.site": "A|\\N", "n.year": "2001.."},
        {"q": "photo 01", "state": "labelled"},
        {"other": "net@1", "kind": "broken"},
    ],
)
def test_the_command_of_the_menu_lists_the_same_images(page: Page, view: dict[str, str]) -> None:
    page.open(view, run="net")
    page.until(lambda: page.total())
    words = shlex.split(page.js("return document.getElementById('command').textContent"))
    done = toy.predboard(*words[1:], "--format", "json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert len(listed) == page.total()
    page.click("#image-0")
    page.until(lambda: page.text(".path code") == listed[0]["image"])
    page.clean()


def test_texts_stay_texts(page: Page) -> None:
    page.open(run="net", pane="columns")
    page.click("#image-0")
    page.until(lambda: page.text(".path code") != "")
    assert page.js("return document.querySelectorAll('b[data-x], bdi b, bdi i').length") == 0
    names = page.js("return [...document.querySelectorAll('#classes option')].map(o => o.value)")
    assert names == list(logs.NAMES)
    values = page.js("return [...document.querySelectorAll('.category .bar-row bdi')].map(b => b.textContent)")
    assert "<i>" in values
    page.clean()


def test_a_text_is_copied_where_the_browser_has_no_clipboard(page: Page) -> None:
    page.open(run="net")
    page.js(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.addEventListener('copy', () => { window.copied = document.activeElement.value; })"
    )
    page.click("#link")
    page.until(lambda: page.js("return window.copied"))
    assert "p.predboard.run=net" in page.js("return window.copied")


def test_a_run_that_comes_later_is_shown_when_tensorboard_reloads(chromium: Any, tmp_path: Path) -> None:
    logs.write_logs(tmp_path / "logs" / "one", rows=30)
    with tensorboard(tmp_path / "logs", "--reload_interval", "1") as url:
        page = Page(chromium, url).open(around=True, show="")
        page.has(30)
        logs.write_logs(tmp_path / "logs" / "two", rows=20)
        reload = "window.parent.document.querySelector('.reload-button').click()"
        runs = f"{reload}; return document.getElementById('run').options.length"
        page.until(lambda: page.js(runs) == 2, 20)
        assert json.dumps(page.view) == "{}"


def test_the_matrix_is_walked_by_keys(page: Page, rows: pd.DataFrame) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(run="net", order="index")
    page.until(lambda: page.js("return document.getElementById('matrix').dataset.drawn"))
    page.keys("m", Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    page.until(lambda: "pred" in page.view)
    true, predicted = int(page.view["true"]), int(page.view["pred"])
    count = int(((rows.label == true) & (rows.predicted == predicted)).sum())
    page.has(count)
    assert f": {count} image" in page.text(".readout")
    assert f"of all true {page.js('return document.querySelector(`#chip-true`).innerText')[6:]}" in page.text(
        ".readout"
    )
    page.keys(Keys.ENTER)
    page.has(len(rows))
    page.clean()


def test_the_matrix_counts_groups_and_opens_one(page: Page, rows: pd.DataFrame) -> None:
    page.open(run="net", order="index", level="size")
    page.until(lambda: page.js("return document.getElementById('matrix').dataset.drawn"))
    side = (page.js("return document.getElementById('matrix').clientWidth") - 96) / 2
    page.press("#matrix", (96 + side / 2, 96 + side / 2))
    both = rows.label.isin([0, 2]) & rows.predicted.isin([0, 2])
    page.has(int(both.sum()))
    page.until(lambda: f"small → small: {both.sum()} images" in page.text(".readout"))
    assert page.text("#chip-true") == "true: small"
    page.open(run="net", order="index", most="g0.0")
    page.cell(None, None)
    page.until(
        lambda: page.js("return document.getElementById('matrix').getAttribute('aria-label')").find("2 classes") > 0
    )
    page.clean()


def test_images_with_several_labels_are_selected_by_what_they_miss(page: Page, logdir: Path) -> None:
    data = test_multi_label.frame(logdir / "scenes", 3)
    wrong_ones = data[data.missed.notna()]
    cells = {(int(i), -1): 0 for missed in wrong_ones.missed for i in missed}
    for missed, wrongly in zip(wrong_ones.missed, wrong_ones.wrongly_predicted, strict=True):
        for i in missed if not len(wrongly) else ():
            cells[int(i), -1] += 1
    label, number = max((n, i) for (i, _), n in cells.items())[::-1]
    page.open(run="scenes", order="index")
    page.has(len(data))
    page.until(lambda: page.js("return document.getElementById('matrix').dataset.drawn"))
    side = (page.js("return document.getElementById('matrix').clientWidth") - 96) / 5
    page.press("#matrix", (96 + 4.5 * side, 96 + (label + 0.5) * side))
    page.has(number)
    name = test_multi_label.CLASSES[label]
    assert (page.text("#chip-missed"), page.text("#chip-wrongly_predicted")) == (
        f"missed: {name}",
        "wrongly predicted: nothing",
    )
    page.click("#image-0")
    page.until(lambda: name in page.text(".heading"))
    assert "missed" in page.text(".heading")
    assert "this set" in page.text(".heading")
    assert f"missed {name}" in " ".join(page.text("#image-0").split())
    last = next(int(labels[-1]) for labels in data.predicted_labels.dropna() if len(labels) > 1)
    page.open(run="scenes", pred=str(last))
    captions = "return [...document.querySelectorAll('.cell .caption:nth-child(2)')].map(one => one.innerText.trim())"
    page.until(lambda: page.js(captions))
    assert all(text.startswith(test_multi_label.CLASSES[last]) for text in page.js(captions))
    page.open(run="scenes", pane="columns", true="1", pred="1,2")
    expected = [
        labels is not None and predicted is not None and 1 in labels and bool({1, 2} & set(predicted))
        for labels, predicted in zip(data.labels, data.predicted_labels, strict=True)
    ]
    page.has(sum(expected))
    page.clean()


def test_changes_of_a_label_are_counted_and_selected(page: Page, logdir: Path) -> None:
    new, old = (test_multi_label.frame(logdir / "scenes", step) for step in (3, 1))

    def added(now: Any, before: Any, label: int) -> bool:
        return now is not None and before is not None and label in now and label not in before

    pairs = list(zip(new.wrongly_predicted, old.wrongly_predicted, strict=True))
    counts = [sum(added(now, before, label) for now, before in pairs) for label in range(4)]
    label = counts.index(max(counts))
    page.open(run="scenes", other="scenes@1", pane="changes")
    page.until(lambda: page.text(f"#added-{label}") == str(counts[label]))
    page.click(f"#added-{label}")
    page.has(counts[label])
    of_label: dict[str, Any] = {"class": str(label)}
    page.open(run="scenes", pane="threshold", **of_label)
    true = new[new.missed.notna()].labels.map(lambda labels: label in labels)
    found = new[new.missed.notna()].predicted_labels.map(lambda labels: label in labels)
    page.until(lambda: page.text("#share") == f"{100 * (true & found).sum() / true.sum():.1f} %")
    page.clean()


def test_a_lasso_on_the_map_selects(page: Page) -> None:
    page.open(run="toy", pane="map")
    page.has(36)
    if not page.js("return Boolean(document.createElement('canvas').getContext('webgl2'))"):
        pytest.skip("this Chromium has no WebGL 2")
    page.until(lambda: page.js("return document.getElementById('map').dataset.drawn") == "36")
    width, height = page.js("const b = document.querySelector('.over'); return [b.clientWidth, b.clientHeight]")
    edge = ((1, 1), (width - 1, 1), (width - 1, height - 1), (1, height - 1))
    page.press(".over", *edge, (1, height / 2))
    page.until(lambda: "lasso" in page.view)
    page.has(36)
    page.click("#chip-lasso")
    page.until(lambda: "lasso" not in page.view)
    half = ((1, 1), (width / 2, 1), (width / 2, height - 1), (1, height - 1))
    page.press(".over", *half, (1, height / 2))
    page.until(lambda: "lasso" in page.view and page.total() is not None)
    assert 0 < (page.total() or 0) < 36
    page.clean()


def test_a_threshold_tells_what_is_accepted_and_shows_what_is_wrong_above(page: Page, rows: pd.DataFrame) -> None:
    page.open(run="net", pane="threshold", at="0.6")
    judged = rows[(rows.label >= 0) & (rows.predicted >= 0)]
    above = judged[judged.confidence >= 0.6]
    right = above.label == above.predicted
    page.until(lambda: page.text("#quality") == f"{100 * right.mean():.1f} %")
    assert page.text("#share") == f"{100 * len(above) / len(judged):.1f} %"
    page.click("#wrong-above")
    page.has(int((~right).sum()))
    page.click("#right-below")
    page.has(int(((judged.confidence <= 0.6) & (judged.label == judged.predicted)).sum()))
    page.clean()


def test_the_table_has_the_rows_in_the_order_of_a_column(page: Page, rows: pd.DataFrame) -> None:
    page.open(run="net", show="table", right="0")
    lines = "document.querySelectorAll('.table .inner .table-row')"
    cells = f"return [...{lines}].slice(0, 9).map(r => r.lastElementChild.innerText)"
    worst = rows[wrong(rows)].sort_values("loss", ascending=False, kind="stable")
    page.until(lambda: page.js(cells) == list(worst.image[:9]))
    page.click("#head-margin")
    page.click("#head-margin")
    least = rows[wrong(rows)].sort_values("margin", kind="stable")
    page.until(lambda: page.js(cells) == list(least.image[:9]))
    page.clean()

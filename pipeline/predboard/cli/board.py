"""Start TensorBoard for a folder of logs, and open the page to begin with. It knows nothing of predictions."""

import http.client
import importlib.metadata
import importlib.util
import json
import socket
import threading
import time
import urllib.parse
import webbrowser
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predboard.cli.terminal import log
from predboard.config import BoardConfig
from predboard.errors import InputError
from predboard.invocation import install_command
from predboard.near_paths import did_you_mean_path

if TYPE_CHECKING:
    from predboard.storage.mirror import Convert

SAMPLES = "images=1000,histograms=1000,text=1000,scalars=10000,pr_curves=1000"
"""More than we ever write of each kind. 0 would mean none, whatever the help says (TensorBoard issue 5550)."""

READY_SECONDS = 60.0
"""Longest wait for TensorBoard to have read the logs, before its address is printed all the same."""

_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104  a user names them


def board(config: BoardConfig) -> int:
    """Show a folder of logs until somebody ends it.

    Raises InputError if there is no folder, TensorBoard is not installed or the address cannot be used.
    """
    if not config.logdir.is_dir():
        near = did_you_mean_path(config.logdir, Path.is_dir)
        raise InputError(f"no folder {config.logdir}: run `predboard visualize` first, or name another --logdir{near}")
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(f"TensorBoard is not installed: {install_command('tensorboard')}")
    _check_address(config)
    from predboard.storage.mirror import mirror_log_folder

    try:
        with mirror_log_folder(config.logdir, log, more=_tab_files()) as folder:
            address = _start_tensorboard(config, folder) + first_tab(folder)
            _wait_until_read(config, folder)
            print(f"open {address}\n(press Ctrl-C to stop)", flush=True)
            if config.open:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    return 0


def _check_address(config: BoardConfig) -> None:
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot serve on {config.host}, port {config.port} ({error.strerror}): choose another --port or --host"
        ) from error


def _start_tensorboard(config: BoardConfig, folder: Path) -> str:
    """Start TensorBoard on a thread of this process, with which it ends however that ends, and return its address."""
    from tensorboard import program

    def serve(app: Any, flags: Any) -> Any:
        return program.WerkzeugServer(_begin_at_landing_page(app, config), flags)

    tensorboard = program.TensorBoard(server_class=serve)
    tensorboard.configure(
        [
            "",
            "--logdir",
            str(folder),
            "--host",
            config.host,
            "--port",
            str(config.port),
            "--samples_per_plugin",
            SAMPLES,
        ]
    )
    url = str(tensorboard.launch())
    if config.host in _ALL_INTERFACES:
        return f"http://{socket.gethostname()}:{config.port}/"
    return url


def _tab_files() -> "dict[str, Convert | None]":
    """Return the files that the tab Predictions reads: the record last, by which it knows that a run has changed."""
    from predboard.tab.answers import LOG_FILES
    from predboard.visualization.log_folder import RECORD_FILE, place_independent_record

    return {**dict.fromkeys(LOG_FILES), RECORD_FILE: place_independent_record}


def first_tab(folder: Path) -> str:
    """Return the end of the address that opens the tab Predictions; empty where it has nothing to show."""
    from predboard.tab.scan import has_runs

    plugins = importlib.metadata.entry_points(group="tensorboard_plugins")
    return "#predboard" if any(plugin.name == "predboard" for plugin in plugins) and has_runs(folder) else ""


def _begin_at_landing_page(app: Any, config: BoardConfig) -> Callable[[Any, Any], Iterable[bytes]]:
    """Return TensorBoard's application, in which the short address pins our best pictures.

    The tab is what the browser was asked for: it keeps the end of its address, which is not sent here.
    """

    def serve(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] in ("", "/") and not environ.get("QUERY_STRING"):
            start_response("302 Found", [("Location", landing_page(config)), ("Cache-Control", "no-store")])
            return [b""]
        return app(environ, start_response)

    return serve


def _wait_until_read(config: BoardConfig, folder: Path) -> None:
    """Wait until TensorBoard has all runs, and its Projector if there are points: what it lacks is missing at first."""
    runs = {file.parent for file in folder.glob("*/*tfevents*")}
    projector = any(folder.glob("*/projector_config.pbtxt"))
    started = time.monotonic()
    while time.monotonic() < started + READY_SECONDS:
        if len(_ask(config, "data/runs")) >= len(runs) and (
            not projector or _ask(config, "data/plugins_listing")["projector"]["enabled"]
        ):
            return
        time.sleep(0.1)
    log(f"warning: TensorBoard is still reading after {READY_SECONDS:.0f} s; reload the page if something is missing")


def _ask(config: BoardConfig, what: str) -> Any:
    host = "localhost" if config.host in _ALL_INTERFACES else config.host
    connection = http.client.HTTPConnection(host, config.port, timeout=READY_SECONDS)
    try:
        connection.request("GET", f"/{what}")
        return json.load(connection.getresponse())
    finally:
        connection.close()


def landing_page(config: BoardConfig) -> str:
    """Return where Time Series is, without smoothing, which bends short curves, and with the best pictures pinned.

    With one run, these are its report card and its two most confident mistakes; with several, the leaderboard and the
    report cards of the newest three. The card of the newest comparison, and what it broke, comes first. TensorBoard
    ignores a pin for which there is no picture.
    """
    from predboard.visualization.log_folder import LEADERBOARD_RUN, has_leaderboard, list_comparisons, list_runs

    runs = list_runs(config.logdir)[:3]
    pins = [(name, "1_glance/report_card", 0) for name in list_comparisons(config.logdir)[:1]]
    pins += [(name, "2_mistakes/broken", sample) for name, _, _ in pins for sample in range(2)]
    pins += [(LEADERBOARD_RUN, "1_glance/ranking", 0)] * has_leaderboard(config.logdir)
    pins += [(run, "1_glance/report_card", 0) for run in runs]
    if len(runs) == 1:
        pins += [(runs[0], "2_mistakes/confident", sample) for sample in range(2)]
        pins += [(runs[0], f"2_mistakes/{kind}", 0) for kind in ("wrongly_predicted", "missed")]  # of several labels
    cards = [{"plugin": "images", "tag": t, "runId": f"defaultExperimentId/{r}", "sample": s} for r, t, s in pins]
    compact = json.dumps(cards, separators=(",", ":"))
    query = urllib.parse.urlencode({"smoothing": 0, **({"pinnedCards": compact} if cards else {})}, safe=":,/")
    return f"?{query}"

"""Start TensorBoard for a folder of logs, and open the page to begin with. It knows nothing of predictions."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import webbrowser
from pathlib import Path

from predboard.cli.terminal import log
from predboard.config import BoardConfig
from predboard.errors import InputError


def board(config: BoardConfig) -> int:
    """Show a folder of logs until somebody ends it. Returns TensorBoard's exit code.

    Raises InputError if there is no folder, TensorBoard is not installed or the port is taken.
    """
    if not config.logdir.is_dir():
        raise InputError(f"no folder {config.logdir}: run `predboard visualize` first, or name another --logdir")
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed: pip install tensorboard")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", config.port))
        except OSError as error:
            raise InputError(f"port {config.port} is not free ({error.strerror}): choose another --port") from error
    from predboard.storage.mirror import mirror_log_folder

    with mirror_log_folder(config.logdir, log) as folder:
        return _run_tensorboard(config, folder)


def _run_tensorboard(config: BoardConfig, folder: Path) -> int:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(config.port)]
    # More than we ever write of each kind. 0 would mean none, whatever the help says (tensorboard issue 5550).
    command += ["--samples_per_plugin", "images=1000,histograms=1000,text=1000,scalars=10000,pr_curves=1000"]
    with subprocess.Popen(command) as tensorboard:  # noqa: S603  our own interpreter and flags
        try:
            while tensorboard.poll() is None and not _answers(config.port):
                time.sleep(0.2)
            if tensorboard.poll() is None:
                url = landing_page(config)
                print(f"\nopen {url}\n(press Ctrl-C to stop)", flush=True)
                if sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
                    webbrowser.open(url)
            return tensorboard.wait()
        except KeyboardInterrupt:
            tensorboard.terminate()
            return 0


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("localhost", port)) == 0


def landing_page(config: BoardConfig) -> str:
    """Return the URL of Time Series without smoothing, which bends short curves, and with the best pictures pinned.

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
    cards = [{"plugin": "images", "tag": t, "runId": f"defaultExperimentId/{r}", "sample": s} for r, t, s in pins]
    compact = json.dumps(cards, separators=(",", ":"))
    query = urllib.parse.urlencode({"smoothing": 0, **({"pinnedCards": compact} if cards else {})}, safe=":,/")
    return f"http://localhost:{config.port}/?{query}#timeseries"

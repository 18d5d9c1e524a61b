"""Serves the tab Predictions to TensorBoard: routes, limits of what is asked, and headers. It knows nothing of rows.

No path is ever made of what a request says: static files and runs come from closed lists, pictures go by run, step and
row. Whatever takes long to import is imported by the first request.
"""

import contextlib
import functools
import gzip
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from predboard.errors import InputError

if TYPE_CHECKING:
    from predboard.tab.routes import Routes

STATIC_FOLDER = Path(__file__).parent / "static"

STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

POST_HEADER = "X-Predboard"
"""Header of a POST. A foreign page cannot set it without asking first, which TensorBoard does not answer."""

MAX_POST_BYTES = 4_000_000
MAX_QUERY_BYTES = 60_000

YEAR_SECONDS = 365 * 86400

MIN_GZIP_BYTES = 1000

_COMMENT = re.compile(r"^[ \t]*/\*\*(?:(?!\*/).)*\*/[ \t]*$", re.MULTILINE | re.DOTALL)
"""Lines of a script that only its readers and the type checker need, a ninth of what a browser would get."""

_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
"""What begins the lines of scripts and styles, a twentieth. Texts of several lines are shaders, which need none."""

SMALL_BYTES = 30_000
"""Bytes below which an answer, such as a file of the page, is compressed as far as it goes, in a millisecond or two."""


class PredictionsPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """The tab Predictions."""

    plugin_name = "predboard"

    def __init__(self, context: base_plugin.TBContext) -> None:
        """Look at nothing yet."""
        self._logdir = Path(context.logdir).expanduser()
        self._warmed = threading.Event()
        self._static = {
            file.name: file
            for file in sorted(STATIC_FOLDER.glob("*"))
            if file.suffix in STATIC_TYPES and file.is_file()
        }

    @functools.cached_property
    def _routes(self) -> "Routes":
        from predboard.tab.routes import Routes

        return Routes(self._logdir)

    def is_active(self) -> bool:
        """Return whether the log folder has a run whose rows can be shown."""
        from predboard.tab.scan import has_runs

        active = has_runs(self._logdir)
        if active:  # TensorBoard's page asks, which takes a second or two to be there
            self._start_warming()
        return active

    def _start_warming(self) -> None:
        """Begin to read what the first view needs, once."""
        if not self._warmed.is_set():
            self._warmed.set()
            threading.Thread(target=self.warm, name="predboard-warm", daemon=True).start()

    def warm(self) -> None:
        """Read what the first view needs."""
        with contextlib.suppress(InputError, OSError):  # the requests of the page meet it again, and say it there
            self._routes.warm()

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return where the tab's script is."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Predictions")

    def get_plugin_apps(self) -> Mapping[str, Callable[..., Any]]:
        """Return what answers each route."""
        names = ("runs", "confusion", "order", "rows", "row", "hist", "curve", "compare", "points", "mask", "values")
        reads = (*names, "images", "image", "neighbours", "export")
        apps = {f"/{name}": _app(functools.partial(self._read, name)) for name in reads}
        apps |= {f"/{name}": _app(functools.partial(self._write, name)) for name in ("tag", "undo")}
        return apps | {"/static/*": _app(self._serve_static)}

    def _serve_static(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _refuse(405, "expected GET")
        if request.path.endswith("/index.js"):  # the tab is about to ask for rows
            self._start_warming()
        file = self._static.get(request.path.rpartition("/static/")[2])
        if file is None:
            return _refuse(404, "there is no such file")
        content = file.read_text("utf-8")
        if file.suffix == ".js":
            content = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), content)
        response = Response(_INDENT.sub("", content), content_type=f"{STATIC_TYPES[file.suffix]}; charset=utf-8")
        _compress(request, response)
        response.add_etag()
        response.headers["Cache-Control"] = "no-cache"
        return response.make_conditional(request)

    def _read(self, name: str, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _refuse(405, f"/{name} expects GET")
        if len(request.query_string) > MAX_QUERY_BYTES:
            return _refuse(400, f"the query has {len(request.query_string):,} bytes; expected {MAX_QUERY_BYTES:,}")
        answer = self._routes.read(name, request.args.to_dict(flat=False))
        if not answer.content and not answer.filename:
            response = Response(status=204, content_type=answer.content_type)
        elif answer.etag:
            response = Response(answer.content, content_type=answer.content_type)
            response.set_etag(answer.etag)
            response = response.make_conditional(request)
        else:
            response = Response(answer.content, content_type=answer.content_type)
            if not answer.is_compressed:
                _compress(request, response)
        forever = f"private, max-age={YEAR_SECONDS}, immutable"
        response.headers["Cache-Control"] = forever if answer.immutable else "no-cache" if answer.etag else "no-store"
        if answer.filename:
            name = urllib.parse.quote(answer.filename)
            plain = re.sub(r"[^A-Za-z0-9._ -]", "_", answer.filename)
            response.headers["Content-Disposition"] = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{name}"
        return response

    def _write(self, name: str, request: Request) -> Response:
        if request.method != "POST":
            return _refuse(405, f"/{name} expects POST")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")  # browsers leave it out on http://ADDRESS
        if request.headers.get(POST_HEADER) != "1" or site != "same-origin":
            return _refuse(403, "only the tab itself may change tags")
        if request.mimetype != "application/json":
            return _refuse(400, "expected JSON with Content-Type: application/json")
        if request.content_length is None or request.content_length > MAX_POST_BYTES:
            return _refuse(413, f"expected at most {MAX_POST_BYTES:,} bytes")
        try:
            body = json.loads(request.get_data())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return _refuse(400, "expected a JSON object")
        return _json(self._routes.write(name, body))


def _app(handler: Callable[[Request], Response]) -> Callable[..., Any]:
    """Return a handler as a WSGI application: bad input becomes one sentence, and each answer has our headers."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        try:
            response = handler(request)
        except InputError as error:
            response = _refuse(getattr(error, "status", 400), str(error))
        # What we send is never taken for something else, and no other site may show it.
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response(environ, start_response)

    return application


def _compress(request: Request, response: Response) -> None:
    if len(response.data) > MIN_GZIP_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
        level = 9 if len(response.data) < SMALL_BYTES else 1
        response.data = gzip.compress(response.data, level, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"


def _json(answer: object, status: int = 200) -> Response:
    response = Response(json.dumps(answer), status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _refuse(status: int, why: str) -> Response:
    return _json({"error": why}, status)

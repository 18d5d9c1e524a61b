"""A server on this machine that speaks S3, and faults on its way: what the tests of storage talk to."""

import contextlib
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass(frozen=True)
class Request:
    """What the server is asked."""

    method: str
    path: str
    """/bucket/key."""
    query: str
    range: str
    signed: bool

    @property
    def lists(self) -> bool:
        """Whether it is a page of a listing."""
        return self.method == "GET" and "list-type" in self.query


Fault = str | float | None
"""503, 403: that answer. reset: the connection is reset. cut: reset in the middle of the answer. A number: the answer
is held up for so many seconds."""

Plan = Callable[[Request, int], Fault]
"""What goes wrong with a request that is made for the n-th time, from 1."""

ANSWERS = {
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "403": ("403 Forbidden", "AccessDenied", "Access Denied"),
}


def nothing_fails(request: Request, attempt: int) -> Fault:  # noqa: ARG001  a plan like the others
    """As usual."""
    return None


def each_fails_once(request: Request, attempt: int) -> Fault:
    """Every request fails the first time, each in its way, and is answered the second."""
    ways = ("503", "reset", "cut") if request.method == "GET" else ("503", "reset")
    return ways[crc32(repr(request).encode()) % len(ways)] if attempt == 1 else None


def each_is_refused_once(request: Request, attempt: int) -> Fault:
    """Every request is throttled or reset the first time, and answered the second."""
    return ("503", "reset")[crc32(repr(request).encode()) % 2] if attempt == 1 else None


def a_share_fails(share: float) -> Plan:
    """That share of all requests is throttled, repeated or not; which ones is always the same."""
    return lambda request, attempt: "503" if crc32(repr((request, attempt)).encode()) % 1000 < 1000 * share else None


class Server:
    """moto behind a door where faults happen."""

    def __init__(self) -> None:
        import boto3  # here, because they take a second to import, also where no test needs them
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._attempts: Counter[Request] = Counter()
        self._now = 0
        self.plan: Plan = nothing_fails
        self._released = threading.Event()
        """Set when answers are held up no longer."""
        self.asked: list[Request] = []
        """Since `watched`."""
        self.most = 0
        """Requests that were answered at the same time."""
        self.heard: Callable[[Request], object] = bool
        """Called after a request was carried out, before it is answered."""
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of connections that we reset
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="x", aws_secret_access_key="y", region_name="us-east-1"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def watched(self, plan: Plan | None = None) -> Iterator[list[Request]]:
        """What is asked meanwhile, with faults by that plan."""
        self.asked, self.most, before = [], 0, self.plan
        self._attempts.clear()
        self._released = threading.Event()
        self.plan = plan or before
        try:
            yield self.asked
        finally:
            self.plan, self.heard = before, bool
            self._released.set()  # or the next test would count these requests

    def keys(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """ETag of each object, by what follows the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {o["Key"].removeprefix(prefix): o["ETag"] for page in pages for o in page.get("Contents", ())}

    def content(self, bucket: str, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        signed = "HTTP_AUTHORIZATION" in environ
        request = Request(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_RANGE", ""),
            signed,
        )
        with self._lock:
            self._attempts[request] += 1
            attempt = self._attempts[request]
            self.asked.append(request)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            fault = self.plan(request, attempt)
            if fault in ANSWERS:
                status, code, said = ANSWERS[str(fault)]
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{said}</Message></Error>".encode()
                start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
            if fault == "reset":
                _reset(environ)
                raise ConnectionResetError
            answer = b"".join(self._app(environ, start))
            self.heard(request)
            if fault == "cut":
                return self._cut(environ, answer)
            if isinstance(fault, float):
                self._released.wait(fault)
            return [answer]
        finally:
            with self._lock:
                self._now -= 1

    def _cut(self, environ: dict[str, Any], answer: bytes) -> Iterator[bytes]:
        yield answer[: len(answer) // 2]
        _reset(environ)
        raise ConnectionResetError


def _reset(environ: dict[str, Any]) -> None:
    """Close the connection at once, so that the other side hears of it as a reset."""
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, connection.fileno())  # closing would wait for the files that Python made of it
    os.close(nowhere)


class _Quiet(WSGIRequestHandler):
    """Says nothing of each request."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
        pass

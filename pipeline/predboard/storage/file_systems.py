"""Connects to object storage and explains its errors. A new kind of storage is another case in `_connect`.

It knows nothing of paths or files. pyarrow.fs speaks to S3 and GCS, and through it fsspec to every other kind.
Credentials come from the environment, from the configuration of the storage's own tools or from the machine's role,
never from a URI.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

from predboard.errors import InputError, first_line
from predboard.invocation import install_command

if TYPE_CHECKING:
    from pyarrow import fs

MAX_ATTEMPTS = 9
"""Largest number of attempts at a request that is throttled or broken off; the waits between them add up to 13 s."""

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 20.0
"""Longest time that a connection may take to open, or stay silent, before the request is retried."""

UNREACHABLE_SECONDS = 20.0
"""Time for which a bucket that could not be reached counts as unreachable without another attempt."""


class StorageError(InputError, OSError):
    """Storage that cannot be reached, or that refuses a request. The objects themselves are not damaged."""

    @property
    def reason(self) -> str:
        """The message without the path, the same for every object."""
        return str(self).partition(": ")[2].partition(" (")[0] or str(self)


class Bucket:
    """A bucket, whose file system is made once for all threads.

    Where that fails, the error is raised for a while without another attempt, so that many callers do not each wait.
    """

    def __init__(self, scheme: str, name: str) -> None:
        self._scheme, self._name = scheme, name
        self._lock = threading.Lock()
        self._connection: fs.FileSystem | Exception = RuntimeError("not connected yet")
        self._retry_at = 0.0
        """`time.monotonic` of the next attempt."""

    def file_system(self) -> fs.FileSystem:
        """Return the file system. Raises StorageError if there is no such bucket, or any error of Arrow and fsspec."""
        with self._lock:
            if isinstance(self._connection, Exception) and time.monotonic() >= self._retry_at:
                try:
                    self._connection = _connect(self._scheme, self._name)
                except Exception as error:  # fsspec's file systems raise what their libraries do
                    self._connection, self._retry_at = error, time.monotonic() + UNREACHABLE_SECONDS
            if isinstance(self._connection, Exception):
                raise self._connection
            return self._connection


@functools.lru_cache(maxsize=64)
def open_bucket(scheme: str, name: str, environment: tuple[tuple[str, str], ...]) -> Bucket:
    """Return the bucket of this name, the same object for all callers.

    Args:
        scheme: of its URI.
        name: the bucket's.
        environment: the variables of this process: a program may set other credentials, or another endpoint.
    """
    del environment  # which is read when the bucket connects
    return Bucket(scheme, name)


def _connect(scheme: str, bucket: str) -> fs.FileSystem:
    """Make the file system of a scheme: the place to add a storage backend that fsspec does not cover."""
    from pyarrow import fs  # only where storage is used

    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:
            region = fs.resolve_s3_region(bucket)
        storage: fs.FileSystem = fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=SILENCE_SECONDS,
            # With the other strategy, "standard", all threads share one stock of retries, which throttling empties.
            retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            allow_delayed_open=True,  # one request for a small object instead of three
        )
    elif scheme in ("gs", "gcs"):
        storage = fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=30))
    else:
        return fs.PyFileSystem(fs.FSSpecHandler(_fsspec_file_system(scheme)))
    with contextlib.suppress(PermissionError):
        try:
            info = storage.get_file_info(bucket)
        except OSError as error:
            if "ACCESS_DENIED" not in str(error):  # credentials for some keys only may not ask for the bucket
                raise
        else:
            if info.type == fs.FileType.NotFound:
                raise StorageError(f"there is no bucket {bucket!r} in {scheme}://: create it, or check its name")
    return storage


def _fsspec_file_system(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{scheme}:// needs fsspec: {install_command('fsspec')}") from error
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise InputError(f"{scheme}:// needs another package ({first_line(error)})") from error
    except ValueError as error:
        raise InputError(f"unknown kind of storage {scheme}://: {first_line(error)}") from error


_REASONS = (
    (r"NO_SUCH_BUCKET|NoSuchBucket|[Bb]ucket .*not (exist|found)", "there is no such bucket"),
    (
        r"EXPIRED_TOKEN|ExpiredToken|INVALID_ACCESS_KEY|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|"
        r"UNRECOGNIZED_CLIENT|UNAUTHENTICATED|status 401",
        "the credentials are wrong or have expired",
    ),
    (r"OAuth2 access token", "there are no credentials: see GOOGLE_APPLICATION_CREDENTIALS and gcloud auth"),
    (
        r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|Forbidden|status 403",
        "access is denied: are there credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, a role, …), and do they allow this?",
    ),
    (r"SLOW_DOWN|SlowDown|THROTTL|SERVICE_UNAVAILABLE|status (503|429)", "it stays throttled or unavailable"),
    (r"PERMANENT_REDIRECT|PermanentRedirect|status 301", "the bucket is in another region: set AWS_REGION to it"),
    (r"curlCode|NETWORK_CONNECTION|[Cc]onnect|resolve host|UNAVAILABLE|timed? ?out", "it cannot be reached"),
)
SHORT_READ_PATTERN = re.compile("GetObject operation: Failed to flush response stream")
"""Arrow's message if a refusal of S3, such as 503 SlowDown, is longer than the bytes that were asked for.

Its client retries refusals of other requests itself.
"""

_STORAGE_ERROR = re.compile("AWS Error|google::cloud|curlCode|HTTP status")


def is_storage_error(error: Exception) -> bool:
    """Return whether an error of Arrow comes from the storage and not from the content of a file."""
    return _STORAGE_ERROR.search(str(error)) is not None


def explain_error(path: object, error: Exception) -> StorageError:
    """Return the error as one line that names the path and the most likely reason."""
    message = textwrap.shorten(first_line(error), 300, placeholder=" …")
    searched = re.sub(r"(key|bucket) '[^']*'", "", message)  # without names, which may contain any of the words
    reason = next((words for pattern, words in _REASONS if re.search(pattern, searched)), "")
    return StorageError(f"{path}: {reason} ({message})" if reason else f"{path}: {message}")

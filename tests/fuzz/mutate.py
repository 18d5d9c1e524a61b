"""Changes values, trees of values, bytes and containers: by meaning where something is known of it. It runs nothing."""

import datetime
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any


class Raw(str):
    """Text that stands in JSON or TOML as it is, although no writer would write it."""

    __slots__ = ()


def deep(depth: int = 5_000) -> Raw:
    """Return a list in a list in a list."""
    return Raw("[" * depth + "]" * depth)


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 3.7, -0.0, 1e308, 2**31, 2**63, 2**64 - 1, -(2**63) - 1, 10**30, 10**400),
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"), Raw("9" * 5_000), Raw("0" + "1" * 30), deep()),
    *(
        "",
        " ",
        "\0",
        "NaN",
        "null",
        "[]",
        "é",
        "\u202e",
        "\x1b[31mred",
        "=1+1",
        "a,b",
        'a"b',
        "a;b",
        "a\nb",
        "x" * 70_000,
    ),
    *("0", "1e3", "007", "9999-12-31", "0000-00-00T99:99:99Z", "2024-02-30", "\ud800"),
    *([], {}, [[]], [None], {"": None}, [1, "a"], [0.5, 0.5], {"label": 1}, ["a", "b"], {"a": {"b": {}}}),
)
"""Values that someone's program may write where another is expected."""

HOSTILE_PATHS = (
    *(
        "",
        ".",
        "/",
        "..",
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/null",
        "a/0.png#1",
        "a.zip#b.png",
        "x" * 300 + ".png",
    ),
    *(
        "a" + "/b" * 3_000 + ".png",
        "a\0b.png",
        "\udcff.png",
        "file:///etc/passwd",
        "~/x.png",
        "{1..3}.png",
        "*.png",
        "%00",
    ),
    *("con.png", " a/0.png", "a/0.png ", "A/0.PNG", "a//0.png", "./a/0.png", "a\\0.png", "data:image/png;base64,AA"),
)
"""Texts that are no path of a picture, or a strange one."""


def dumps(value: Any, **options: Any) -> str:
    """Return JSON, with raw text and numbers that no other writer would give."""
    raws: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Raw) or (isinstance(value, int) and abs(value) > 10**300):
            raws.append(value if isinstance(value, Raw) else "1" + "0" * 400)
            return f"@raw{len(raws) - 1}@"
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    text = json.dumps(plain(value), **options)
    for i, raw in enumerate(raws):
        text = text.replace(f'"@raw{i}@"', raw)
    return text


def tree(random: Random, value: Any, pool: Sequence[Any] = HOSTILE) -> tuple[Any, str]:
    """Change one place of a JSON value. -> the value, and what was done."""
    places: list[tuple[Any, ...]] = [()]

    def walk(inner: Any, path: tuple[Any, ...]) -> None:
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, below in items:
            places.append((*path, key))
            walk(below, (*path, key))

    walk(value, ())
    path = random.choice(places)
    how = random.choice(("replace", "replace", "replace", "remove", "rename", "wrap"))
    hostile = random.choice(pool)
    where = ".".join(map(str, path)) or "top"
    if not path:
        return hostile, f"{where} = {short(hostile)}"
    value = json.loads(json.dumps(value))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if how == "remove":
        del parent[path[-1]]
    elif how == "rename" and isinstance(parent, dict):
        parent[str(short(hostile))] = parent.pop(path[-1])
    elif how == "wrap":
        parent[path[-1]] = [parent[path[-1]]]
    else:
        how, parent[path[-1]] = f"= {short(hostile)}", hostile
    return value, f"{where} {how}"


def short(value: Any) -> str:
    """Return a value for a report."""
    text = (
        str(value) if isinstance(value, Raw) else "10**400" if isinstance(value, int) and value > 1e30 else repr(value)
    )
    return text if len(text) < 30 else f"{text[:12]}…({len(text)})"


BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n",
    b"PK\x03\x04",
    b"PAR1",
    b"null",
    b"\x80\x02}q\0.",
    b"[",
    b"\0",
    b"\x1f\x8b",
    b"\xff\xfe",
)


def spoil_bytes(random: Random, content: bytes) -> tuple[bytes, str]:
    """Damage a file without knowing what it is. -> bytes, and what was done."""
    at, size = random.randrange(len(content) + 1), random.choice((1, 4, 512))
    ways: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "one byte": lambda: content[:1],
        "cut": lambda: content[:at],
        "cut at the end": lambda: content[:-size],
        "without its beginning": lambda: content[size:],
        "garbage after": lambda: content + bytes(random.randrange(256) for _ in range(size)),
        "twice": lambda: content + content,
        "bit": lambda: (
            content[:at] + bytes(b ^ 1 << random.randrange(8) for b in content[at : at + 1]) + content[at + 1 :]
        ),
        "zeros": lambda: content[:at] + bytes(min(size, len(content) - at)) + content[at + size :],
        "ones": lambda: content[:at] + b"\xff" * min(4, len(content) - at) + content[at + 4 :],
        "inserted": lambda: content[:at] + bytes(random.randrange(256) for _ in range(size)) + content[at:],
        "another kind": lambda: random.choice(BEGINNINGS) * 3,
    }
    name = random.choice(list(ways))
    return ways[name](), f"bytes: {name} at {at} of {len(content)}"


# --- containers ---


def zip_of(random: Random, members: dict[str, bytes]) -> tuple[bytes, str]:
    """Write a zip file that is not as it should be. -> bytes, and what was done."""
    name = random.choice(list(members))
    how = random.choice(("duplicate", "rename", "crc", "method", "size", "encrypted", "directory", "comment", "bytes"))
    renamed = random.choice((*HOSTILE_PATHS, "/abs/0.png", "../0.png", "a/1.png"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, content in members.items():
            new = renamed if how == "rename" and member == name else member
            archive.writestr(new.encode("utf-8", "replace").decode()[:60_000] or "x", content)
        if how == "duplicate":
            archive.fp.flush()  # type: ignore[union-attr]
            archive.NameToInfo.pop(name)
            archive.writestr(name, b"another")
        if how == "comment":
            archive.comment = b"PK\x05\x06" * 9
    data = bytearray(buffer.getvalue())
    central = data.find(b"PK\x01\x02")
    at = {"crc": (16, 4), "method": (10, 2), "size": (24, 4), "encrypted": (8, 2), "directory": (42, 4)}.get(how)
    if at:
        value = {"encrypted": 1, "method": 99}.get(how, random.choice((0, 1, 2**31, 2**32 - 1)))
        struct.pack_into("<I" if at[1] == 4 else "<H", data, central + at[0], value)
    if how == "bytes":
        return spoil_bytes(random, bytes(data))
    return bytes(data), f"zip: {how} {name} {short(renamed) if how == 'rename' else ''}"


def tar_of(random: Random, members: dict[str, bytes]) -> tuple[bytes, str]:
    """Write a tar file that is not as it should be. -> bytes, and what was done."""
    name = random.choice(list(members))
    hows = (
        "duplicate",
        "rename",
        "link",
        "symlink",
        "fifo",
        "size",
        "pax",
        "time",
        "checksum",
        "bytes",
        "cut",
        "sector",
    )
    how = random.choice(hows)
    renamed = random.choice((*HOSTILE_PATHS, "/abs/0.png", "../0.png", "a/1.png"))
    buffer = io.BytesIO()
    start = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="replace") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            if member == name:
                start = archive.offset
                info.name = renamed.replace("\0", "0") or "x" if how == "rename" else member
                if how in ("link", "symlink", "fifo"):
                    info.type = {"link": tarfile.LNKTYPE, "symlink": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}[how]
                    info.linkname, info.size = random.choice((*members, "/etc/passwd", name)), 0
                if how == "pax":
                    key = random.choice(
                        ("size", "path", "mtime", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset", "uid")
                    )
                    info.pax_headers = {key: random.choice(("-1", "1e400", "x", "9" * 400, "\x01", "1"))}
                if how == "time":
                    info.mtime = random.choice((-1, 2**62, 1e300))
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
            if how == "duplicate" and member == name:
                archive.addfile(info, io.BytesIO(content))
    data = bytearray(buffer.getvalue())
    if how in ("size", "checksum"):
        value = random.choice((b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0", b"zz"))
        data[start + 124 : start + 124 + len(value)] = value
        if how == "size":  # with a checksum that fits
            header = bytes(data[start : start + 148]) + b" " * 8 + bytes(data[start + 156 : start + 512])
            data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    if how == "sector":
        data[start : start + 512] = bytes(512)
    if how == "cut":
        data = data[: max(512, start)]
    if how == "bytes":
        return spoil_bytes(random, bytes(data))
    return bytes(data), f"tar: {how} {name} {short(renamed) if how == 'rename' else ''}"


def plain_zip(members: dict[str, bytes]) -> bytes:
    """Write a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def plain_tar(members: dict[str, bytes]) -> bytes:
    """Write a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def toml(value: Any) -> str:
    """Return a value as TOML, or as what looks like it."""
    if isinstance(value, Raw):
        return str(value).replace("NaN", "nan").replace("Infinity", "inf")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return "1" + "0" * 400 if value > 10**300 else str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, datetime.date | float):
        return str(value)
    return "nothing" if value is None else json.dumps(value)

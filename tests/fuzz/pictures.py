"""Fuzzed pictures for `infer`: in folders, archives, IDX and Parquet. It judges nothing."""

import functools
import gzip
import json
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import inputs, mutate
from tests.fuzz.harness import Case
from tests.fuzz.inputs import BY_PATH, BY_PLACE, LABELS, MEMBERS, PATHS, PICTURES, PREDICTED, ROWS
from tests.fuzz.mutate import short


def odd_picture(random: Random) -> tuple[bytes, str]:
    """Return a picture that is none, or promises more than there is."""
    content = bytearray(PICTURES[0])
    huge = struct.pack(
        ">II", random.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)), random.choice((0, 8, 2**16, 2**31 - 1))
    )
    header = bytes(content[12:16]) + huge + bytes(content[24:29])
    ways: dict[str, bytes] = {
        "huge": bytes(content[:12]) + header + struct.pack(">I", zlib.crc32(header)) + bytes(content[33:]),
        "bmp": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 2**30, -(2**30), 1, 24) + bytes(24),
        "ppm": b"P6 99999 99999 255\n" + bytes(99),
        "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + bytes(20),
        "tiff": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(30),
        "webp": b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(30),
    }
    name = random.choice((*ways, "bytes", "bytes"))
    return mutate.spoil_bytes(random, bytes(content)) if name == "bytes" else (ways[name], f"picture: {name}")


def class_folders(random: Random, folder: Path) -> Case:
    """A folder of class folders."""
    case = inputs.pictures_beside(folder, "infer folder")
    place, chosen = folder / "data", folder / "data" / random.choice(PATHS)
    case.changed = {"/".join(chosen.parts[-2:])[:3]}
    way = random.choice(("junk", "junk", "junk", "picture", "picture", "name", "link", "loop", "beside", "class"))
    case.mutation = way
    if way == "junk":
        junk = random.choice(
            (
                "__MACOSX/a/._0.png",
                "a/._0.png",
                ".DS_Store",
                "a/Thumbs.db",
                "a/@eaDir/0.png",
                "a/.ipynb_checkpoints/0.png",
                "a/readme.md",
                "a/0.jfif",
            )
        )
        (place / junk).parent.mkdir(parents=True, exist_ok=True)
        (place / junk).write_bytes(b"junk")
        case.mutation = f"junk {junk}"
    elif way == "picture":
        content, case.mutation = odd_picture(random)
        chosen.write_bytes(content)
        case.promise = "told"
    elif way == "name":
        name = random.choice(
            (
                b"\xff\xe9.png",
                b"a\nb.png",
                b"#.png",
                b"x" * 250 + b".png",
                b"{1,2}.png",
                b"\x1b[31m.png",
                b"-x.png",
                b"%.png",
            )
        )
        chosen.rename(chosen.parent / bytes(name).decode("utf-8", "surrogateescape"))
        case.mutation, case.promise = f"renamed to {short(name)}", "told"
        case.changed.add(f"{chosen.parent.name}/{bytes(name).decode('utf-8', 'surrogateescape').partition('.')[0]}")
        case.changed |= {str(i) for i in range(ROWS) if not name.isascii() or b"#" in name}
    elif way == "link":
        target = random.choice(("/dev/zero", "/nowhere", "../../net.py", str(chosen), "../b/1.png"))
        chosen.unlink()
        chosen.symlink_to(target)
        case.mutation, case.promise = f"a link to {target}", "told"
    elif way == "loop":
        (place / "a" / "loop").symlink_to(place)
        case.promise = "told"
    elif way == "beside":
        (place / "d.png").write_bytes(PICTURES[0])
        case.promise = "told"
    else:
        (place / random.choice(("d", "c,d", "é", "\\", "#", "step=1"))).mkdir()
        case.promise = "told"
    inputs.infer(case, "data")
    case.names |= {case.folder.name}
    return case


def archive(random: Random, folder: Path, kind: str) -> Case:
    """An archive of class folders, or a shard of WebDataset."""
    case = inputs.base(folder)
    case.door = f"infer {kind}"
    members = dict(MEMBERS)
    if kind == "webdataset":
        end = random.choice(("cls", "json"))
        for i, path in enumerate(PATHS):
            text = str(LABELS[i]) if end == "cls" else json.dumps({"label": LABELS[i], "n": i})
            members[f"{path[:-3]}{end}"] = text.encode()
    i, way, file = random.randrange(ROWS), random.randrange(5), f"x.{'zip' if kind == 'zip' else 'tar'}"
    case.changed = {PATHS[i][:3]}
    plain = mutate.plain_zip if kind == "zip" else mutate.plain_tar
    if way == 0:
        members[PATHS[i]], case.mutation = odd_picture(random)
        content, case.promise = plain(members), "told"
    elif way == 1:
        junk = random.choice(
            ("__MACOSX/a/._0.png", "a/._0.png", "a/@eaDir/0.png", "readme.md", "a/.ipynb_checkpoints/0.png")
        )
        members[junk], case.mutation = b"junk", f"junk {junk}"
        content = plain(members)
    elif way == 2 and kind == "webdataset":
        last = list(members)[-1]
        hostile, what = mutate.tree(random, {"label": LABELS[-1], "n": 11})
        members[last] = random.choice(
            (mutate.dumps(hostile).encode("utf-8", "surrogatepass"), str(hostile).encode("utf-8", "replace"))
        )
        case.mutation, case.promise, case.changed, content = f"{last}: {what}", "told", {"c/3"}, plain(members)
    elif way == 3:
        content, case.mutation = mutate.spoil_bytes(random, plain(members))
        case.promise = "told" if any(w in case.mutation for w in ("cut", "empty", "zeros")) else "any"
    else:
        content, case.mutation = (mutate.zip_of if kind == "zip" else mutate.tar_of)(random, members)
        unclear = ("bytes", "rename") if "cut" not in case.mutation else ()
        case.promise = "any" if any(word in case.mutation for word in unclear) else "told"
        case.changed |= set(BY_PATH)  # another picture may have the name now
    (folder / file).write_bytes(content)
    return inputs.infer(case, file)


def idx(random: Random, folder: Path) -> Case:
    """Pictures and labels as MNIST has them."""
    case = inputs.base(folder)
    case.door = "infer idx"
    end = random.choice(("", ".gz"))
    pixels = np.array([(51, 128, 204)[c] for c in PREDICTED], np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    pictures = bytearray(struct.pack(">IIII", 0x803, ROWS, 8, 8) + pixels.tobytes())
    labels = bytearray(struct.pack(">II", 0x801, ROWS) + bytes(LABELS))
    way = random.randrange(5)
    case.truth = {f"t10k-images-idx3-ubyte{end}/{i}": row for i, row in enumerate(BY_PLACE.values())}
    if way == 0:
        word, value = (
            random.randrange(4),
            random.choice((0, 1, 7, 13, 2**31 - 1, 2**31, 2**32 - 1, 0xD03, 0x8FF, 0x800)),
        )
        struct.pack_into(">I", pictures, 4 * word, value)
        case.mutation, case.promise = f"word {word} = {value}", "told"
    elif way == 1:
        struct.pack_into(">I", labels, 4 * random.randrange(2), random.choice((0, 1, 11, 2**32 - 1, 0x803)))
        case.mutation, case.promise = "words of the labels", "told"
    elif way == 2:
        i = random.randrange(ROWS)
        labels[8 + i], case.mutation, case.promise, case.changed = (
            255,
            "a label of 255",
            "told",
            {f"t10k-images-idx3-ubyte{end}/{i}"},
        )
    files = [bytes(pictures), bytes(labels)]
    pack = gzip.compress if end else bytes
    for name, content in zip(("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), files, strict=True):
        inputs.write(case, random, name + end, pack(content), way == 3 and name.endswith("3-ubyte"))
    if way == 4 and end:
        content = gzip.compress(bytes(2**28))
        (folder / f"t10k-images-idx3-ubyte{end}").write_bytes(content)
        case.mutation, case.promise = "256 MB of zeros", "told"
    case.names |= {"t10k-labels-idx1-ubyte"}
    return inputs.infer(case, f"t10k-images-idx3-ubyte{end}", "--channels", "gray", net="Grey")


def parquet_pictures(random: Random, folder: Path) -> Case:
    """Parquet with pictures in it."""
    case = inputs.base(folder)
    case.door = "infer parquet with pictures"
    pictures: list[Any] = [{"bytes": PICTURES[c], "path": None} for c in PREDICTED]
    i, way = random.randrange(ROWS), random.randrange(4)
    case.truth = {f"x.parquet/{i}": row for i, row in enumerate(BY_PLACE.values())}
    case.changed = {f"x.parquet/{i}"}
    if way == 0:
        pictures[i] = random.choice(
            (
                None,
                {"bytes": None, "path": None},
                {"bytes": odd_picture(random)[0], "path": "/dev/zero"},
                {"bytes": b"", "path": ""},
            )
        )
        case.mutation, case.promise = "a picture that is none", "told"
    image = pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    if way == 1:
        type_ = random.choice((pa.binary(), pa.large_binary(), pa.binary_view()))
        image, case.mutation = pa.array([p["bytes"] for p in pictures], type_), f"pictures are {type_}"
    label = random.choice((pa.array(LABELS), pa.array(LABELS, pa.uint64()), pa.array(LABELS).dictionary_encode()))
    table = pa.table({"image": image, "label": label})
    if way == 2:
        features: Any = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}}}
        features, case.mutation = mutate.tree(random, features)
        case.promise = "any"
        table = table.replace_schema_metadata({"huggingface": mutate.dumps(features).encode("utf-8", "surrogatepass")})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    inputs.write(case, random, "x.parquet", bytes(sink.getvalue()), way == 3)
    return inputs.infer(case, "x.parquet")


DOORS: dict[str, inputs.Door] = {
    **{f"infer {kind}": functools.partial(archive, kind=kind) for kind in ("zip", "tar", "webdataset")},
    "infer folder": class_folders,
    "infer idx": idx,
    "infer parquet pictures": parquet_pictures,
}

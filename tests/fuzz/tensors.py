"""Fuzzed tensors and arrays: checkpoints for `infer`, and predictions for `import`. It judges nothing."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import inputs, mutate
from tests.fuzz.harness import Case
from tests.fuzz.inputs import BY_PLACE, LABELS, LOGITS, ROWS
from tests.fuzz.mutate import HOSTILE, short


def odd_tensor(random: Random) -> tuple[Any, str]:
    """Return a tensor, or what stands in its place, that is not what it seems."""
    import torch

    plain = torch.tensor(LOGITS, dtype=torch.float32)
    ways: dict[str, Callable[[], Any]] = {
        "meta": lambda: plain.to("meta"),
        "sparse": lambda: plain.to_sparse(),
        "conjugate": lambda: plain.to(torch.complex64).conj(),
        "imaginary": lambda: plain.to(torch.complex64).conj().imag,
        "expanded": lambda: torch.zeros(1).expand(2**40),
        "expanded rows": lambda: torch.zeros(1, 1).expand(2**33, 3),
        "float8": lambda: plain.to(torch.float8_e4m3fn),
        "nan": lambda: plain * float("nan"),
        "bool": lambda: plain > 0,
        "int64": lambda: plain.long(),
        "scalar": lambda: torch.tensor(1.0),
        "none": lambda: torch.zeros(0, 3),
        "short": lambda: plain[:4],
        "transposed": lambda: plain.T,
        "deep": lambda: plain[None, None],
        "parameter": lambda: torch.nn.Parameter(plain),
    }
    if random.random() < 0.3:
        hostile = random.choice([v for v in HOSTILE if not isinstance(v, mutate.Raw)])
        return hostile, short(hostile)
    name = random.choice(list(ways))
    return ways[name](), name


def torch_file(value: Any) -> bytes:
    """Return what torch.save writes; plain if it cannot save that."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pt(random: Random, folder: Path) -> Case:
    """Predictions that torch.save wrote."""
    import torch

    case = inputs.base(folder)
    case.door, case.truth = "import .pt", BY_PLACE
    logits, labels = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(LABELS)
    value: Any = {"logits": logits, "labels": labels, "epoch": 3}
    way = random.randrange(5)
    if way == 0:
        key = random.choice(("logits", "labels", "more"))
        value[key], what = odd_tensor(random)
        case.mutation, case.promise = f"{key} = {what}", "told"
    elif way == 1:
        type_ = random.choice((torch.float64, torch.float16, torch.bfloat16))
        value["logits"] = (logits.round() if type_ == torch.bfloat16 else logits).to(type_).requires_grad_()
        value["labels"] = labels.to(random.choice((torch.int8, torch.uint8, torch.int32, torch.float32)))
        case.mutation = f"logits are {type_}, labels {value['labels'].dtype}"
    elif way == 2:
        batches = [{"logits": logits[a : a + 5], "labels": labels[a : a + 5]} for a in (0, 5, 10)]
        value, case.mutation = batches, "batches"
        if random.random() < 0.7:
            batches[1][random.choice(("logits", "labels", "more"))], what = odd_tensor(random)
            case.mutation, case.promise = f"batches: {what}", "told"
    content = torch_file(value)
    if way == 3:
        content, case.mutation = mutate.spoil_bytes(random, content)
        case.promise = "any"
    elif way == 4 and random.random() < 0.5:
        hostile, case.mutation = random.choice([v for v in HOSTILE if not isinstance(v, mutate.Raw)]), "top"
        content, case.promise = torch_file(hostile), "told"
    (folder / "p.pt").write_bytes(content)
    return inputs.import_(case, "p.pt")


def checkpoint(random: Random, folder: Path, kind: str) -> Case:
    """A checkpoint of the model, over the folder of pictures."""
    import torch
    from safetensors.torch import save

    case = inputs.pictures_beside(folder, f"infer {kind}")
    weights: dict[str, Any] = {"head.weight": torch.eye(3) * 4, "head.bias": torch.zeros(3)}
    way = random.randrange(5)
    if kind == ".safetensors":
        content = save(weights)
        if way < 3:
            size = int.from_bytes(content[:8], "little")
            header, case.mutation = mutate.tree(random, json.loads(content[8 : 8 + size]))
            text = mutate.dumps(header).encode("utf-8", "surrogatepass")
            content = (
                (random.choice((len(text),) * 4 + (2**63, 0, 2**31))).to_bytes(8, "little") + text + content[8 + size :]
            )
            case.promise = "any" if "offset" in case.mutation or "shape" in case.mutation else "told"
    else:
        whole: Any = {"state_dict": weights, "epoch": 3}
        if way == 0:
            key = random.choice(("head.weight", "head.bias", "more"))
            weights[key], what = odd_tensor(random)
            case.mutation, case.promise = f"{key} = {what}", "told"
        elif way == 1:
            hostile = random.choice([v for v in HOSTILE if not isinstance(v, mutate.Raw)])
            key = random.choice(("state_dict", "epoch", "model", "ema", "hyper_parameters"))
            whole[key], case.mutation, case.promise = hostile, f"{key} = {short(hostile)}", "told"
        elif way == 2:
            shape = random.choice(
                (lambda w: w, lambda w: {"module." + k: v for k, v in w.items()}, lambda w: {"net": w})
            )
            whole, case.mutation = shape(weights), "another shape"
        content = torch_file(whole)
    if way == 3:
        content, case.mutation = mutate.spoil_bytes(random, content)
        case.promise = "any"
    file = f"net{kind}"
    (folder / file).write_bytes(content)
    if kind == ".safetensors" and way == 4:  # in shards, with an index
        index: Any = {"metadata": {"total_size": 48}, "weight_map": dict.fromkeys(weights, file)}
        if random.random() < 0.7:
            index, case.mutation = mutate.tree(random, index)
            case.promise = "told"
        (folder / "net.safetensors.index.json").write_bytes(mutate.dumps(index).encode("utf-8", "surrogatepass"))
        file = "net.safetensors.index.json"
    inputs.infer(case, "data", "--checkpoint", str(folder / file), net="Weighted")
    case.names = {file}
    return case


def arrays(random: Random, folder: Path, kind: str) -> Case:
    """Predictions as NumPy saves them: .npz, or .npy with labels in another."""
    case = inputs.base(folder)
    case.door, case.truth = f"import .{kind}", BY_PLACE
    logits, labels = LOGITS.astype(np.float32), np.array(LABELS)
    way = random.randrange(5)
    odd: dict[str, Any] = {
        "objects": np.array([{"a": 1}, None] * 6, object),
        "a dict": np.array({"logits": [1]}, object),
        "complex": logits.astype(complex),
        "text": logits.astype(str),
        "dates": np.array(["2024-01-01", "NaT"] * 6, "datetime64[D]"),
        "uint64": np.full((ROWS, 3), 2**64 - 1, np.uint64),
        "records": np.zeros(ROWS, [("a", "f4"), ("b", "i8")]),
        "a number": np.array(3.0),
        "transposed": logits.T,
        "deep": logits[None],
        "short": logits[:5],
        "empty": logits[:0],
        "one column": logits[:, :1],
        "nan": logits * np.nan,
        "inf": logits / 0.0 if False else np.full((ROWS, 3), np.inf),
        "bool": logits > 0,
        "void": np.zeros(ROWS, "V7"),
        "long double": logits.astype(np.longdouble),
    }
    values = {"logits": logits, "labels": labels}
    key = random.choice(("logits", "labels")) if kind == "npz" else "logits"
    if way == 0:
        what = random.choice(list(odd))
        values[key], case.mutation = odd[what], f"{key}: {what}"
        case.promise = "any" if what == "uint64" else "told"
    elif way == 1:
        values["logits"] = random.choice(
            (np.asfortranarray(logits), logits.astype(">f8"), logits.astype(np.float16), logits.astype(np.longdouble))
        )
        values["labels"] = labels.astype(random.choice((">i2", "u8", "f4", "i1")))
        case.mutation = f"logits are {values['logits'].dtype.str}, labels {values['labels'].dtype.str}"
    members = {}
    for name, value in values.items():
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=True)
        members[f"{name}.npy"] = buffer.getvalue()
    if way == 2:  # the header lies
        content = members[f"{key}.npy"]
        size = int.from_bytes(content[8:10], "little")
        header = content[10 : 10 + size].decode()
        old = random.choice(
            ("(12, 3)" if key == "logits" else "(12,)", "'<f4'" if key == "logits" else "'<i8'", "False")
        )
        new = random.choice(
            (
                "(1099511627776, 3)",
                "(4611686018427387904, 3)",
                "(-1,)",
                "()",
                "(10,)",
                "'O'",
                "'|V9'",
                "'<U9'",
                "True",
                "{}",
                "(" * 400,
                "'<M8[ns]'",
            )
        )
        text = header.replace(old, new).encode()
        members[f"{key}.npy"] = content[:8] + len(text).to_bytes(2, "little") + text + content[10 + size :]
        case.mutation, case.promise = f"header of {key}: {old} is {new}", "told"
        if new in ("True", "'<M8[ns]'", "(10,)", "()"):
            case.promise = "any"
    if kind == "npy":
        inputs.write(case, random, "p.npy", members["logits.npy"], way == 3)
        inputs.write(case, random, "y.npy", members["labels.npy"], spoil=False)
        case.names |= {"y.npy"}
        return inputs.import_(case, "p.npy", "--labels", str(folder / "y.npy"))
    content = mutate.plain_zip(members)
    if way == 3:
        content, case.mutation = mutate.spoil_bytes(random, content)
        case.promise = "any"
    elif way == 4:
        content, case.mutation = mutate.zip_of(random, {**members, "notes.txt": b"no array"})
        case.promise = (
            "any" if "bytes" in case.mutation or "rename" in case.mutation or "duplicate" in case.mutation else "told"
        )
    (folder / "p.npz").write_bytes(content)
    return inputs.import_(case, "p.npz")


DOORS: dict[str, inputs.Door] = {
    **{f"infer {kind}": functools.partial(checkpoint, kind=kind) for kind in (".pt", ".safetensors")},
    **{f"import {kind}": functools.partial(arrays, kind=kind) for kind in ("npz", "npy")},
    "import pt": pt,
}

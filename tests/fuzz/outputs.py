"""Fuzzed predictions, log folders, rules and settings: valid ones, and what happens to them. It judges nothing."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from predboard.predictions.schema import digest_records
from tests.fuzz import harness, inputs, mutate
from tests.fuzz.harness import Case, Outcome
from tests.fuzz.mutate import HOSTILE, short

RULES: dict[str, Any] = {
    "rule": [
        {"metric": "accuracy", "min": 0.74, "max": 0.76, "bound": "point", "min_rows": 2, "name": "a"},
        {"metric": "images/missing", "max": 0},
        {"metric": "classes/*/recall", "min": 0.1},
    ]
}


def _good(place: Path) -> Path:
    """Return predictions of two steps in three parts each, which are made once."""
    if not (place / "good").exists():
        case = inputs.base(place / "good")
        np.savez(case.folder / "p.npz", logits=inputs.LOGITS, labels=inputs.LABELS, paths=inputs.PATHS)
        for step in ("1", "5"):
            inputs.import_(case, "p.npz", "--shard-size", "5", "--step", step)
            assert harness.run(case.command).code == 0
    return place / "good"


def _copy(random: Random, folder: Path) -> Case:
    """Copy the predictions, for one of the commands that read them."""
    folder.mkdir(parents=True)
    shutil.copytree(_good(folder.parent) / "out", folder / "run", ignore=shutil.ignore_patterns(".lock"))
    (folder / "rules.toml").write_text("".join(f"[[rule]]\n{_lines(rule)}" for rule in RULES["rule"]))
    case = Case(folder, "", [], names={"run", "step="})
    run, good, logs = folder / "run", folder.parent / "good" / "out", folder / "logs"
    panels = random.choice(("metrics", "calibration", "mistakes", "slices"))
    flags = {
        "inspect": [],
        "visualize": ["--logdir", str(logs), "--workers", "1", "--panels", panels],
        "gate": ["--rules", str(folder / "rules.toml"), "--json", str(folder / "gate.json"), "--workers", "1"],
        "compare": [str(good), "--logdir", str(logs)],
    }
    command = random.choice(list(flags))
    case.command = [command, str(run), *flags[command]]
    case.check = lambda outcome: _known_accuracy(case, outcome)
    return case


def _lines(rule: dict[str, Any]) -> str:
    return "".join(f"{key} = {mutate.toml(value)}\n" for key, value in rule.items())


def _known_accuracy(case: Case, outcome: Outcome) -> str | None:
    """Check that a figure is the known one, or that something was told."""
    told = any(word in line for line in outcome.err for word in ("warning", "missing", "note"))
    for file in case.folder.glob("logs/run/summary.json"):
        for step, metrics in json.loads(file.read_text())["steps"].items():
            if metrics.get("accuracy", {}).get("value", 0.75) != 0.75 and not told:
                return f"accuracy {metrics['accuracy']['value']} at step {step} without a word"
    if case.command[0] == "gate" and outcome.code == 0 and case.promise == "told":
        return "the gate passes"
    if case.command[0] == "inspect" and outcome.code == 0 and case.promise == "told":
        return "inspect calls it complete"
    return f"exit code {outcome.code} for what means the same" if case.promise == "same" and outcome.code else None


def _parts(case: Case) -> list[Path]:
    """Return the parts that a command reads: a gate tests the last step."""
    return sorted((case.folder / "run").glob("step=*5/*.parquet" if case.command[0] == "gate" else "step=*/*.parquet"))


def _rewrite(part: Path, change: Callable[[pa.Table, dict[str, Any], dict[str, Any]], pa.Table]) -> None:
    """Write a part again with other columns or another footer, whose digest fits."""
    table = pq.read_table(part, partitioning=None)
    with pq.ParquetFile(part) as parquet:
        metadata = parquet.metadata.metadata
    run, facts = json.loads(metadata[b"predboard.run"]), json.loads(metadata[b"predboard.part"])
    table = change(table, run, facts)
    texts = [mutate.dumps(record, sort_keys=True, separators=(",", ":")) for record in (run, facts)]
    try:
        digest = digest_records(*map(json.loads, texts))
    except (ValueError, RecursionError, TypeError):
        digest = "0" * 16
    footer = {"predboard.run": texts[0], "predboard.part": texts[1], "predboard.digest": digest}
    schema = table.schema.with_metadata({k: v.encode("utf-8", "surrogatepass") for k, v in footer.items()})
    with pq.ParquetWriter(part, schema, store_schema=False) as writer:
        for key, value in schema.metadata.items():
            writer.add_key_value_metadata({key: value})
        writer.write_table(table.replace_schema_metadata(schema.metadata))


def footers(random: Random, folder: Path) -> Case:
    """A footer, of one part or of all, one value of which is another."""
    case = _copy(random, folder)
    which, path, every = random.choice(("run", "part")), Random(random.random()), random.random() < 0.5
    state = path.getstate()

    def change(table: pa.Table, run: dict[str, Any], facts: dict[str, Any]) -> pa.Table:
        path.setstate(state)
        record = run if which == "run" else facts
        new, what = mutate.tree(path, dict(record))
        record.clear()
        record.update(new if isinstance(new, dict) else {"top": new})
        case.mutation = f"{which}: {what} in {'all parts' if every else 'one'}"
        return table

    parts = _parts(case)
    for part in parts if every else [random.choice(parts)]:
        _rewrite(part, change)
    case.promise = "any"
    return case


VALUES: dict[str, tuple[Any, ...]] = {
    "id": (-1, 99, 2**62),
    "key": (7,),
    "label": (-1, 3, 2**31 - 1),
    "predicted": (-1, 3, None, "other"),
    "logits": (float("nan"), float("inf"), None),
    "loss": (None, float("nan"), float("-inf"), -1.0),
    "confidence": (None, float("nan"), 1.5, -0.5),
    "margin": (None, float("nan"), -0.5, 2.0),
    "entropy": (None, float("nan"), -1.0, 99.0),
    "error": ("broken",),
}
"""Values that contradict the others of a row."""


def columns(random: Random, folder: Path) -> Case:
    """A part with a column that is lost, or of another type, or with a value that contradicts the others."""
    case = _copy(random, folder)
    name, how = random.choice(list(VALUES)), random.choice(("value", "value", "value", "lost", "type", "order"))

    def change(table: pa.Table, run: dict[str, Any], facts: dict[str, Any]) -> pa.Table:
        del run, facts
        at = table.column_names.index(name)
        field = table.schema.field(at)
        if how == "lost":
            return table.drop_columns([name])
        if how == "order":
            return table.select(random.sample(table.column_names, len(table.column_names)))
        if how == "type":
            other = random.choice((pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int8()), pa.binary()))
            case.mutation = f"{name} is {other}"
            if other == field.type:
                case.changed.add(name)
            return table.set_column(at, pa.field(name, other), pa.nulls(len(table), other))
        values, i = table.column(name).to_pylist(), random.randrange(len(table))
        hostile = random.choice(VALUES[name])
        case.mutation = f"{name} of a row = {hostile}"
        if hostile == "other":
            hostile = (values[i] + 1) % 3
        values[i] = [hostile, *values[i][1:]] if name == "logits" and hostile is not None else hostile
        type_ = pa.list_(pa.float32()) if name == "logits" else field.type
        return table.set_column(at, pa.field(name, type_), pa.array(values, type_))

    case.mutation = f"{name}: {how}"
    _rewrite(random.choice(_parts(case)), change)
    case.promise = "any" if how == "order" or case.changed else "told"
    return case


def bytes_of_parts(random: Random, folder: Path) -> Case:
    """A part that is damaged without regard to what it is."""
    case = _copy(random, folder)
    part = random.choice(_parts(case))
    content, case.mutation = mutate.spoil_bytes(random, part.read_bytes())
    # A gate reads the columns that its rules need, which may be whole; they leave accuracy no room.
    whole = content == part.read_bytes() or "twice" in case.mutation or case.command[0] == "gate"
    case.promise = "any" if whole else "told"
    part.write_bytes(content)
    return case


def step_folders(random: Random, folder: Path) -> Case:
    """A run whose folders and files are named, or are, something else."""
    case = _copy(random, folder)
    names = ("step=5", "step=00000006", "step=-1", "step=x", "step=", "step=99999999999999999999", "step=1e3", "STEP=1")
    ways = {
        "swapped": "mv $one t; mv $five $one; mv t $five",
        **{f"copied to {name}": f"cp -r $five {name}" for name in names},
        **{f"renamed to {name}": f"mv $five {name}" for name in names},
        "a part of the other step": "cp $one/part-00000.parquet $five",
        "a part twice": "cp $five/part-00000.parquet $five/part-00009.parquet",
        "a part at another place": "mv $part $five/part-00007.parquet",
        "a part lost": "rm $part",
        "a part is a folder": "rm $part; mkdir $part",
        "a part is a pipe": "rm $part; mkfifo $part",
        "one more is a pipe": "mkfifo $five/part-00003.parquet",
        "a part is a device": "ln -sf /dev/zero $part",
        "a part is a link to nothing": "ln -sf x $part",
        "a link to itself": "ln -s . step=00000007",
        "no steps": "rm -r $one $five",
        "an empty step": "rm $five/*",
        "a file for a step": "rm -r $five; echo x > $five",
        "junk": "touch README.md .DS_Store x.parquet.tmp",
        "junk in a step": "touch $five/README.md $five/.DS_Store $five/._part-00000.parquet $five/x",
    }
    case.mutation, case.promise = random.choice(list(ways)), "told"
    known = "one=step=00000001; five=step=00000005; part=$five/part-00001.parquet; "
    subprocess.run(["sh", "-ec", known + ways[case.mutation]], cwd=folder / "run", check=True)
    if "junk" in case.mutation:
        case.promise = "same"
    elif (
        case.mutation
        in ("a part at another place", "no steps", "an empty step", "a file for a step", "a link to itself")
        or "to step" in case.mutation
        or "to STEP" in case.mutation
    ):
        case.promise = "any"
    return case


def log_folders(random: Random, folder: Path) -> Case:
    """Logs that were damaged before the next time; what is drawn again must be as it was."""
    kind = random.choice(("visualize", "visualize mistakes", "compare"))
    folder = folder.parent / f"logged {kind}"
    run, logs, kept = folder / "run", folder / "logs", folder / "kept"
    command = ["visualize", str(run), "--logdir", str(logs), "--workers", "1", "--panels", "metrics"]
    if kind == "visualize mistakes":
        command[-1] += ",mistakes"
    elif kind == "compare":
        command = ["compare", str(run), str(folder / "run2"), "--logdir", str(logs)]
    if not folder.exists():  # it takes a second, so it is done once
        for name in ("run", "run2"):
            shutil.copytree(_good(folder.parent) / "out", folder / name)
        for words in (command, ["visualize", str(folder / "run2"), "--logdir", str(logs), "--workers", "1"]):
            done = harness.run(words)
            assert done.code == 0, done
        logs.rename(kept)
    shutil.rmtree(logs, ignore_errors=True)
    shutil.copytree(kept, logs)
    (logs / "precious.txt").write_text("of the user")
    where = next(logs.glob("*/compare.json")).parent if kind == "compare" else logs / "run"
    known = {p.name: json.loads(p.read_text()) for p in where.glob("*.json") if not p.name.startswith(".")}
    files = [p for p in logs.rglob("*") if p.is_file() and p.name != ".lock"]
    file = random.choice(files)
    if file.suffix == ".json" and random.random() < 0.7:
        value, what = mutate.tree(random, json.loads(file.read_text()))
        file.write_bytes(mutate.dumps(value).encode("utf-8", "surrogatepass"))
    else:
        content, what = mutate.spoil_bytes(random, file.read_bytes())
        file.write_bytes(content)
    case = Case(folder, "", command, f"{file.relative_to(logs)}: {what}", "any", out=logs, names={"logs"})

    def check(outcome: Outcome) -> str | None:
        del outcome
        for name, old in known.items():
            try:
                new = json.loads((where / name).read_text())
            except (OSError, ValueError, RecursionError):
                return f"{name} is damaged still"
            if {**old, "time": 0} != ({**new, "time": 0} if isinstance(new, dict) else new):
                return f"{name} is another"
        return None if (logs / "precious.txt").is_file() else "precious.txt is gone"

    case.check = check
    return case


def rules(random: Random, folder: Path) -> Case:
    """Rules of a gate in TOML."""
    case = _copy(random, folder)
    value, case.mutation = mutate.tree(random, RULES)
    if (
        isinstance(value, dict)
        and isinstance(value.get("rule"), list)
        and all(isinstance(r, dict) for r in value["rule"])
    ):
        text = "".join(f"[[rule]]\n{_lines(rule)}" for rule in value["rule"])
    else:
        text = _lines(value) if isinstance(value, dict) else mutate.toml(value)
    content = text.encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
    if random.random() < 0.2:
        content, case.mutation = mutate.spoil_bytes(random, content)
    (folder / "rules.toml").write_bytes(content)
    case.command = ["gate", str(folder / "run"), "--rules", str(folder / "rules.toml"), "--workers", "1"]
    case.promise, case.names = "any", {"rules.toml"}
    return case


SETTINGS: dict[str, dict[str, Any]] = {
    "import": {
        **{"scores": "logits", "shard_size": 5, "workers": 1, "thumbnails": 0, "step": [1], "strict": False},
        **{"model": "m", "pictures": True, "label_column": "labels", "score_column": "logits"},
    },
    "infer": {
        **{"limit": 12, "batch_size": 4, "resize": "none", "crop": "none", "mean": [0.0], "std": [1.0], "step": [1]},
        **{"scores": "logits", "timeout": 2.0, "shard_size": 5, "part": "1/1", "model_args": {}, "max_failures": 3},
    },
    "visualize": {"log_every": 1, "top": 3, "workers": 1, "panels": ["metrics"]},
    "gate": {"step": 5, "workers": 1, "allow_incomplete": True},
}
"""Flags as they stand in a file, by command."""


def settings(random: Random, folder: Path) -> Case:
    """Flags of a command in TOML."""
    command = random.choice(list(SETTINGS))
    value, what = mutate.tree(random, SETTINGS[command], [v for v in HOSTILE if v != "\0"])
    text = _lines(value) if isinstance(value, dict) else mutate.toml(value)
    content = text.encode("utf-8", "replace")
    if random.random() < 0.2:
        content, what = mutate.spoil_bytes(random, content)
    if command in ("import", "infer"):
        case = inputs.base(folder)
        np.savez(folder / "p.npz", logits=inputs.LOGITS, labels=inputs.LABELS, paths=inputs.PATHS)
        words = ["import", str(folder / "p.npz"), "--out", str(case.out)]
        if command == "infer":
            (folder / "list.csv").write_text(
                "image,label\n" + "".join(f"{p},{i}\n" for p, i in zip(inputs.PATHS, inputs.LABELS, strict=True))
            )
            words = [
                "infer",
                "--data",
                str(folder / "list.csv"),
                "--model",
                f"{folder / 'net.py'}:Colour",
                "--out",
                str(case.out),
                "--device",
                "cpu",
                "--preflight",
                "0",
            ]
    else:
        case = _copy(Random(0), folder)
        words = [
            command,
            str(folder / "run"),
            *(
                ("--logdir", str(folder / "logs"))
                if command == "visualize"
                else ("--rules", str(folder / "rules.toml"))
            ),
        ]
        case.check = lambda _: None
    (folder / "c.toml").write_bytes(content)
    case.command, case.mutation, case.promise = [*words, "--config", str(folder / "c.toml")], f"{command} {what}", "any"
    case.names = set()  # a value is named by its flag
    return case


def other_files(random: Random, folder: Path) -> Case:
    """Class names, or labels, in a file of their own."""
    case = inputs.base(folder)
    kind = random.choice(
        ("classes.txt", "labels.csv", "labels.json", "labels.npy", "labels.txt", "labels.jsonl", "images.txt")
    )
    case.truth = inputs.BY_PATH if kind == "images.txt" else inputs.BY_PLACE
    logits = inputs.LOGITS.astype(np.float32)
    given = {"logits": logits} if kind.startswith("labels") else {"logits": logits, "labels": np.array(inputs.LABELS)}
    np.savez(folder / "p.npz", allow_pickle=False, **given)
    lines = (
        ["a", "b", "c"]
        if kind == "classes.txt"
        else inputs.PATHS
        if kind == "images.txt"
        else list(map(str, inputs.LABELS))
    )
    i = random.randrange(len(lines))
    hostile = random.choice((*HOSTILE, *mutate.HOSTILE_PATHS))
    lines = [str(hostile) if k == i and random.random() < 0.7 else line for k, line in enumerate(lines)]
    case.mutation, case.promise = f"{kind}: line {i} = {short(hostile)}", "any"
    text = "\n".join(lines)
    if kind == "labels.csv":
        text = "label\n" + text
    elif kind.endswith("json"):
        text = mutate.dumps([hostile if k == i else c for k, c in enumerate(inputs.LABELS)])
    elif kind.endswith("jsonl"):
        text = "\n".join(mutate.dumps({"label": hostile if k == i else c}) for k, c in enumerate(inputs.LABELS))
    content = text.encode("utf-8", "replace")
    if kind == "labels.npy":
        np.save(folder / kind, np.array(inputs.LABELS))
        content = (folder / kind).read_bytes()
    inputs.write(case, random, kind, content, random.random() < 0.3 or kind == "labels.npy")
    inputs.import_(case, "p.npz", f"--{kind.partition('.')[0]}", str(folder / kind))
    case.names = {kind, "p.npz", "--classes"}
    return case


def reports(random: Random, folder: Path) -> Case:
    """An author's classification_report, as text or JSON."""
    from sklearn.metrics import classification_report

    case = _copy(random, folder)
    as_json = random.random() < 0.5
    report = classification_report(inputs.LABELS, inputs.PREDICTED, output_dict=as_json)
    file, way = folder / f"report.{'json' if as_json else 'txt'}", random.randrange(3)
    text = mutate.dumps(report) if as_json else report
    if way == 0 and as_json:
        value, case.mutation = mutate.tree(random, report)
        text = mutate.dumps(value)
    elif way == 0:
        words, i = text.split(" "), random.randrange(40)
        words[i], case.mutation = str(random.choice(HOSTILE)), f"word {i}"
        text = " ".join(words)
    content = text.encode("utf-8", "surrogatepass")
    if way == 1:
        content, case.mutation = mutate.spoil_bytes(random, content)
    file.write_bytes(content)
    case.command = ["gate", str(folder / "run"), "--report", str(file), "--workers", "1"]
    case.promise, case.names = "same" if way == 2 else "any", {file.name}
    return case


def refs(random: Random, folder: Path) -> Case:
    """Predictions whose pictures are elsewhere, or are none, drawn with them."""
    case = inputs.base(folder)
    paths = list(inputs.PATHS)
    i, hostile = random.randrange(len(paths)), random.choice((*mutate.HOSTILE_PATHS, "pipe.png", "loop.png", "big.tif"))
    paths[i] = hostile.encode("utf-8", "replace").decode()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    with (folder / "big.tif").open("wb") as file:
        file.write(b"II*\0")
        file.truncate(2**36)  # sparse
    np.savez(folder / "p.npz", logits=inputs.LOGITS, labels=np.array(inputs.LABELS), paths=np.array(paths))
    inputs.import_(case, "p.npz", "--no-pictures")
    imported = harness.run(case.command)
    case.mutation, case.promise, case.out = f"picture {i} is {short(hostile)}", "any", folder / "logs"
    if imported.code == 0:
        panels = random.choice(("mistakes", "predictions", "embeddings", "mistakes,slices"))
        case.command = ["visualize", str(folder / "out"), "--logdir", str(folder / "logs"), "--workers", "2"]
        case.command += ["--panels", panels, "--log-every", "1"]
    return case


DOORS: dict[str, inputs.Door] = {
    "footers": footers,
    "columns": columns,
    "parts": bytes_of_parts,
    "step folders": step_folders,
    "log folders": log_folders,
    "rules": rules,
    "settings": settings,
    "other files": other_files,
    "reports": reports,
    "refs": refs,
}
"""A case of each kind of what predboard wrote, or of a file beside the input."""

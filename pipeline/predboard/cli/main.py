"""Flags -> configuration -> stage, one-line errors. Knows not how anything works.

Every flag is a field of a dataclass in `config`; tyro makes the command line from their types and docstrings.
"""

import _thread
import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.parse
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

import tyro

from predboard.config import (
    BoardConfig,
    CompareConfig,
    GateConfig,
    ImportConfig,
    InferConfig,
    InspectConfig,
    Side,
    VisualizeConfig,
)
from predboard.errors import InputError, first_line
from predboard.formatting import plural
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import worker_count
from predboard.storage.paths import AnyPath, is_remote, is_uri, parse_path
from predboard.storage.remote import RemotePath

if TYPE_CHECKING:
    from predboard.predictions.table import RowCount

C = TypeVar("C")

PRESTART_BYTES = 100_000_000
"""Bytes of predictions for which another process pays: reading and measuring them takes one almost a second."""

PATIENCE = 1.0
"""Seconds that an import gets to finish after Ctrl-C: ours take less, the user's own may do anything."""


def main() -> None:
    """Run the command that the process was started with, and end it."""
    code = run(sys.argv[1:])
    left = [thread for thread in threading.enumerate() if thread.name == "predboard"]
    for thread in left:
        thread.join(0.2)
    if any(thread.is_alive() for thread in left):
        # It waits for a file that hangs. Python would not wait for it, but what speaks to storage would, for minutes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    -> exit code: 0 fine, 1 the result is not what was asked for, 2 bad input, 3 a gate has too little evidence,
    130 interrupted, 143 terminated.
    """
    commands: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
        "infer": (InferConfig, _infer),
        "import": (ImportConfig, _import),
        "visualize": (VisualizeConfig, _visualize),
        "compare": (CompareConfig, _compare),
        "board": (BoardConfig, _board),
        "inspect": (InspectConfig, _inspect),
        "gate": (GateConfig, _gate),
    }
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            _usage({name: config for name, (config, _) in commands.items()})
            return 0
        if arguments[0] == "--version":
            import importlib.metadata  # 15 ms, for this alone

            print(f"predboard {importlib.metadata.version('predboard')}")
            return 0
        if arguments[0] not in commands:
            raise InputError(f"no command {arguments[0]!r}; there are: {', '.join(commands)}")
        config, command = commands[arguments[0]]
        with _signals():
            return command(parse(arguments[0], config, arguments[1:]))
    except InputError as error:
        print(f"predboard: {' '.join(str(error).splitlines())}", file=sys.stderr)  # a file's name may break the line
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if isinstance(stop, _Stopped) else signal.SIGINT
        how = "terminated" if number == signal.SIGTERM else "interrupted"
        print(f"predboard: {how}; what was published is safe, run the same command to go on", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # `predboard inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Stopped(KeyboardInterrupt):
    """A signal came, whose number this has."""


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let Ctrl-C end a command by an exception, and SIGTERM, which clusters and containers send before they kill.

    While anything is imported it waits: an exception would be wrapped, swallowed, or leave the lock of all imports
    behind. An import that takes longer than `PATIENCE` ends as if there were no command yet.
    """
    since: float | None = None  # when the one came that waits
    stopped: _Stopped | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal since, stopped
        if _importing(frame):
            if since is None:
                since = time.monotonic()
                _thread.start_new_thread(again, (number,))  # `threading` has locks, and may be what was interrupted
            if time.monotonic() < since + PATIENCE:
                return
            since = None
            if callable(outer := before[signal.Signals(number)]):
                outer(number, frame)
        since = None
        stopped = _Stopped(number)
        raise stopped

    def again(number: int) -> None:
        while since is not None:
            time.sleep(0.01)
            if since is not None:
                _send(number)

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if before[signal.SIGINT] is not signal.SIG_IGN:  # as in a shell's background
            signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        yield
    except Exception:
        if stopped is not None:  # it led to this: a part that was left in the middle cannot be closed, for example
            raise stopped from None
        raise
    finally:
        since = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    """Whether the command is in the middle of an import, of which this may be any depth: a class body, for example."""
    while frame is not None and frame.f_code is not run.__code__:
        if "<frozen importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _send(number: int) -> None:
    """Send a signal to the main thread."""
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        signal.raise_signal(number)
    else:
        signal.pthread_kill(main, number)


def _usage(commands: dict[str, type[Any]]) -> None:
    print("predboard: see where your image classifier is wrong, in TensorBoard\n")
    for name, config in commands.items():
        print(f"  predboard {name:<10} {first_line(Exception(config.__doc__))}")
    print("\npredboard COMMAND --help lists the flags; every one takes --config FILE.toml with flags' names as keys.")


def parse(command: str, config: type[C], arguments: Sequence[str]) -> C:
    """Configuration from flags and, below them, from `--config FILE.toml`.

    Raises InputError with one line for a flag, key or value that is not understood.
    """
    arguments, file = _without_config(arguments)
    known = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]  # every configuration is a dataclass
    below: list[str] = []
    positional: tuple[str, ...] = ()
    if file is not None:
        for key, value in _toml(file).items():
            name = key.replace("-", "_")
            if name not in known:
                raise InputError(f"{file} has {key!r}, which is no flag of `predboard {command}`: see --help")
            if name in ("predictions", "files"):
                positional = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
            else:
                below += _as_flags(name, value)
    parsed = _tyro(command, config, [*below, *arguments])
    if positional and not getattr(parsed, "files" if "files" in known else "predictions"):
        parsed = _tyro(command, config, [*below, *arguments, *positional])
    return parsed


def _without_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    kept, file = list(arguments), None
    for i, argument in enumerate(kept):
        if argument == "--config" or argument.startswith("--config="):
            inline = argument.removeprefix("--config").removeprefix("=")
            if not inline and i + 1 == len(kept):
                raise InputError("--config names no file; expected --config FILE.toml")
            file = Path(text := inline or kept[i + 1])
            if is_uri(text):
                raise InputError(f"--config is {text}; expected a file on this machine")
            del kept[i : i + (1 if inline else 2)]
            break
    return kept, file


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {first_line(error)}") from error


def _as_flags(name: str, value: Any) -> list[str]:
    """What a person would have typed for a value of a TOML file."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{name.replace('_', '-')}"]
    if isinstance(value, dict):
        return [flag, *(f"{k}={v!r}" for k, v in value.items())]
    if isinstance(value, list) and name in ("checkpoint", "step"):
        return [flag, *map(str, value)]
    if isinstance(value, list):
        return [flag, ",".join(map(str, value))]
    return [flag, str(value)]


def _commas(texts: list[str]) -> tuple[str, ...]:
    return tuple(part.strip() for part in texts[0].split(",") if part.strip())


def _floats(texts: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in texts[0].split(","))
    except ValueError:
        raise ValueError(f"{texts[0]!r} is not numbers joined by commas") from None


def _size(texts: list[str]) -> Side | tuple[int, int]:
    if texts[0] == "none" or re.fullmatch(r"\d+", texts[0]):
        return _side(texts)
    if found := re.fullmatch(r"(\d+)[x×](\d+)", texts[0]):
        return int(found[1]), int(found[2])
    raise ValueError(f"{texts[0]!r} is neither N nor HxW nor none")


def _side(texts: list[str]) -> Side:
    return "none" if texts[0] == "none" else int(texts[0])


def _place(texts: list[str]) -> AnyPath:
    try:
        return parse_path(texts[0])
    except InputError:  # the configuration refuses it in the same words, which tyro's would come between
        return RemotePath(texts[0])


def _share(texts: list[str]) -> tuple[int, int]:
    if found := re.fullmatch(r"(\d+)/(\d+)", texts[0]):
        return int(found[1]), int(found[2])
    raise ValueError(f"{texts[0]!r} is not K/N")


def _registry() -> tyro.constructors.ConstructorRegistry:
    """How the types of `config` are written on a command line, where tyro's own way is another."""
    registry = tyro.constructors.ConstructorRegistry()
    written: tuple[tuple[Any, str, Callable[[list[str]], Any], Callable[[Any], str]], ...] = (
        (tuple[float, ...] | None, "A,B,C", _floats, str),
        (tuple[str, ...], "A,B,…", _commas, lambda v: ",".join(v) or "all"),
        (Side | tuple[int, int] | None, "N|HxW|none", _size, str),
        (Side | None, "N|none", _side, str),
        (tuple[int, int] | None, "K/N", _share, str),
        (AnyPath, "PATH|URI", _place, str),
        (AnyPath | None, "PATH|URI", _place, str),
    )
    for type_, metavar, read, show in written:
        spec: tyro.constructors.PrimitiveConstructorSpec[Any] = tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=read,
            is_instance=lambda _: True,
            str_from_instance=functools.partial(_shown, show),
        )
        registry.primitive_rule(functools.partial(_rule, type_, spec))
    pairs: tyro.constructors.PrimitiveConstructorSpec[Any] = tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=_pairs,
        is_instance=lambda _: True,
        str_from_instance=lambda v: [f"{key}={value!r}" for key, value in v.items()],
    )
    registry.primitive_rule(functools.partial(_rule, Mapping[str, Any], pairs))
    return registry


def _rule(type_: Any, spec: Any, info: Any) -> Any:
    return spec if info.type == type_ else None


def _shown(show: Callable[[Any], str], value: Any) -> list[str]:
    return [show(value)]


def _pairs(texts: list[str]) -> dict[str, Any]:
    from predboard.models.factory import parse_literals

    if wrong := next((text for text in texts if "=" not in text), None):
        raise ValueError(f"{wrong!r} is not KEY=VALUE")
    return parse_literals(dict(text.split("=", 1) for text in texts))


def _tyro(command: str, config: type[C], arguments: Sequence[str]) -> C:
    """Parse with tyro, whose boxed complaint becomes one line."""
    complaint = io.StringIO()
    if {"-h", "--help"} & set(arguments):
        config = _helped(config)
    try:
        with contextlib.redirect_stderr(complaint), _registry():
            return tyro.cli(config, prog=f"predboard {command}", args=list(arguments))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, InputError):  # from a check in config, whose words tyro's box would break
            raise InputError(f"{stop.__context__} (see predboard {command} --help)") from None
        raise InputError(_one_line(complaint.getvalue(), command)) from None


def _helped(config: type[C]) -> type[C]:
    """The same flags with each help text in one piece, which tyro would break where the source does, and without
    `default: None`, where the text says what is done.
    """
    import ast
    import inspect

    (found,) = ast.parse(inspect.getsource(config)).body
    texts = {
        field.target.id: " ".join(str(ast.literal_eval(text.value)).split())
        for field, text in itertools.pairwise(cast(ast.ClassDef, found).body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    types = get_type_hints(config, include_extras=True)
    fields = [
        (
            f.name,
            Annotated[types[f.name], tyro.conf.arg(help=texts[f.name], help_behavior_hint=_hint(f))],
            dataclasses.field(default=f.default, default_factory=f.default_factory),
        )
        for f in dataclasses.fields(config)  # type: ignore[arg-type]  # every configuration is a dataclass
    ]
    named = dataclasses.make_dataclass(config.__name__, fields, namespace={"__doc__": config.__doc__})
    return cast(type[C], named)


def _hint(field: "dataclasses.Field[Any]") -> str | None:
    """What tyro adds to a help text; None for its own choice."""
    nothing = field.default is None or field.default == () or field.default_factory is not dataclasses.MISSING
    return "" if nothing else None


def _one_line(boxed: str, command: str) -> str:
    """What tyro complains of, without its box, the help of the flags and the words of Python."""
    said, flags, listing, metavar = [], [], "", ""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", boxed).splitlines() if re.search(r"\w", line)]
    for number, line in enumerate(lines):
        words = line.strip("│ ")
        if words.startswith("Argument helptext"):
            metavar = lines[number + 1].strip("│ ").partition(" ")[2].removeprefix("{None}|")
            break
        if words.startswith("For full helptext"):
            break
        if words.startswith(("Perhaps you meant", "Missing from")):
            listing = words.split()[0]
        elif listing:  # flags stand left of their help
            flags += re.findall(r"^[│ ] {5}(--[\w-]+(?: \{[\w,]+\})?)", line)
        elif number:  # the first is the title of the box
            said.append(words)
    text = " ".join(said)
    named = " or ".join(flags[:3]) if listing == "Perhaps" else " and ".join(flags)
    if listing == "Missing":
        text = f"{named} {'are' if len(flags) > 1 else 'is'} missing"
    elif listing:
        text += f"; perhaps {named}?"
    elif re.fullmatch(r"Unrecognized options: [-\d., ]+", text):
        text += "; the numbers of one flag are joined by commas without spaces, such as --mean 0.485,0.456,0.406"
    elif found := re.match(r"Error parsing (--\S+): (?:invalid literal|no type matching).*?('[^']*')(?:\]|$)", text):
        text = f"{found[1]} is {found[2]}; expected {metavar}"
    return f"{text or 'the flags are not understood'} (see predboard {command} --help)"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _call(*words: object) -> str:
    """What to call, as a shell takes it."""
    return f"predboard {shlex.join(map(str, words))}"


def _infer(config: InferConfig) -> int:
    from predboard.inference.infer import infer

    outcome = infer(config, _say)
    if line := outcome.bottleneck:
        _say(line)
    _print_counts(outcome.steps)
    if not outcome.complete:
        print(
            f"predboard: not all of the {outcome.rows:,} rows are there: run the same command again",
            file=sys.stderr,
        )
        return 1
    if outcome.failed:
        _say(f"warning: {outcome.failed:,} of {outcome.rows:,} images failed; column `error` says why")
        _say("when that is mended, the same command with --retry-errors tries these again and keeps all other rows")
    if outcome.rows < outcome.manifest_rows:
        print(
            f"share {outcome.share} is done, {outcome.rows:,} of {outcome.manifest_rows:,} rows are in it\n"
            f"next, when all shares are: {_call('inspect', outcome.out)}"
        )
        return 1 if config.strict and outcome.failed else 0
    print(f"predictions are in {outcome.out}\nnext: {_call('visualize', outcome.out)}")
    return 1 if config.strict and outcome.failed else 0


def _import(config: ImportConfig) -> int:
    from predboard.ingest.ingest import import_predictions

    adopted = import_predictions(config, _say)
    _print_counts(adopted.steps)
    if all(count.unlabelled == count.rows for count in adopted.steps.values()):
        _say("no row has a label, so none is right or wrong: see --labels, --label-column and --labels-from-folders")
    if adopted.missing:
        _say(
            f"{adopted.missing:,} of {adopted.written:,} pictures were not found or could not be read: --image-root "
            "says where they are, --no-pictures leaves them alone"
        )
    print(f"predictions are in {adopted.out}\nnext: {_call('visualize', adopted.out)}")
    return 1 if config.strict and adopted.failed else 0


def _print_counts(steps: Mapping[int, "RowCount"]) -> None:
    for step, count in steps.items():
        accuracy = "" if count.accuracy is None else f", accuracy {count.accuracy:.4f}"
        ok = count.rows - count.failed
        print(f"step {step}: {ok:,} ok, {count.failed:,} failed, {count.unlabelled:,} unlabelled{accuracy}")


def _visualize(config: VisualizeConfig) -> int:
    if config.list:
        from predboard import panels

        for name, panel in panels.choose(()).items():
            print(f"{name:<14} {first_line(Exception(panel.__doc__))}")
        return 0
    with ProcessPool(worker_count(config.workers), "predboard.visualization.visualize:warm") as pool:
        if config.engine == "local" and _large(config):
            pool.start(2)  # another process imports what it needs while this one does
        from predboard.visualization.visualize import visualize

        done = visualize(config, _say, pool)
    for written in done:
        if written.missing_rows:
            _say(
                f"warning: {written.run} lacks {plural(written.missing_rows, 'row')}, perhaps whole classes: rows "
                "come in the manifest's order; run the command that made it again"
            )
        if written.missing_pictures:
            _say(
                f"warning: {written.missing_pictures:,} source pictures of {written.run} were not found: "
                "--image-root says where they are now"
            )
        if written.unchanged:
            print(f"{written.run}: nothing changed since the last time, kept {written.event_file}")
        else:
            what = f"{plural(written.rows, 'row')}, {plural(len(written.steps), 'step')}"
            size = written.event_file.stat().st_size / 1e6
            print(f"{written.run}: {what} -> {written.event_file} ({size:.1f} MB)")
    print(f"next: {_call('board', '--logdir', config.logdir)}")
    return 0


def _large(config: VisualizeConfig) -> bool:
    """Whether there is work for another process, as far as a look at folders tells: what has logs may be known."""
    logs = config.logdir
    local = [run for run in config.predictions if not is_remote(run)]
    try:
        new = [run for run in local if is_remote(logs) or not (logs / run.resolve().name).is_dir()]
        sizes = (part.stat().st_size for run in new for part in run.glob("step=*/part-*.parquet"))
        return any(so_far >= PRESTART_BYTES for so_far in itertools.accumulate(sizes))
    except OSError:  # stage two says what is wrong with it
        return False


def _compare(config: CompareConfig) -> int:
    from predboard.comparison.compare import compare

    done = compare(config, _say)
    for note in done.found["notes"]:
        _say(f"note: {note}")
    for ranked in done.found.get("ranking", ()):
        ends = f", {_points(ranked)} from the best" if "lower" in ranked else ""
        print(f"{ranked['accuracy']:.4f} {ranked['name']}{ends}")
    if done.missing_pictures:
        lost = plural(done.missing_pictures, "source picture")
        _say(f"warning: {lost} not found: --image-root says where they are now")
    print(done.verdict)
    kept = "nothing changed since the last time, kept" if done.unchanged else "->"
    print(f"{done.name}: {kept} {done.event_file}")
    print(f"next: {_call('board', '--logdir', config.logdir)}")
    return 0 if done.found["rates"] else 1  # no image has logits in both


def _points(found: Mapping[str, float]) -> str:
    """A difference of shares with its interval."""
    from predboard.comparison.report import format_points

    gain, least, most = (format_points(found[name]) for name in ("difference", "lower", "upper"))
    return f"{gain} points ({least} to {most})"


def _inspect(config: InspectConfig) -> int:
    from predboard.storage.inspection import inspect

    if config.predictions is None:
        raise InputError("which predictions? For example: predboard inspect predictions/digits")
    found = inspect(config.predictions)
    if config.json:
        print(json.dumps(found.facts, indent=1, ensure_ascii=False))
    else:
        print("\n".join(found.lines()))
        print(
            f"next: {_call('visualize', config.predictions)}"
            if found.complete
            else "not whole: run the command that made it again, which makes what is missing or damaged"
        )
    return 0 if found.complete else 1


def _gate(config: GateConfig) -> int:
    from predboard.gating import reports
    from predboard.gating.gate import gate, suggest

    if config.suggest:
        print(suggest(config, _say), end="")
        return 0
    done = gate(config, _say)
    print("\n".join(reports.to_terminal(done)))
    return done.code


def _board(config: BoardConfig) -> int:
    if not config.logdir.is_dir():
        raise InputError(f"no folder {config.logdir}: run `predboard visualize` first, or name another --logdir")
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed: pip install tensorboard")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", config.port))
        except OSError as error:
            raise InputError(f"port {config.port} is not free ({error.strerror}): name another --port") from error
    from predboard.storage.mirror import mirror_log_folder

    with mirror_log_folder(config.logdir, _say) as folder:
        return _tensorboard(config, folder)


def _tensorboard(config: BoardConfig, folder: Path) -> int:
    """Show what is in a folder until somebody ends it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(config.port)]
    # More than we ever write of each kind. 0 would mean none, whatever the help says (tensorboard issue 5550).
    command += ["--samples_per_plugin", "images=1000,histograms=1000,text=1000,scalars=10000,pr_curves=1000"]
    with subprocess.Popen(command) as board:  # noqa: S603  our own interpreter and flags
        try:
            while board.poll() is None and not _answers(config.port):
                time.sleep(0.2)
            if board.poll() is None:
                url = _landing_page(config)
                print(f"\nopen {url}\n(Ctrl-C ends it)", flush=True)
                if sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
                    webbrowser.open(url)
            return board.wait()
        except KeyboardInterrupt:
            board.terminate()
            return 0


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("localhost", port)) == 0


def _landing_page(config: BoardConfig) -> str:
    """Time Series without smoothing, which bends short curves, with what to see first pinned on top.

    That is the report card and the two most confident mistakes of a run, or the ranking of the runs and the report
    cards of the newest three; before them the card of the newest comparison and what it saw broken. TensorBoard passes
    over pins that it has no picture for.
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

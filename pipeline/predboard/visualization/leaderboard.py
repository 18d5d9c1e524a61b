"""Ranks the runs of a log folder by their `summary.json`, as one more run. It knows no predictions and no panels.

The leaderboard exists as long as the folder holds two or more of our runs. It is made from the files alone, so a run
whose folder was deleted is gone from it the next time.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.drawing import palette, plots
from predboard.drawing.plots import IntervalLine
from predboard.formatting import escape_markdown, plural
from predboard.metrics import registry
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL, digest_records, hash64
from predboard.storage.paths import AnyPath
from predboard.summaries import Picture, Summary, Text
from predboard.visualization import events, log_folder, summary_json, unchanged

LOCK_TIMEOUT_SECONDS = 60
"""Longest wait for another process that ranks the same runs."""

PLOTTED_RUNS = 12
"""Runs in the plot."""

HEADLINES = {SINGLE_LABEL: ("accuracy", "accuracy"), MULTI_LABEL: ("average_precision_macro", "mAP")}
"""Metric that runs of each task are ranked by, and its name."""

TABLE_RUNS = 200
"""Rows of the table; TensorBoard becomes slow with more."""


@dataclass(frozen=True)
class LeaderboardEntry:
    """The last step of a run, as its `summary.json` describes it."""

    name: str
    step: int
    finished: float
    classes: int
    metrics: Mapping[str, Mapping[str, float]]
    """For each metric `value`, and `lower` and `upper` if it has an interval."""
    task: str = SINGLE_LABEL
    corrected: int = 0
    """Labels that were corrected before it was measured."""

    def value(self, name: str) -> float | None:
        """Return the value of a metric; None if the run does not have it."""
        return self.metrics[name]["value"] if name in self.metrics else None

    @property
    def headline(self) -> float | None:
        """The metric that runs of the task are ranked by; None without labelled images."""
        return self.value(HEADLINES[self.task][0])

    @property
    def counted(self) -> int:
        """The number of images that the metrics count."""
        return int(self.value("images/counted") or 0)


def write_leaderboard(logdir: AnyPath, code: str = "") -> AnyPath | None:
    """Write the leaderboard of a log folder, or remove it if there are fewer than two runs.

    Args:
        logdir: the folder of all logs.
        code: digest of the package's code; another version draws the leaderboard anew.

    Returns:
        Its event file; None if there is none.

    Raises:
        InputError: if the folder cannot be written to, or another process is busy with it for too long.
    """
    folder = logdir / log_folder.LEADERBOARD_RUN
    if len(log_folder.list_runs(logdir)) < 2 and not folder.is_dir():
        return None
    with log_folder.replace_logs(folder, "leaderboard", wait_seconds=LOCK_TIMEOUT_SECONDS) as draft:
        draft.inputs = unchanged.digest_summaries(logdir)
        contents = dict(_read_summaries(logdir))
        entries = [entry for name, content in contents.items() if (entry := _parse_entry(name, content)) is not None]
        if len(entries) > 1:
            hashes = {name: hash64(content) for name, content in contents.items()}
            made_from = digest_records({"code": code}, hashes)
            return log_folder.find_current(folder, made_from) or _write(draft, entries, made_from)
        draft.withdraw()
    return None


def _read_summaries(logdir: AnyPath) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each of our runs and the content of its `summary.json`, sorted by name."""
    for name in sorted(log_folder.list_runs(logdir)):
        file = logdir / name / log_folder.SUMMARY_FILE
        if log_folder.SUMMARY_FILE in log_folder.read_record(file.parent).files and file.is_file():
            yield name, file.read_bytes()


def _parse_entry(name: str, content: bytes) -> LeaderboardEntry | None:
    """Parse a `summary.json`; None if it is not one, or has no steps."""
    summary = summary_json.decode_summary(content)
    if summary is None or not summary["steps"]:
        return None
    try:
        step = max(map(int, summary["steps"]))
        metrics = {
            metric: {end: float(value) for end, value in numbers.items()}
            for metric, numbers in summary["steps"][str(step)].items()
            if "value" in numbers
        }
        task = summary.get("task", SINGLE_LABEL)
        if task not in HEADLINES:
            return None
        corrected = int(summary.get("corrected_labels", {}).get(str(step), {}).get("replaced", 0))
        finished, classes = float(summary["finished"]), int(summary["classes"])
        return LeaderboardEntry(name, step, finished, classes, metrics, task, corrected)
    except (KeyError, ValueError, TypeError, AttributeError):  # somebody edited it: the run is left out
        return None


def _write(draft: log_folder.LogDraft, entries: list[LeaderboardEntry], made_from: str) -> AnyPath:
    time = max(entry.finished for entry in entries) + 1  # TensorBoard assigns colours by time: the runs keep theirs
    with events.EventWriter(draft.events_path, time) as writer:
        for summary in _summaries(entries):
            writer.write(0, time, summary)
    return draft.publish(time, made_from)


def _summaries(runs: list[LeaderboardEntry]) -> Iterator[Summary]:
    """Yield the plot and the table of the runs of each task: figures of two tasks cannot be compared."""
    by_task = {task: [run for run in runs if run.task == task] for task in HEADLINES}
    present = {task: of_task for task, of_task in by_task.items() if of_task}
    for i, (task, of_task) in enumerate(present.items()):
        yield from _ranking(of_task, task, f"_{task}" if i else "")


def _ranking(runs: list[LeaderboardEntry], task: str, end: str) -> Iterator[Summary]:
    """Yield the plot and the table of one task, the best run first and runs without labels last.

    Args:
        runs: of the task.
        task: theirs.
        end: of the tags.
    """
    name, label = HEADLINES[task]
    ordered = sorted(runs, key=lambda run: (run.headline is None, -(run.headline or 0.0), run.name))
    known = [run for run in ordered if run.headline is not None]
    if known:
        best = known[0].metrics[name]["value"]
        more = (
            plural(len(known), "run") if len(known) <= PLOTTED_RUNS else f"the best {PLOTTED_RUNS} of {len(known)} runs"
        )
        lines = [
            IntervalLine(
                run.name, a["value"], a.get("lower", a["value"]), a.get("upper", a["value"]), f"{run.counted:,}"
            )
            for run in known[:PLOTTED_RUNS]
            for a in [run.metrics[name]]
        ]
        title = f"{label} of {more}, with 95 % intervals"
        about = (
            f"{label[0].upper()}{label[1:]} at each run's last step. {palette.WRONG_WORD.capitalize()}: the interval "
            "lies below the best run. Right: images."
        )
        yield Picture(
            f"1_glance/ranking{end}", functools.partial(plots.draw_intervals, title, lines, best, "best"), about
        )
    yield Text(f"report/ranking{end}", _table(ordered, task), "All runs of the folder at their last step.")


def _table(runs: list[LeaderboardEntry], task: str) -> str:
    headline, label = HEADLINES[task]
    columns = [
        spec
        for spec in registry.rows("overall", "positive", "calibration", task=task)
        if spec.column and any(run.value(spec.name) is not None for run in runs)
    ]
    titles = ["run", "step", "images"]
    best = {}
    for spec in columns:
        titles += [spec.column, "95 % interval"] if spec.name == headline else [spec.column]
        values = [value for run in runs if (value := run.value(spec.name)) is not None]
        best[spec.name] = {"less": min(values), "more": max(values)}.get(spec.better)
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    for run in runs[:TABLE_RUNS]:
        cells = [escape_markdown(run.name), str(run.step), f"{run.counted:,}"]
        for name in (spec.name for spec in columns):
            value = run.value(name)
            shown = "–" if value is None else f"{value:.4f}"
            cells.append(f"**{shown}**" if value is not None and value == best[name] else shown)
            if name == headline:
                a = run.metrics.get(name, {})
                cells.append(f"{a['lower']:.4f} to {a['upper']:.4f}" if "lower" in a else "–")
        lines.append(f"| {' | '.join(cells)} |")
    first = "the most accurate first" if label == "accuracy" else f"by {label}"
    notes = [f"Each run at its last step, {first}; the best value of each column is bold."]
    if len(runs) > TABLE_RUNS:
        notes.append(f"The first {TABLE_RUNS} of {len(runs):,} runs.")
    if len({(run.counted, run.classes) for run in runs}) > 1:
        notes.append("**The runs have different images or classes: compare only runs on the same data.**")
    if len({run.corrected for run in runs}) > 1:
        some = ", ".join(f"{escape_markdown(run.name)} ({run.corrected:,})" for run in runs if run.corrected)
        notes.append(
            f"**Labels were corrected for {some} and not alike for the others: compare only runs on the same.**"
        )
    return "\n".join([*lines, "", " ".join(notes)])

"""What was run on what, how good it is, and how to read the other tabs, in words. Knows no single image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline import draw, tally
from pipeline.panels import Subject
from pipeline.summaries import Picture, Summary, Text, cell
from pipeline.tally import Counting, Scores, Tally, wilson

SHEET = "report/what_the_model_sees"

READING = """\
### How to read the tabs
- **Time Series**, group `1_glance`: the report card and three curves over the steps. Group `2_mistakes`: the images
  that are wrong with the most confidence; look for wrong labels first, then for what the images have in common.
- **Images**: `examples/…` (highest loss, least certain, random, confident and right), `predictions/<true class>` (a
  fair sample of each class), `confusion/matrix`, `report/what_the_model_sees` (inputs as the model got them). A blue
  frame is right, a vermillion one wrong. The slider chooses the step.
- **Scalars**: `metrics/…` over the steps. Where the ends of a short curve are cut off, switch off *Ignore outliers in
  chart scaling*.
- **Histograms**: `probabilities/<true class>` is what the model gave to the true class: a good class leans to 1.
  `confidence_wrong` should lean to the left of `confidence_right`; where it does not, the model is sure of its errors.
- **Text**: this page, and `confusion/pairs`, the most frequent confusions.
"""


@dataclass(frozen=True)
class Panel(Counting):
    """Text: model, data, figures with intervals, worst classes, how to read the tabs. Picture: what the model sees."""

    def render(self, subject: Subject, states: Mapping[int, Tally]) -> Iterator[tuple[int, Summary]]:
        """What the model saw, at the steps that stage one drew it for; one page, at the last step."""
        for step, facts in subject.facts.items():
            if facts.sheet is not None:
                yield step, Picture(SHEET, facts.sheet, "Some pictures as the model got them, before the long run.")
        last = max(states)
        scores = Scores(states[last], len(subject.run.classes))
        parts = [
            f"# {subject.name}",
            _warnings(subject, last, scores),
            _figures(subject, states),
            _details(subject, scores),
            _provenance(subject, last),
            READING,
        ]
        yield last, Text("report/summary", "\n\n".join(p for p in parts if p), "Start here.")


def _warnings(subject: Subject, step: int, scores: Scores) -> str:
    facts = subject.facts[step]
    found = tally.warnings(scores, subject.run.classes, facts.rows, facts.manifest_rows, facts.warnings)
    return "\n".join(f"- **Warning:** {cell(w)}" for w in found)


def _figures(subject: Subject, states: Mapping[int, Tally]) -> str:
    lines = [
        "| step | images | failed | unlabelled | accuracy | 95 % interval | balanced | macro F1 | NLL, nats |",
        "|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for step, state in states.items():
        s = Scores(state, len(subject.run.classes))
        counts = f"| {step} | {state.rows:,} | {state.failed:,} | {state.unlabelled:,} |"
        if s.counted:
            lower, upper = wilson(int(s.hits.sum()), s.counted)
            lines.append(
                f"{counts} {s.accuracy:.4f} | {lower:.4f} to {upper:.4f} "
                f"| {s.balanced_accuracy:.4f} | {s.f1_macro:.4f} | {s.nll:.4f} |"
            )
        else:
            lines.append(f"{counts} – | – | – | – | – |")
    return "\n".join(
        [
            *lines,
            "",
            "Accuracy counts images with logits and a label; its interval is Wilson's. Macro F1 weighs classes alike.",
        ]
    )


def _details(subject: Subject, scores: Scores) -> str:
    names = subject.run.classes
    worst = [
        f"{i}. {cell(names[c])}: recall {draw.percent(float(scores.recall[c]))} "
        f"({scores.hits[c]:,} of {scores.support[c]:,}), precision {draw.percent(float(scores.precision[c]))}"
        for i, c in enumerate(scores.worst(5).tolist(), 1)
    ]
    pairs = [
        f"{i}. {cell(names[t])} → {cell(names[p])}: {n:,} images, "
        f"{draw.percent(n / scores.support[t])} of {cell(names[t])}"
        for i, (t, p, n) in enumerate(scores.pairs(5), 1)
    ]
    blocks = [("### Worst classes", worst), ("### Most frequent confusions, true → predicted", pairs)]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in blocks if lines)


def _provenance(subject: Subject, step: int) -> str:
    run, facts = subject.run, subject.facts[step]
    transform = ", ".join(f"{k} {v}" for k, v in run.transform.items() if v not in (None, [], ""))
    arguments = ", ".join(f"{k}={v}" for k, v in run.model_args.items())
    rows = [
        ("model", f"`{run.model}`" + (f" with {arguments}" if arguments else "")),
        ("checkpoint", f"`{facts.checkpoint}`" if facts.checkpoint else "none"),
        ("weights", f"`{run.weights}` (digest)"),
        ("data", f"`{run.root}`"),
        ("classes", f"{len(run.classes):,}: {', '.join(run.classes[:20])}{'…' if len(run.classes) > 20 else ''}"),
        ("transform", transform or "none"),
        ("precision, device", f"{run.precision}, {facts.device or 'unknown'}"),
    ]
    return "\n".join(
        ["### What was run on what", "", "| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in rows)]
    )

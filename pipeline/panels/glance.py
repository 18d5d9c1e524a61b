"""The landing page: one picture and three curves that say how good the model is. Knows no single image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline import draw, tally
from pipeline.panels import Subject
from pipeline.summaries import Picture, Scalar, Summary
from pipeline.tally import Counting, Scores, Tally, wilson


@dataclass(frozen=True)
class Panel(Counting):
    """The report card: accuracy with its interval, counts, the worst classes, the top confusions, warnings."""

    def render(self, subject: Subject, states: Mapping[int, Tally]) -> Iterator[tuple[int, Summary]]:
        """A card and a point of each curve for each step."""
        names = subject.run.classes
        for step, state in states.items():
            scores = Scores(state, len(names))
            if scores.counted:
                yield (
                    step,
                    Scalar(
                        "1_glance/accuracy", scores.accuracy, "Share of images whose highest logit is the true class."
                    ),
                )
                yield (
                    step,
                    Scalar("1_glance/f1_macro", scores.f1_macro, "Mean F1 over classes with images or predictions."),
                )
                yield step, Scalar("1_glance/nll", scores.nll, "Mean negative log-likelihood of the true class, nats.")
            yield step, Picture("1_glance/report_card", draw.report_card(_card(subject, step, scores)), "Start here.")


def _card(subject: Subject, step: int, scores: Scores) -> draw.Card:
    names, known = subject.run.classes, subject.facts[step]
    before = [warning.partition(": ")[0] for warning in known.warnings]  # the report says what to do
    hits = int(scores.hits.sum())
    facts = [
        ("images", f"{scores.tally.rows:,}"),
        ("failed", f"{scores.tally.failed:,}"),
        ("unlabelled", f"{scores.tally.unlabelled:,}"),
        ("classes", f"{len(names):,}"),
    ]
    if scores.counted:
        facts += [("macro F1", f"{scores.f1_macro:.3f}"), ("NLL", f"{scores.nll:.3f}")]
    return draw.Card(
        title=f"{subject.name}  ·  step {step}",
        accuracy=(scores.accuracy, *wilson(hits, scores.counted)) if scores.counted else None,
        facts=facts,
        worst=[
            (names[c], float(scores.recall[c]), f"{scores.hits[c]:,} of {scores.support[c]:,}")
            for c in scores.worst(3).tolist()
        ],
        pairs=[(names[t], names[p], f"{n:,}") for t, p, n in scores.pairs(4)],
        warnings=tally.warnings(scores, names, known.rows, known.manifest_rows, before),
    )

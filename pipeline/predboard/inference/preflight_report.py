"""Keep what a preflight found as JSON and a contact sheet beside the steps, and put it into lines for a person.

It knows nothing of how the findings were made and never sees a model. The files are `_preflight/step=00000012.json` and
`.png` in the folder of the predictions.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image

from predboard.drawing.tiles import draw_contact_sheet
from predboard.formatting import percent, plural
from predboard.inference.diagnostics import Diagnosis
from predboard.inference.preflight_judges import Caption
from predboard.inference.preprocessing_trials import LossTrial, Trial
from predboard.metrics.intervals import wilson_interval
from predboard.storage.paths import AnyPath, refuse_link, write_file
from predboard.storage.runs import preflight_path

_JSON_KEYS = {"diagnoses": "doubts", "trials": "tried"}
"""Fields that have another name in the file."""


@dataclass(frozen=True)
class PreflightReport:
    """The findings about a sample of the images."""

    key: str
    """Digest of the run, the sample and the recipe: a report with the same key is not made again."""
    step: int
    images: int
    """Images in the sample that could be read."""
    failed: int
    """Images in the sample that could not be read; `images` does not count them."""
    labelled: int
    right: int
    transform: Mapping[str, Any]
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    """[channels] of the model's input."""
    decoded_per_second: float
    """Images per second, by all threads."""
    inferred_per_second: float
    """Images per second, by the model of one step."""
    seconds: float
    """Duration of the preflight itself."""
    diagnoses: tuple[Diagnosis, ...]
    trials: tuple[Trial, ...]
    """Other scalings and sizes, tried on labelled images."""
    order: tuple[str, ...] = ()
    """Class names in the order of the outputs that fits, where another order was diagnosed."""
    together_per_second: float = 0.0
    """Images per second through decoding and one model at the same time; 0 if that was not measured."""
    measure: str = "accuracy"
    """What the share of the images that are right is called."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Lines that say what is done to a picture and what the model gets."""
        moments = f"inputs: mean {_listed(self.input_mean)}, std {_listed(self.input_std)}"
        return *describe_input(self.transform), moments

    @property
    def warnings(self) -> tuple[str, ...]:
        """Texts of the warnings."""
        return tuple(d.text for d in self.diagnoses if d.warning)

    @property
    def carried_warnings(self) -> tuple[str, ...]:
        """Texts of the warnings that stage two cannot find by itself, which the parts carry."""
        return tuple(d.text for d in self.diagnoses if d.warning and not d.again)

    def lines(self, decoded: int, inferred: int, devices: Sequence[torch.device]) -> Iterator[str]:
        """Describe the findings and forecast the run.

        Args:
            decoded: images of the whole run.
            inferred: rows of the whole run: images times steps.
            devices: where it will run.
        """
        accuracy = "no labels"
        if self.labelled:
            low, high = (100 * end for end in wilson_interval(self.right, self.labelled))
            share = percent(self.right / self.labelled)
            accuracy = f"{self.measure} {share} on {self.labelled:,} labelled (95 % interval {low:.1f} to {high:.1f})"
        failed = f", {self.failed:,} more cannot be read" if self.failed else ""
        yield f"preflight of step {self.step}: {plural(self.images, 'image')} chosen by hash{failed}; {accuracy}"
        yield f"  model input: {'; '.join(self.inputs)}"
        yield f"  {self._describe_speed(decoded, inferred, devices)}"
        yield from (f"  {'warning' if d.warning else 'note'}: {d.text}" for d in self.diagnoses)

    def forecast(self, decoded: int, inferred: int, devices: Sequence[torch.device]) -> float:
        """Return the seconds that the run should take; the arguments are those of `lines`."""
        waits = decoded / self.decoded_per_second, inferred / self.inferred_per_second
        shares_processors = devices[0].type == "cpu"  # decoding and the model then take turns
        seconds = sum(waits) if shares_processors else max(waits)
        if self.together_per_second:
            further = (inferred - decoded) / max(self.inferred_per_second, self.together_per_second)  # other steps
            seconds = decoded / self.together_per_second + further
        return seconds / len(devices)  # each has decoding threads of its own

    def _describe_speed(self, decoded: int, inferred: int, devices: Sequence[torch.device]) -> str:
        together = f", both at once {self.together_per_second:,.0f}" if self.together_per_second else ""
        duration = _duration(self.forecast(decoded, inferred, devices))
        return (
            f"speed: decodes {self.decoded_per_second:,.0f} and infers {self.inferred_per_second:,.0f} images/s"
            f"{together}, about {duration} for {inferred:,} rows"
        )


def describe_input(transform: Mapping[str, Any]) -> tuple[str, str]:
    """Say what is done to a picture before the model gets it and where that comes from: the shape, then the values.

    >>> describe_input({"resize": 256, "crop": 224, "channels": "rgb", "mean": [0.5], "std": [0.25],
    ...     "size": [224, 224, 3], "source": "flags"})
    ('resize 256, crop 224, rgb -> 3×224×224 (from flags)', '(x/255 - mean) / std with mean 0.5, std 0.25')
    >>> describe_input({"channels": "rgb", "mean": [0], "std": [1], "size": [8, 8, 3], "source": "flags"})[1]
    'x/255, no mean or std'
    """
    height, width, channels = transform["size"]
    done = [f"{name} {transform[name]}" for name in ("dataset", "function", "resize", "crop") if transform.get(name)]
    if not transform.get("floats"):
        done.append(str(transform["channels"]))
    shape = f"{', '.join(done)} -> {channels}×{height}×{width} (from {transform['source']})"
    if transform.get("floats"):
        return shape, "floats, unchanged"
    mean, std = transform["mean"], transform["std"]
    if set(mean) == {0} and set(std) == {1}:
        return shape, "x/255, no mean or std"
    return shape, f"(x/255 - mean) / std with mean {_listed(mean)}, std {_listed(std)}"


def read_report(out: AnyPath, step: int, key: str) -> PreflightReport | None:
    """Return the report of a step if it has this key; None if there is none, or one of another version or sample."""
    try:
        record: dict[str, Any] = json.loads(preflight_path(out, step, ".json").read_text("utf-8"))
        if record["key"] != key or not preflight_path(out, step, ".png").exists():
            return None
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in record.items()}
        fields["diagnoses"] = tuple(Diagnosis(**d) for d in fields.pop(_JSON_KEYS["diagnoses"]))
        fields["trials"] = tuple((LossTrial if "loss" in t else Trial)(**t) for t in fields.pop(_JSON_KEYS["trials"]))
        return PreflightReport(**fields)
    except (OSError, ValueError, KeyError, TypeError):  # of another version: the preflight runs again
        return None


def write_report(
    out: AnyPath,
    report: PreflightReport,
    pictures: Sequence[Image.Image],
    captions: Sequence[Caption],
) -> None:
    """Write the report and the contact sheet.

    Args:
        out: folder of the predictions.
        report: what was found.
        pictures: the first of the sample, as the model gets them.
        captions: true and predicted labels of each picture of the sample.
    """
    tiles = [(picture, *caption) for picture, caption in zip(pictures, captions, strict=False)]
    title = f"what the model sees: {len(tiles)} of {report.images:,} images"
    encoded = io.BytesIO()
    Image.fromarray(draw_contact_sheet(tiles, title, report.inputs)).save(encoded, "PNG")
    refuse_link(preflight_path(out, report.step, "").parent)
    write_file(preflight_path(out, report.step, ".png"), encoded.getvalue())
    record = {_JSON_KEYS.get(name, name): value for name, value in asdict(report).items()}
    if report.measure == PreflightReport.measure:  # which reports had before there were others
        del record["measure"]
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_file(preflight_path(out, report.step, ".json"), text.encode())


def _duration(seconds: float) -> str:
    """Round a duration for a person.

    >>> [_duration(s) for s in (0.2, 42, 400, 40000)]
    ['1 s', '42 s', '7 min', '11.1 h']
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3g}" for v in values[:3]) + (" …" if len(values) > 3 else "")

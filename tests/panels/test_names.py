"""Names in the pages: Markdown shows what a class, a column, a file or a run is called, and does nothing else."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pyarrow as pa
import pytest

from predboard import CompareConfig, VisualizeConfig, compare, visualize
from predboard.predictions.schema import Part
from predboard.predictions.table import Predictions
from predboard.storage.parts import PartWriter
from predboard.storage.runs import part_path
from tests import toy

ROWS = 120
NAMES = (
    *("*em*", "_em_", "[l](http:x)", "![i](http:x)", "a`b", "a|b", "<b>b</b>", "<img src=x>", "# h", "&amp;", "- i"),
    *("1. x", "> q", "a\\\\b", "[ref]: http:x", "<http:x>", "__x__", "a*b*c"),
)


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(markdown.markdown(page, extensions=["markdown.extensions.tables"]))  # as TensorBoard does

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"{tag} {sorted(map(str, attrs))}")


def _pages(folder: Path, names: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """All pages of two runs and their comparison, by folder and tag."""
    run = dataclasses.replace(
        toy.RUN, classes=names, model=f"{names[4]}.py:{names[0]}", model_args={names[0]: names[7]}, root=names[7]
    )
    runs = [folder / f"{number} {names[0]}" for number in (1, 2)]
    further = pa.schema([(f"col {name}", pa.string()) for name in names[:3]])
    for seed, place in enumerate(runs):
        logits, label = toy.table(run, ROWS, seed)[0], toy.table(run, ROWS)[1]
        batch = toy.predictions(run, logits, label, failed=frozenset({5})).batch
        columns = {field.name: batch.column(field.name) for field in batch.schema}
        columns["image"] = pa.array([f"{names[i % len(names)]}/{i}.png" for i in range(ROWS)])
        columns |= {field.name: pa.array([names[i % 7] for i in range(ROWS)]) for field in further}
        writer = PartWriter(part_path(place, 0, 0), run, further)
        rows = Predictions(pa.record_batch([columns[n] for n in writer.schema.names], schema=writer.schema))
        writer.write(rows)
        provenance = {"checkpoint": names[4], "device": names[0], "warnings": [f"{names[2]}: {names[7]}"]}
        writer.publish(Part(0, ROWS, toy.manifest_digest(rows), ROWS, "", 1.7e9, 1.7e9 + 60, provenance=provenance))
    pages = ("report", "classes", "confusion", "slices", "label_issues", "calibration")
    visualize(VisualizeConfig(tuple(runs), logdir=folder / "logs", panels=pages))
    compare(CompareConfig(tuple(runs), logdir=folder / "logs"))
    found = {}
    for number, file in enumerate(sorted(folder.glob("logs/*/*tfevents*"))):
        for (tag, _), value in toy.read_values(file).items():
            if value.metadata.plugin_data.plugin_name == "text":
                found[str(number), tag] = value.tensor.string_val[0].decode()
    return found


@pytest.mark.slow
def test_names_make_no_links_pictures_or_headings(tmp_path: Path) -> None:
    plain = _pages(tmp_path / "plain", tuple(f"n{i:02d}" for i in range(len(NAMES))))
    hostile = _pages(tmp_path / "hostile", NAMES)
    assert plain.keys() == hostile.keys()
    assert len(plain) > 10
    for key, page in plain.items():
        assert _Tags(hostile[key]).tags == _Tags(page).tags, key

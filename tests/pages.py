"""Writes the generated parts of docs/ from the code: `make docs`. tests/test_docs.py holds them to it."""

import ast
from pathlib import Path

from predboard.metrics.reference_page import reference_page

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline" / "predboard"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
METRICS = ROOT / "docs" / "metrics.md"
BEGIN = "<!-- generated: make docs -->"
END = "<!-- end -->"
WIDTH = 118


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, in one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split())
    for end in range(len(text)):
        if text[end] == "." and text[end + 1 : end + 2] in ("", " ") and not text[:end].endswith(("e.g", "i.e")):
            return text[: end + 1]
    return text


def module_table() -> str:
    """Every module of the package with its first sentence, a table for each folder."""
    folders = [PACKAGE, *sorted(p for p in PACKAGE.rglob("*") if (p / "__init__.py").exists())]
    lines = []
    for folder in folders:
        name = folder.relative_to(PACKAGE.parent).as_posix()
        lines += [f"**`{name}/`** {first_sentence(folder / '__init__.py')}", "", "| file | |", "|---|---|"]
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                lines.append(f"| `{file.name}` | {first_sentence(file)} |")
        lines.append("")
    return "\n".join(lines)


def with_generated(page: str, generated: str) -> str:
    """The page with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"


def pages() -> dict[Path, str]:
    """Every page with a generated part, as it should be."""
    architecture = with_generated(ARCHITECTURE.read_text("utf-8"), module_table())
    return {ARCHITECTURE: architecture, METRICS: reference_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")

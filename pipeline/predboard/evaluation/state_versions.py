"""Digests the code and the settings that decide a state, so that a cached state is used only if it would be the same.

It knows nothing of the cache's files. No version number has to be kept by hand: a change of `panels/confusion.py` makes
the states of that panel stale, one of `metrics/counts.py` those of all panels that import it, and one of
`visualization/events.py` none.
"""

import dataclasses
import hashlib
import importlib.util
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from predboard.panels import Panel
from predboard.predictions.schema import digest_records

DERIVED_ROWS = "rows"
"""Stands for the derived rows among the names of panels; no panel has this name."""

SOURCES = Path(__file__).parents[1]
"""Folder of the package's source files."""

_IMPORTS = re.compile(
    r"^[ \t]*from (predboard[\w.]*) import (\(.*?^[ \t]*\)|[^\n]*)|^[ \t]*import (predboard[\w.]*)",
    re.MULTILINE | re.DOTALL,
)
"""Finds the imports of our own modules: a module and names in it, or a whole module."""


def state_versions(panels: Mapping[str, Panel], sources: Path = SOURCES) -> dict[str, str]:
    """Return the version of each panel's state by the panel's name, and that of the derived rows by `DERIVED_ROWS`.

    A version is a digest of the panel's settings, of its module and all modules of ours that this imports, directly or
    not, of those that read the rows, and of the libraries that compute. For a panel of another distribution all sources
    count, its own and ours, because what it imports is not known.

    Args:
        panels: by name.
        sources: folder of the package's source files.
    """
    modules = _Modules(sources)
    base = {
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
        "code": modules.digest("predboard.evaluation.measure"),
    }
    versions = {DERIVED_ROWS: digest_records(base)}
    for name, panel in panels.items():
        module = type(panel).__module__
        ours = module.startswith("predboard.")
        code = modules.digest(module) if ours else _digest_files([*_package_files(module), *sources.rglob("*.py")])
        settings = {f.name: getattr(panel, f.name) for f in dataclasses.fields(cast(Any, panel))}
        plain = {k: sorted(v) if isinstance(v, frozenset) else repr(v) for k, v in settings.items()}
        versions[name] = digest_records({**base, "panel": code, "settings": plain})
    return versions


def outside_code(panel: Panel) -> str:
    """Return a digest of the source of the package that adds a panel; empty for our own panels."""
    module = type(panel).__module__
    return "" if module.startswith("predboard.") else _digest_files(_package_files(module))


def _package_files(module: str) -> list[Path]:
    """Return the source files of the top-level package that a module belongs to, or of the module if it is in none."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin else []
    return [file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.py")]


def _digest_files(files: Iterable[Path]) -> str:
    return _digest(b"".join(_digest(file.read_bytes()).encode() for file in sorted(files)))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


class _Modules:
    """Digests modules of the package together with what they import. Each source file is read once."""

    def __init__(self, sources: Path) -> None:
        self._sources = sources
        self._read_modules: dict[str, tuple[str, list[str]] | None] = {}

    def digest(self, module: str) -> str:
        """Return a digest of a module and of all modules of the package that it imports, directly or not."""
        digests: dict[str, str] = {}
        pending = [module]
        while pending:
            name = pending.pop()
            if name not in digests and (source := self.read(name)) is not None:
                digests[name], imports = source
                pending += imports
        return digest_records(digests)

    def read(self, module: str) -> tuple[str, list[str]] | None:
        """Return the digest of a module's source and its imports from the package; None if there is no such module.

        Of `from predboard.a import b` both `predboard.a` and `predboard.a.b` are listed, whether or not b is a module.
        """
        if module not in self._read_modules:
            self._read_modules[module] = self._parse(module)
        return self._read_modules[module]

    def _parse(self, module: str) -> tuple[str, list[str]] | None:
        path = self._sources.joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not module.startswith("predboard.") or not file.is_file():
            return None
        content = file.read_bytes()
        imports: list[str] = []
        for from_module, names, whole in _IMPORTS.findall(content.decode()):  # in a tenth of the time of parsing it
            imports += [
                whole or from_module,
                *(f"{from_module}.{name}" for name in re.findall(r"\w+", names)),
            ]
        return _digest(content), imports

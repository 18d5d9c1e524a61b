"""See where your image classifier is wrong, in TensorBoard: run the model once, draw as often as you like.

    images -> Predictions -> Parquet -> Predictions -> State -> Summary -> event file
              inference      storage    storage        panels   panels     visualization

Stage one is `infer(model, dataset, out, step=epoch)` or `infer(InferConfig(...))`, stage two `visualize(out, logdir)`
or `visualize(VisualizeConfig(...))`; `open_predictions(path)` reads what is between them. Predictions made elsewhere
come in by `import_predictions(ImportConfig(...))`; `compare(old, new)` says what differs between two runs, and
`gate(out, rules)`
tests one for a release.
"""

import importlib

TYPE_CHECKING = False  # type checkers know the name; importing `typing` takes 10 ms
if TYPE_CHECKING:
    from predboard.api import compare, gate, infer, visualize
    from predboard.config import CompareConfig, GateConfig, ImportConfig, InferConfig, VisualizeConfig
    from predboard.errors import InputError
    from predboard.ingest.ingest import import_predictions
    from predboard.storage.runs import open_predictions

__all__ = [
    "CompareConfig",
    "GateConfig",
    "ImportConfig",
    "InferConfig",
    "InputError",
    "VisualizeConfig",
    "compare",
    "gate",
    "import_predictions",
    "infer",
    "open_predictions",
    "visualize",
]

_HOMES = {
    "CompareConfig": "config",
    "GateConfig": "config",
    "ImportConfig": "config",
    "InferConfig": "config",
    "InputError": "errors",
    "VisualizeConfig": "config",
    "import_predictions": "ingest.ingest",
    "compare": "api",
    "gate": "api",
    "infer": "api",
    "open_predictions": "storage.runs",
    "visualize": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a command needs only some of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""See where your image classifier is wrong, in TensorBoard: run the model once, draw as often as you like.

    images -> Predictions -> Parquet -> Predictions -> State -> Summary -> event file
              inference      storage    storage        panels   panels     visualization

Stage one is `infer(model, dataset, out, step=epoch)` or `infer(InferConfig(...))`; stage two is
`visualize(out, logdir)` or `visualize(VisualizeConfig(...))`. `open_predictions(path)` reads what is between them.
`import_predictions(ImportConfig(...))` imports the predictions of another program, `compare(old, new)` reports what
differs between two runs, and `gate(out, rules)` tests a run before a release. docs/python.md lists all public names.
"""

import importlib

TYPE_CHECKING = False  # type checkers know the name; importing `typing` takes 10 ms
if TYPE_CHECKING:
    from predboard.api import combine, compare, gate, import_predictions, infer, merge, take, visualize
    from predboard.comparison.compare import CompareResult
    from predboard.composition.new_step import CompositionResult
    from predboard.config import (
        CombineConfig,
        CompareConfig,
        GateConfig,
        ImportConfig,
        InferConfig,
        MergeConfig,
        TakeConfig,
        VisualizeConfig,
    )
    from predboard.errors import DamagedError, InputError
    from predboard.gating.evaluate import GateResult
    from predboard.inference.infer import InferResult
    from predboard.ingest.ingest import ImportResult
    from predboard.predictions.schema import Part, Run
    from predboard.predictions.table import Predictions
    from predboard.storage.runs import RunReader, open_predictions
    from predboard.visualization.visualize import VisualizeResult

__all__ = [
    "CombineConfig",
    "CompareConfig",
    "CompareResult",
    "CompositionResult",
    "DamagedError",
    "GateConfig",
    "GateResult",
    "ImportConfig",
    "ImportResult",
    "InferConfig",
    "InferResult",
    "InputError",
    "MergeConfig",
    "Part",
    "Predictions",
    "Run",
    "RunReader",
    "TakeConfig",
    "VisualizeConfig",
    "VisualizeResult",
    "combine",
    "compare",
    "gate",
    "import_predictions",
    "infer",
    "merge",
    "open_predictions",
    "take",
    "visualize",
]

_MODULES = {
    "CombineConfig": "config",
    "CompareConfig": "config",
    "CompareResult": "comparison.compare",
    "CompositionResult": "composition.new_step",
    "DamagedError": "errors",
    "GateConfig": "config",
    "GateResult": "gating.evaluate",
    "ImportConfig": "config",
    "ImportResult": "ingest.ingest",
    "InferConfig": "config",
    "InferResult": "inference.infer",
    "InputError": "errors",
    "MergeConfig": "config",
    "Part": "predictions.schema",
    "Predictions": "predictions.table",
    "Run": "predictions.schema",
    "RunReader": "storage.runs",
    "TakeConfig": "config",
    "VisualizeConfig": "config",
    "VisualizeResult": "visualization.visualize",
    "combine": "api",
    "compare": "api",
    "gate": "api",
    "import_predictions": "api",
    "infer": "api",
    "merge": "api",
    "open_predictions": "storage.runs",
    "take": "api",
    "visualize": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a command needs only some of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""See where your image classifier is wrong, in TensorBoard: run the model once, draw as often as you like.

    images -> Predictions -> Parquet -> Predictions -> State -> Summary -> event file
              infer          store      store          panels   panels     events

Stage one is `infer(model, dataset, out, step=epoch)` or `infer(InferConfig(...))`, stage two `visualize(out, logdir)`
or `visualize(VisualizeConfig(...))`; `open_predictions(path)` reads what is between them. Predictions made elsewhere
come in by `adopt(ImportConfig(...))`; `compare(old, new)` says what differs between two runs, and `gate(out, rules)`
tests one for a release.
"""

import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

TYPE_CHECKING = False  # type checkers know the name; `typing` takes 10 ms, in which Ctrl-C is not heard yet
if TYPE_CHECKING:
    from pipeline.adopt import adopt
    from pipeline.config import CompareConfig, GateConfig, ImportConfig, InferConfig, VisualizeConfig
    from pipeline.errors import InputError
    from pipeline.live import compare, gate, infer, visualize
    from pipeline.store import open_predictions

__all__ = [
    "CompareConfig",
    "GateConfig",
    "ImportConfig",
    "InferConfig",
    "InputError",
    "VisualizeConfig",
    "adopt",
    "compare",
    "gate",
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
    "adopt": "adopt",
    "compare": "live",
    "gate": "live",
    "infer": "live",
    "open_predictions": "store",
    "visualize": "live",
}


class _Package(ModuleType):
    """Imports a public name when it is used: a command, and each process of stage two, needs only some of all this.

    Not by a module's `__getattr__`, which is asked for what is missing alone: `infer`, `visualize` and others are there
    as modules as soon as anybody imported these.
    """

    def __getattribute__(self, name: str) -> object:
        if name in _HOMES:
            return getattr(importlib.import_module(f"pipeline.{_HOMES[name]}"), name)
        return super().__getattribute__(name)

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package

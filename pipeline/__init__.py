"""See where your image classifier is wrong, in TensorBoard: run the model once, draw as often as you like.

    images -> Predictions -> Parquet -> Predictions -> State -> Summary -> event file
              infer          store      store          panels   panels     events

Stage one is `infer(model, dataset, out, step=epoch)` or `infer(InferConfig(...))`, stage two `visualize(out, logdir)`
or `visualize(VisualizeConfig(...))`; `open_predictions(path)` reads what is between them. Predictions made elsewhere
come in by `adopt(ImportConfig(...))`; `compare(old, new)` says what differs between two runs, and `gate(out, rules)`
tests one for a release.
"""

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

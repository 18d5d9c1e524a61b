"""See where your image classifier is wrong, in TensorBoard: run the model once, draw as often as you like.

    images -> Predictions -> Parquet -> Predictions -> State -> Summary -> event file
              infer          store      store          panels   panels     events

Stage one is `infer(model, dataset, out, step=epoch)` or `infer(InferConfig(...))`, stage two `visualize(out, logdir)`
or `visualize(VisualizeConfig(...))`; `open_predictions(path)` reads what is between them.
"""

from pipeline.config import InferConfig, VisualizeConfig
from pipeline.errors import InputError
from pipeline.live import infer, visualize
from pipeline.store import open_predictions

__all__ = ["InferConfig", "InputError", "VisualizeConfig", "infer", "open_predictions", "visualize"]
